use std::path::{Path, PathBuf};

use caravan_eval::{EvalError, TaskOptions, run_task, table, task};
use caravan_model::Llama;
use caravan_tokenizer::{ByteTokenizer, Encode};

use crate::common::{log_softmax_after, model};

const CHOICES: &str = r#"{"query": "Question: What carries salt?\n", "choices": ["a llama", "the moon", "9"], "gold": 0}
{"query": "Question: dresser", "choices": ["x", "longer than x"], "gold": 1}

{"query": "Question: é?  ", "choices": ["no", "nein"], "gold": 1}
"#;

const CONTINUATIONS: &str = r#"{"context": "The caravan reached the ", "continuation": "pass"}
{"context": "A llama", "continuation": "s"}
"#;

fn write(dir: &tempfile::TempDir, text: &str) -> PathBuf {
    let path = dir.path().join("rows.jsonl");
    std::fs::write(&path, text).unwrap();
    path
}

/// `ln p(continuation | context)` and whether greedy decoding gives it, one byte after the other; the byte tokenizer's
/// ids are the bytes.
fn plain(model: &Llama, context: &str, continuation: &str) -> (f64, bool) {
    let mut ids = vec![ByteTokenizer::new().bos_id().unwrap()];
    ids.extend(context.bytes().map(u32::from));
    let (mut sum, mut greedy) = (0.0, true);
    for byte in continuation.bytes() {
        let log_probs = log_softmax_after(model, &ids[ids.len().saturating_sub(64)..]);
        sum += log_probs[byte as usize];
        greedy &= log_probs.iter().all(|p| *p <= log_probs[byte as usize]);
        ids.push(byte.into());
    }
    (sum, greedy)
}

fn best(scores: &[f64]) -> usize {
    (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b])).unwrap()
}

#[test]
fn multiple_choice_is_as_defined() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(&dir, CHOICES);
    let model = model(258, 64);
    let rows: [(&str, &[&str], usize); 3] = [
        ("Question: What carries salt?\nAnswer:", &["a llama", "the moon", "9"], 0),
        ("Question: dresser\nAnswer:", &["x", "longer than x"], 1),
        ("Question: é?\nAnswer:", &["no", "nein"], 1),
    ];
    let (mut acc, mut acc_norm) = (0.0, 0.0);
    for (prompt, choices, gold) in rows {
        let sums: Vec<f64> =
            choices.iter().map(|c| plain(&model, prompt, &format!(" {c}")).0).collect();
        let means: Vec<f64> =
            sums.iter().zip(choices).map(|(s, c)| s / c.chars().count() as f64).collect();
        acc += f64::from(u8::from(best(&sums) == gold)) / 3.0;
        acc_norm += f64::from(u8::from(best(&means) == gold)) / 3.0;
    }
    for batch_tokens in [1, 40, 1024] {
        let options = TaskOptions { batch_tokens, ..TaskOptions::default() };
        let report =
            run_task(&model, &ByteTokenizer::new(), task("piqa").unwrap(), &path, &options)
                .unwrap();
        assert!((report.metric("acc").unwrap() - acc).abs() < 1e-12, "{report:?}, expected {acc}");
        assert!(
            (report.metric("acc_norm").unwrap() - acc_norm).abs() < 1e-12,
            "{report:?}, expected {acc_norm}"
        );
        assert_eq!((report.n_items, report.n_truncated), (3, 0));
        let table = table(&[report]);
        assert!(table.contains("piqa") && table.contains("acc_norm"), "{table}");
    }
}

#[test]
fn continuation_is_as_defined() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(&dir, CONTINUATIONS);
    let model = model(258, 64);
    let rows = [("The caravan reached the", " pass"), ("A llama", " s")];
    let answers = rows.map(|(context, continuation)| plain(&model, context, continuation));
    let perplexity = (-(answers[0].0 + answers[1].0) / 2.0).exp();
    let report = run_task(
        &model,
        &ByteTokenizer::new(),
        task("lambada").unwrap(),
        &path,
        &TaskOptions::default(),
    )
    .unwrap();
    let found = report.metric("perplexity").unwrap();
    assert!((found / perplexity - 1.0).abs() < 1e-4, "{found} for {perplexity}");
    let right = answers.iter().filter(|(_, greedy)| *greedy).count() as f64 / 2.0;
    assert_eq!(report.metric("acc"), Some(right));
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["kind"], "continuation");
    assert_eq!(json["metrics"][1]["name"], "perplexity");
}

/// What greedy decoding says next is what the task must call right.
#[test]
fn greedy_text_is_recognised() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(258, 64);
    // Among all two-byte answers after a context, exactly the greedy one counts.
    let context = "Where to? ";
    let mut right = 0;
    let mut rows = String::new();
    for byte in b'!'..=b'~' {
        let row =
            serde_json::json!({"context": context, "continuation": char::from(byte).to_string()});
        rows.push_str(&format!("{row}\n"));
        right += usize::from(plain(&model, "Where to?", &format!(" {}", char::from(byte))).1);
    }
    let path = write(&dir, &rows);
    let report = run_task(
        &model,
        &ByteTokenizer::new(),
        task("continuation").unwrap(),
        &path,
        &TaskOptions::default(),
    )
    .unwrap();
    assert!((report.metric("acc").unwrap() - right as f64 / 94.0).abs() < 1e-12);
}

#[test]
fn shots_limit_and_truncation() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(&dir, CONTINUATIONS);
    let model = model(258, 64);
    let run = |shots, limit| {
        let options = TaskOptions { shots, limit, ..TaskOptions::default() };
        run_task(&model, &ByteTokenizer::new(), task("lambada").unwrap(), &path, &options)
    };
    // With two rows and one shot the example is the other row, so the prompt is known.
    let report = run(1, Some(1)).unwrap();
    let (log_prob, _) = plain(&model, "A llama s\n\nThe caravan reached the", " pass");
    let found = report.metric("perplexity").unwrap();
    assert!((found / (-log_prob).exp() - 1.0).abs() < 1e-4);
    assert_eq!((report.n_items, report.n_truncated, report.shots), (1, 0, 1));
    assert_eq!(report.metrics[0].standard_error, None);

    assert!(matches!(run(2, None), Err(EvalError::Shots { shots: 2, n_rows: 1, .. })));

    let long = "tell ".repeat(30);
    let row = serde_json::json!({"context": long, "continuation": "end"}).to_string();
    let path = write(&dir, &row);
    let report = run_task(
        &model,
        &ByteTokenizer::new(),
        task("lambada").unwrap(),
        &path,
        &TaskOptions::default(),
    )
    .unwrap();
    assert_eq!(report.n_truncated, 1);
    let (log_prob, _) = windowed(&model, long.trim_end(), " end");
    assert!((report.metric("perplexity").unwrap() / (-log_prob).exp() - 1.0).abs() < 1e-4);
    assert!(table(&[report]).contains("1 prompts were longer"));

    let row = serde_json::json!({"context": "a", "continuation": "b".repeat(64)}).to_string();
    let path = write(&dir, &format!("\n{row}"));
    let error = run_task(
        &model,
        &ByteTokenizer::new(),
        task("lambada").unwrap(),
        &path,
        &TaskOptions::default(),
    );
    assert!(matches!(
        error,
        Err(EvalError::ContinuationTooLong { ref place, found: 65, limit: 64, .. }) if place == "2"
    ));
}

/// As the harness: the last `max_seq_len` inputs, the same window for every byte of the answer.
fn windowed(model: &Llama, context: &str, continuation: &str) -> (f64, usize) {
    let ids: Vec<u32> = context.bytes().chain(continuation.bytes()).map(u32::from).collect();
    let start = ids.len() - 1 - 64;
    let log_prob = (context.len()..ids.len())
        .map(|i| log_softmax_after(model, &ids[start..i])[ids[i] as usize])
        .sum();
    (log_prob, start)
}

#[test]
fn a_bad_row_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(258, 64);
    let good = r#"{"query": "q", "choices": ["a", "b"], "gold": 0}"#;
    let run = |path: &Path| {
        let task = task("multiple_choice").unwrap();
        run_task(&model, &ByteTokenizer::new(), task, path, &TaskOptions::default()).unwrap_err()
    };
    for (bad, reason) in [
        (r#"{"query": "q", "choices": ["a", "b"], "gold": 2}"#, "gold is 2"),
        (r#"{"query": "q", "choices": ["a"], "gold": 0}"#, "1 choices"),
        (r#"{"query": "q", "choices": ["a", " "], "gold": 0}"#, "choice 1 is empty"),
        (r#"{"query": "q", "gold": 0}"#, "missing field"),
        ("not json", "not a JSON object: expected"),
    ] {
        let path = write(&dir, &format!("{good}\n\n{bad}\n"));
        let error = run(&path).to_string();
        assert!(error.contains("rows.jsonl:3: ") && error.contains(reason), "{error}");
        assert!(error.contains("\nhelp: "), "{error}");
    }
    assert!(matches!(run(&write(&dir, " \n")), EvalError::Empty { .. }));
    assert!(matches!(run(&dir.path().join("none")), EvalError::Read { .. }));
}

/// The public files in their own form, a few rows of each, with and without examples.
#[test]
#[allow(clippy::disallowed_methods)]
fn shared_task_files_are_read() {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared").to_owned();
    let root = Path::new(&std::env::var("CARAVAN_SHARED").unwrap_or(default)).join("data/eval");
    let model = model(258, 1024);
    for (name, file, n_metrics) in
        [("piqa", "piqa", 3), ("arc_easy", "arc_easy", 3), ("lambada", "lambada_openai", 2)]
    {
        let path = root.join(file).with_extension("jsonl");
        if !path.exists() {
            eprintln!("NOT RUN: shared_task_files_are_read: no {}", path.display());
            return;
        }
        for shots in [0, 2] {
            let options = TaskOptions { shots, limit: Some(3), ..TaskOptions::default() };
            let report =
                run_task(&model, &ByteTokenizer::new(), task(name).unwrap(), &path, &options)
                    .unwrap();
            assert_eq!((report.n_items, report.metrics.len()), (3, n_metrics));
        }
    }
}
