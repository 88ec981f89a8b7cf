//! The same numbers by transformers and by lm-evaluation-harness, where Python has them.

use std::path::Path;
use std::process::Command;

use burn::tensor::Device;
use caravan_eval::{ItemDetail, TaskOptions, TaskRun, run_task_items, task};
use caravan_model::{Kernels, load_hf};
use caravan_tokenizer::Tokenizer;

use crate::forms::CASES;

/// Runs a script of `tests/python` and returns its lines of JSON, or says that it was not run.
#[allow(clippy::disallowed_methods)] // the tests' one look at the environment
fn python(test: &str, script: &str, arguments: &[&str]) -> Option<Vec<serde_json::Value>> {
    let Ok(interpreter) = std::env::var("CARAVAN_PYTHON") else {
        eprintln!("NOT RUN: {test}: no Python (CARAVAN_PYTHON)");
        return None;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(script);
    let output = Command::new(interpreter).arg("-B").arg(script).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    if text.starts_with("NO HARNESS") {
        eprintln!("NOT RUN: {test}: this Python has no lm_eval");
        return None;
    }
    let json = text.lines().filter(|line| line.starts_with('['));
    Some(json.map(|line| serde_json::from_str(line).unwrap()).collect())
}

/// Rows with long and short contexts, some longer than the model's, joined borders, and equal choices.
fn rows() -> String {
    let words = ["pass", "salt flat", "the high pass and then", "s", "caravan of llamas", "é"];
    let mut rows = String::new();
    for i in 0..40usize {
        let query = (0..i % 23).map(|k| words[(i * 7 + k * 5) % 6]).collect::<Vec<_>>().join(" ");
        let choices: Vec<&str> =
            (0..2 + i % 3).map(|k| words[(i * 3 + k * (1 + i % 2)) % 6]).collect();
        let row = serde_json::json!({"query": format!("Q {query}{}", " \n".repeat(i % 3)), "choices": choices, "gold": 0});
        rows.push_str(&format!("{row}\n"));
    }
    rows
}

#[test]
fn log_likelihoods_are_those_of_transformers() {
    let test = "log_likelihoods_are_those_of_transformers";
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_str().unwrap();
    if python(test, "score.py", &["tiny", folder]).is_none() {
        return;
    }
    let (rows_path, items) = (dir.path().join("rows.jsonl"), dir.path().join("items.jsonl"));
    std::fs::write(&rows_path, rows()).unwrap();
    let tokenizer = Tokenizer::load(dir.path()).unwrap();
    let (model, _) = load_hf(dir.path(), Kernels::Fused, &Device::flex()).unwrap();
    let mut all = Vec::new();
    for (shots, batch_tokens) in [(0, 2048), (0, 1), (2, 100)] {
        let options = TaskOptions { shots, batch_tokens, ..TaskOptions::default() };
        let TaskRun { items: found, report } =
            run_task_items(&model, &tokenizer, task("piqa").unwrap(), &rows_path, &options)
                .unwrap();
        assert!(shots == 0 || report.n_truncated > 5, "{report:?}");
        all.extend(found);
    }
    let lines: Vec<String> = all.iter().map(|item| serde_json::to_string(item).unwrap()).collect();
    std::fs::write(&items, lines.join("\n")).unwrap();
    let expected = python(test, "score.py", &["score", folder, items.to_str().unwrap()]).unwrap();
    assert_eq!((all.len(), expected.len()), (120, 120));
    for (item, expected) in all.iter().zip(expected) {
        let ItemDetail::Choice { log_probs, greedy, .. } = &item.detail else { panic!() };
        let expected: Vec<(f64, bool)> = serde_json::from_value(expected).unwrap();
        assert_eq!(log_probs.len(), expected.len());
        for ((found, is_greedy), (log_prob, expected)) in log_probs.iter().zip(greedy).zip(expected)
        {
            // Both in f32: a few units in the last place of logits below 30, added up over up to 30 tokens.
            assert!((found - log_prob).abs() < 2e-4, "{item:?}: {log_prob}");
            assert_eq!(*is_greedy, expected, "{item:?}");
        }
    }
}

#[test]
fn prompts_are_what_the_harness_makes() {
    let test = "prompts_are_what_the_harness_makes";
    let dir = tempfile::tempdir().unwrap();
    // The harness reads arc_easy in the form of Hugging Face alone; ours has AI2's too.
    let cases: Vec<_> =
        CASES.iter().filter(|case| !["arc_easy", "squad"].contains(&case.0)).collect();
    let line = |case: &&&crate::forms::Case| {
        let row: serde_json::Value = serde_json::from_str(case.1).unwrap();
        serde_json::json!({"task": case.0, "row": row}).to_string()
    };
    let file = dir.path().join("cases.jsonl");
    std::fs::write(&file, cases.iter().map(|case| line(&case)).collect::<Vec<_>>().join("\n"))
        .unwrap();
    let Some(expected) = python(test, "harness.py", &["prompts", file.to_str().unwrap()]) else {
        return;
    };
    assert_eq!(expected.len(), cases.len());
    for ((name, _, context, continuations, _), expected) in cases.into_iter().zip(expected) {
        let expected: Vec<(String, String)> = serde_json::from_value(expected).unwrap();
        for (expected, continuation) in expected.iter().zip(*continuations) {
            assert_eq!(expected.0, *context, "{name}");
            assert!(expected.1.is_empty() || expected.1 == *continuation, "{name}: {expected:?}");
        }
    }
}

#[test]
fn answers_are_scored_as_by_the_harness() {
    let test = "answers_are_scored_as_by_the_harness";
    let dir = tempfile::tempdir().unwrap();
    let texts = [
        "The 308 points.",
        "308",
        "a 308-point, lead",
        "",
        "the an",
        "三次强迫掉球。",
        "三次掉球 NFL",
        "NFL联赛（2）",
        "Los niños «el»",
        "niños",
        "der Hund",
        "#### 1,308.",
        "so #### -5 #### 7.",
        "It costs $18.50.",
        "5 and 6,",
    ];
    let mut lines = Vec::new();
    let mut found = Vec::new();
    for language in ["en", "zh", "es", "de", "vi", "hi", "ar"] {
        for (i, written) in texts.iter().enumerate() {
            for answer in &texts[i % 3..] {
                lines.push(
                    serde_json::json!({"language": language, "written": written, "answer": answer})
                        .to_string(),
                );
                found.push(caravan_eval::score_answer(language, written, answer).unwrap());
            }
        }
    }
    let file = dir.path().join("answers.jsonl");
    std::fs::write(&file, lines.join("\n")).unwrap();
    let Some(expected) = python(test, "harness.py", &["answers", file.to_str().unwrap()]) else {
        return;
    };
    assert_eq!(expected.len(), found.len());
    for ((found, expected), line) in found.iter().zip(expected).zip(lines) {
        let mut expected: [f64; 4] = serde_json::from_value(expected).unwrap();
        // Two answers without words are equal; MLQA's script says so in one of its two numbers only.
        expected[1] = expected[1].max(expected[0]);
        assert!(
            found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12),
            "{line}: {found:?}, expected {expected:?}"
        );
    }
}
