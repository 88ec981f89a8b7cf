//! Rows as people have them: every dataset's own form, tables, line ends, and what is wrong with them.

use std::path::{Path, PathBuf};

use caravan_eval::{
    EvalError, ItemDetail, TaskOptions, TaskRun, read_task_file, run_task_items, task,
};
use caravan_tokenizer::ByteTokenizer;

use crate::common::model;

fn write(dir: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn run(name: &str, path: &Path) -> Result<TaskRun, EvalError> {
    let model = model(258, 512);
    run_task_items(
        &model,
        &ByteTokenizer::new(),
        task(name).unwrap(),
        path,
        &TaskOptions::default(),
    )
}

/// Contexts, continuations and the right one, of the first row.
fn asked(name: &str, row: &str) -> (Vec<(String, String)>, usize) {
    let dir = tempfile::tempdir().unwrap();
    let run = run(name, &write(&dir, "rows.jsonl", row)).unwrap();
    match run.items[0].detail.clone() {
        ItemDetail::Choice { requests, gold, .. } => (requests, gold),
        ItemDetail::Continuation { request, .. } => (vec![request], 0),
        ItemDetail::Written { prompt, answers, .. } => (vec![(prompt, answers.join("|"))], 0),
        _ => panic!("{name}"),
    }
}

fn pairs(context: &str, continuations: &[&str]) -> Vec<(String, String)> {
    continuations.iter().map(|text| (context.to_owned(), (*text).to_owned())).collect()
}

/// A task, a row, its context, its continuations, and the right one.
pub(crate) type Case = (&'static str, &'static str, &'static str, &'static [&'static str], usize);

/// Expected prompts are what lm-evaluation-harness 0.4.13 makes of these rows; `witness.rs` asks it anew.
pub(crate) static CASES: &[Case] = &[
    (
        "piqa",
        r#"{"goal": "To dry", "sol1": "use sun", "sol2": "use rain", "label": 0}"#,
        "Question: To dry\nAnswer:",
        &[" use sun", " use rain"],
        0,
    ),
    (
        "arc_challenge",
        r#"{"question": "Why?", "choices": {"text": ["a b", "c"], "label": ["1", "2"]}, "answerKey": "2"}"#,
        "Question: Why?\nAnswer:",
        &[" a b", " c"],
        1,
    ),
    (
        "arc_easy",
        r#"{"id": "x", "question": {"stem": "Why?", "choices": [{"text": "a", "label": "A"}, {"text": "b", "label": "B"}]}, "answerKey": "B"}"#,
        "Question: Why?\nAnswer:",
        &[" a", " b"],
        1,
    ),
    (
        "openbookqa",
        r#"{"question_stem": "The sun", "choices": {"text": ["is hot", "is wet"], "label": ["A", "B"]}, "answerKey": "A"}"#,
        "The sun",
        &[" is hot", " is wet"],
        0,
    ),
    (
        "hellaswag",
        r#"{"activity_label": "Cooking", "ctx_a": "A [step] man [title] Stirs.", "ctx_b": "he THEN", "endings": [" eats [substeps] it. ", "leaves"], "label": "1"}"#,
        "Cooking: A man. Stirs. He then",
        &[" eats it.", " leaves"],
        1,
    ),
    (
        "boolq",
        r#"{"passage": "Llamas hum.", "question": "do llamas hum", "label": 1}"#,
        "Llamas hum.\nQuestion: do llamas hum?\nAnswer:",
        &[" no", " yes"],
        1,
    ),
    (
        "copa",
        r#"{"premise": "It rained.", "question": "effect", "choice1": "The road was wet.", "choice2": "I ate.", "label": 0}"#,
        "It rained therefore",
        &["  the road was wet.", "  i ate."],
        0,
    ),
    (
        "xcopa_zh",
        r#"{"premise": "下雨了。", "question": "cause", "choice1": "云", "choice2": "Sonne", "label": 1}"#,
        "下雨了 因为",
        &[" 云", " sonne"],
        1,
    ),
    (
        "mmlu",
        r#"{"question": " 1 + 1? ", "choices": ["1", "2", "3", "4"], "answer": 1, "subject": "abstract_algebra"}"#,
        "The following are multiple choice questions (with answers) about abstract algebra.\n\n1 + 1?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:",
        &[" A", " B", " C", " D"],
        1,
    ),
    (
        "lambada",
        r#"{"text": "He met Anna and kissed Anna"}"#,
        "He met Anna and kissed",
        &[" Anna"],
        0,
    ),
    (
        "gsm8k",
        r#"{"question": "1+1?", "answer": "It is 2\n#### 2"}"#,
        "Question: 1+1?\nAnswer:",
        &["It is 2\n#### 2"],
        0,
    ),
    (
        "xquad_zh",
        r#"{"context": "甲", "question": "乙?", "answers": {"text": ["甲"], "answer_start": [0]}}"#,
        "语境: 甲\n\n问题: 乙?\n\n回答:",
        &["甲"],
        0,
    ),
    (
        "squad",
        r#"{"title": "T", "context": "C", "question": "Q?", "answers": {"text": ["x", "y"], "answer_start": [0, 1]}}"#,
        "Title: T\n\nBackground: C\n\nQuestion: Q?\n\nAnswer:",
        &["x|y"],
        0,
    ),
];

#[test]
fn prompts_are_those_of_the_harness() {
    for (name, row, context, continuations, gold) in CASES {
        assert_eq!(asked(name, row), (pairs(context, continuations), *gold), "{name}");
    }
    let row = r#"{"sentence": "Ann saw Sue but _ was late.", "option1": "Ann", "option2": "Sue", "answer": "2"}"#;
    let expected = ["Ann saw Sue but Ann", "Ann saw Sue but Sue"]
        .map(|c| (c.to_owned(), " was late.".to_owned()));
    assert_eq!(asked("winogrande", row), (expected.to_vec(), 1));
}

#[test]
fn tables_and_line_ends() {
    let dir = tempfile::tempdir().unwrap();
    let rows = "\u{feff}query,choices,gold\r\n\"a \"\"q\"\"\nsecond, line\",\"[\"\"x\"\",\"\"y\"\"]\",B\r\n";
    let found = run("multiple_choice", &write(&dir, "rows.csv", rows)).unwrap();
    let ItemDetail::Choice { requests, gold, .. } = &found.items[0].detail else { panic!() };
    assert_eq!((requests, *gold), (&pairs("a \"q\"\nsecond, line", &[" x", " y"]), 1));
    // The exam's own files have no header.
    let found =
        run("mmlu", &write(&dir, "anatomy.csv", "\"Where, is it?\",here,there,9,no,C\n")).unwrap();
    let ItemDetail::Choice { requests, gold, .. } = &found.items[0].detail else { panic!() };
    assert_eq!(requests[0].0, "Where, is it?\nA. here\nB. there\nC. 9\nD. no\nAnswer:");
    assert_eq!(*gold, 2);
    let rows = "context\tcontinuation\r\nsay \"hi\" and\t\"bye\r\n";
    let found = run("continuation", &write(&dir, "rows.tsv", rows)).unwrap();
    let ItemDetail::Continuation { request, .. } = &found.items[0].detail else { panic!() };
    assert_eq!(request, &("say \"hi\" and".to_owned(), " \"bye".to_owned()));
    let rows = "[{\"context\": \"a\", \"continuation\": \"b\"},\n {\"context\": \"c\", \"continuation\": \"d\"}]";
    assert_eq!(run("lambada", &write(&dir, "rows.json", rows)).unwrap().report.n_items, 2);
}

#[test]
fn equal_choices_score_equally_and_the_first_counts() {
    let dir = tempfile::tempdir().unwrap();
    let row = r#"{"query": "q", "choices": ["same", "same", "other words"], "gold": 1}"#;
    let found = run("multiple_choice", &write(&dir, "rows.jsonl", row)).unwrap();
    let ItemDetail::Choice { log_probs, predicted, .. } = &found.items[0].detail else { panic!() };
    assert_eq!(log_probs[0], log_probs[1]);
    assert_ne!(*predicted, 1);
}

#[test]
fn what_is_wrong_is_named() {
    let dir = tempfile::tempdir().unwrap();
    for (name, file, text, expected) in [
        (
            "piqa",
            "a.jsonl",
            "{\"goal\": \"g\", \"sol1\": \"a\", \"sol2\": \"b\", \"label\": 0}\r\n\r\n{\"goal\": \"g\", \"sol1\": \"a\", \"label\": 0}\r\n",
            "a.jsonl:3: missing field `sol2`; found: goal, sol1, label",
        ),
        (
            "piqa",
            "a.jsonl",
            "{\"goal\": \"g\", \"sol1\": \"a\", \"sol2\": \"b\", \"label\": -1}",
            "a.jsonl:1: field `label`: is -1: this split has no labels",
        ),
        (
            "piqa",
            "a.jsonl",
            "{\"goal\": \"g\", \"sol1\": \"a\", \"sol2\": \" \", \"label\": 1}",
            "a.jsonl:1: field `sol2`: is empty",
        ),
        (
            "arc_easy",
            "a.jsonl",
            "{\"question\": \"q\", \"choices\": {\"text\": [\"a\", \"b\"], \"label\": [\"A\"]}, \"answerKey\": \"A\"}",
            "field `choices`: 2 texts but 1 labels",
        ),
        (
            "arc_easy",
            "a.jsonl",
            "{\"question\": \"q\", \"choices\": {\"text\": [\"a\", \"b\"], \"label\": [\"A\", \"B\"]}, \"answerKey\": \"E\"}",
            "field `answerKey`: is \"E\", expected one of A, B",
        ),
        (
            "hellaswag",
            "a.jsonl",
            "{\"activity_label\": \"x\", \"ctx_a\": \"a\", \"ctx_b\": \"b\", \"endings\": [], \"label\": 0}",
            "field `endings`: 0 choices",
        ),
        (
            "hellaswag",
            "a.jsonl",
            "{\"activity_label\": \"x\", \"ctx_a\": \"a\", \"ctx_b\": \"b\", \"endings\": [\"a\", \"[x]\"], \"label\": 0}",
            "field `endings`: choice 1 is empty",
        ),
        (
            "winogrande",
            "a.jsonl",
            "{\"sentence\": \"no gap\", \"option1\": \"a\", \"option2\": \"b\", \"answer\": \"1\"}",
            "field `sentence`: has no gap `_`",
        ),
        (
            "winogrande",
            "a.jsonl",
            "{\"sentence\": \"a _ b\", \"option1\": \"a\", \"option2\": \"b\", \"answer\": \"\"}",
            "field `answer`: is \"\", expected 1 or 2",
        ),
        (
            "boolq",
            "a.jsonl",
            "{\"passage\": \"p\", \"question\": \"q\", \"answer\": 2}",
            "field `answer`: is \"2\"",
        ),
        (
            "copa",
            "a.jsonl",
            "{\"premise\": \"p.\", \"question\": \"why\", \"choice1\": \"a\", \"choice2\": \"b\", \"label\": 0}",
            "field `question`: is \"why\", expected cause or effect",
        ),
        (
            "mmlu",
            "a.csv",
            "q,1,2,3,4,E\n",
            "a.csv:1: field `answer`: is \"E\", expected A, B, C or D",
        ),
        (
            "mmlu",
            "a.csv",
            "q,1,2,3,4,A\nq,1,2,3\n",
            "a.csv:2: 4 cells, expected 6 (question, A, B, C, D, answer)",
        ),
        ("lambada", "a.jsonl", "{\"text\": \"word\"}", "field `text`: has no last word"),
        (
            "continuation",
            "a.csv",
            "context,continuation\n\nx,y\nz\n",
            "a.csv:4: 1 cells, expected 2",
        ),
        (
            "continuation",
            "a.csv",
            "context,context\nx,y\n",
            "a.csv:1: two columns are called `context`",
        ),
        (
            "gsm8k",
            "a.jsonl",
            "{\"question\": \"q\", \"answer\": null}",
            "field `answer`: expected text, found null",
        ),
        (
            "squad",
            "a.json",
            "{\"data\": [{\"paragraphs\": [{\"context\": \"c\", \"qas\": [{\"question\": \"q\"}]}]}]}",
            "a.json:data[0].paragraphs[0].qas[0]: missing field `answers`",
        ),
        (
            "squad",
            "a.json",
            "{\"data\": [{\"title\": \"t\"}]}",
            "a.json:data[0]: missing field `paragraphs`",
        ),
        (
            "multiple_choice",
            "a.jsonl",
            "{\"query\": \"q\", \"choices\": [\"a\", \"b\"], \"gold\": \"c\"}",
            "field `gold`: gold is \"c\", which is neither",
        ),
        (
            "multiple_choice",
            "a.jsonl",
            "[1]",
            "a.jsonl:entry 0: expected an object, found a number",
        ),
    ] {
        let error = run(name, &write(&dir, file, text)).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("\nhelp: "), "{name}: {error}");
    }
    std::fs::write(dir.path().join("latin.jsonl"), b"{}\n\xe9").unwrap();
    let error = run("piqa", &dir.path().join("latin.jsonl")).unwrap_err().to_string();
    assert!(error.contains("latin.jsonl:2: byte 3 is not valid UTF-8 (found 0xe9)"), "{error}");
}

#[test]
fn own_tasks_come_from_a_toml_file() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir, "rows.tsv", "what\tone\ttwo\tright\nsky\tblue\tgreen\t2\n");
    let toml = "name = \"colours\"\nkind = \"multiple_choice\"\nfile = \"rows.tsv\"\nquery = \"The {{what}} is\\n\"\nchoices = [\"{{one}}\", \"{{two | upper}}\"]\ngold = \"right\"\ngold_from = 1\nmetrics = [\"acc\"]\ndescription = \"Colours.\\n\"\n";
    let own = read_task_file(&write(&dir, "own.toml", toml)).unwrap();
    let model = model(258, 512);
    let run = |own: &caravan_eval::TaskFile| {
        run_task_items(&model, &ByteTokenizer::new(), &own.task, &own.file, &TaskOptions::default())
    };
    let found = run(&own).unwrap();
    let ItemDetail::Choice { requests, gold, .. } = &found.items[0].detail else { panic!() };
    assert_eq!((requests, *gold), (&pairs("Colours.\nThe sky is\n", &[" blue", " GREEN"]), 1));
    assert_eq!(found.report.metrics.len(), 1);

    write(&dir, "rows.jsonl", "{\"q\": \"Say\", \"all\": [\"x\", \"y\"], \"n\": 0}");
    let list = "name = \"l\"\nkind = \"multiple_choice\"\nfile = \"rows.jsonl\"\nquery = \"{{q}}\"\nchoices = \"{{ all }}\"\ngold = \"n\"\n";
    let found = run(&read_task_file(&write(&dir, "list.toml", list)).unwrap()).unwrap();
    assert_eq!(found.report.metrics.len(), 3);
    let missing = list.replace("{{q}}", "{{nothing}}");
    let error =
        run(&read_task_file(&write(&dir, "m.toml", &missing)).unwrap()).unwrap_err().to_string();
    assert!(error.contains("rows.jsonl:1: missing field `nothing`; found: q, all, n"), "{error}");

    for (from, to, expected) in [
        ("gold = \"n\"\n", "", "`gold` is missing"),
        ("kind = \"multiple_choice\"", "kind = \"choice\"", "line 2: unknown variant `choice`"),
        ("name = \"l\"", "nam = \"l\"", "line 1: unknown field `nam`"),
        (
            "gold = \"n\"\n",
            "gold = \"n\"\nanswer = \"x\"\n",
            "`answer` means nothing for this kind",
        ),
        ("gold = \"n\"\n", "gold = \"n\"\nstop = [\"x\"]\n", "`stop` means nothing for this kind"),
        ("gold = \"n\"\n", "gold = \"n\"\nmetrics = [\"f1\"]\n", "unknown metric \"f1\""),
        ("\"{{q}}\"", "\"{{q\"", "template \"{{q\""),
    ] {
        let bad = list.replace(from, to);
        let error = read_task_file(&write(&dir, "bad.toml", &bad)).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("bad.toml"), "{expected}: {error}");
        assert!(error.contains("\nhelp: "), "{error}");
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(&dir, "a.txt", "some text");
    let model = model(258, 64);
    for (options, expected) in [
        (TaskOptions { limit: Some(0), ..TaskOptions::default() }, "a limit of 0"),
        (TaskOptions { shots: 1, ..TaskOptions::default() }, "whole texts have no examples"),
    ] {
        let task = task("perplexity").unwrap();
        let error = run_task_items(&model, &ByteTokenizer::new(), task, &path, &options);
        assert!(error.unwrap_err().to_string().contains(expected));
    }
}

/// What a model writes is compared with what the same model writes: right by construction, wrong for another answer.
#[test]
fn written_answers_are_scored() {
    let dir = tempfile::tempdir().unwrap();
    let row = |answer: &str| {
        serde_json::json!({"prompt": "The caravan", "answers": [answer, "zz"]}).to_string()
    };
    let first = run("generation", &write(&dir, "a.jsonl", &row("nothing like it"))).unwrap();
    let ItemDetail::Written { written, .. } = &first.items[0].detail else { panic!() };
    assert_eq!(first.report.metric("exact_match"), Some(0.0));
    assert!(!written.contains('\n') && !written.is_empty(), "{written:?}");
    let second = run("generation", &write(&dir, "a.jsonl", &row(written))).unwrap();
    assert_eq!(second.report.metric("exact_match"), Some(1.0));
}

#[test]
fn whole_texts_are_rolled() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(258, 16);
    let text = "a caravan of llamas crosses the high pass";
    let options = TaskOptions::default();
    let path = write(&dir, "a.txt", text);
    let report =
        run_task_items(&model, &ByteTokenizer::new(), task("perplexity").unwrap(), &path, &options)
            .unwrap()
            .report;
    // The harness's windows, 16 inputs each: the last one is moved back to be full.
    let ids: Vec<u32> = std::iter::once(256).chain(text.bytes().map(u32::from)).collect();
    let n = ids.len() - 1;
    let nats: f64 = (0..n)
        .map(|target| {
            let end = (target / 16 * 16 + 16).min(n);
            let start = end.saturating_sub(16);
            -crate::common::log_softmax_after(&model, &ids[start..=target])
                [ids[target + 1] as usize]
        })
        .sum();
    for (name, expected) in [
        ("bits_per_byte", nats / n as f64 / std::f64::consts::LN_2),
        ("byte_perplexity", (nats / n as f64).exp()),
        ("perplexity", (nats / n as f64).exp()),
        ("word_perplexity", (nats / 8.0).exp()),
    ] {
        let found = report.metric(name).unwrap();
        assert!((found / expected - 1.0).abs() < 1e-4, "{name}: {found} for {expected}");
    }
}
