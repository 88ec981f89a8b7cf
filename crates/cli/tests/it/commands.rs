//! Every command on one tiny run.

use crate::support::{caravan, folder, ok, train_args};

#[test]
fn from_text_to_text() {
    let (_guard, dir) = folder();
    ok(&dir, &train_args("run", &["eval_every=10"]));
    for file in [
        "config.toml",
        "tokenizer.model",
        "metrics.jsonl",
        "loss.svg",
        "report.md",
        "checkpoints/LATEST",
        "export/config.json",
    ] {
        assert!(dir.join("run").join(file).exists(), "{file}");
    }
    let generate = |args: &[&str]| {
        let base = ["generate", "--prompt", "The fox", "--max-tokens", "6"];
        ok(&dir, &base.iter().chain(args).copied().collect::<Vec<_>>())
    };
    let from_run = generate(&["--run", "run", "--temperature", "0"]);
    assert!(from_run.starts_with("The fox"), "{from_run}");
    assert_eq!(
        from_run,
        generate(&["--model", "run/export", "--temperature", "0"]),
        "the export is the same model"
    );
    assert_eq!(
        generate(&["--run", "run", "--seed", "7"]),
        generate(&["--run", "run", "--seed", "7"])
    );

    let eval = ok(&dir, &["eval", "--run", "run", "--text", "text.txt", "--json", "eval.json"]);
    assert!(eval.contains("bits per byte"), "{eval}");
    let json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(dir.join("eval.json")).unwrap()).unwrap();
    let bits = json["text"]["text.txt"]["bits_per_byte"].as_f64().unwrap();
    assert!(bits > 0.1 && bits < 8.0, "{bits}");

    std::fs::write(dir.join("ids.json"), r#"{"input_ids": [[1, 5, 9, 30], [1, 7]]}"#).unwrap();
    let ids: serde_json::Value =
        serde_json::from_str(&ok(&dir, &["eval", "--run", "run", "--ids", "ids.json"])).unwrap();
    assert!(ids.to_string().contains("log"), "{ids}");

    ok(&dir, &["export", "--run", "run", "--out", "hf", "--dtype", "bf16"]);
    assert!(dir.join("hf/model.safetensors").exists() && dir.join("hf/tokenizer.model").exists());

    // Many prompts in one batch: each as it would be alone.
    std::fs::write(dir.join("prompts.jsonl"), "\"The fox\"\n\"A dog\"\n").unwrap();
    let texts = ok(
        &dir,
        &[
            "generate",
            "--run",
            "run",
            "--prompts",
            "prompts.jsonl",
            "--max-tokens",
            "6",
            "--temperature",
            "0",
        ],
    );
    let texts: Vec<serde_json::Value> =
        texts.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(texts.len(), 2);
    let whole = format!("The fox{}\n", texts[0]["text"].as_str().unwrap());
    assert_eq!(whole, from_run);

    let chat = caravan(&dir, &["chat", "--run", "run"]);
    let text = String::from_utf8_lossy(&chat.stderr).into_owned();
    assert!(!chat.status.success() && text.contains("--chat-template plain"), "{text}");
}

#[test]
fn a_run_becomes_a_classifier() {
    let (_guard, dir) = folder();
    ok(&dir, &train_args("run", &["steps=2"]));
    let rows = |from: usize, to: usize| -> String {
        let row = |i: usize| match i % 2 {
            0 => format!("{i} good good\tup\n"),
            _ => format!("{i} bad bad\tdown\n"),
        };
        (from..to).map(row).collect()
    };
    std::fs::write(dir.join("train.tsv"), rows(0, 64)).unwrap();
    std::fs::write(dir.join("dev.tsv"), rows(64, 84)).unwrap();
    let train = [
        "finetune",
        "classify",
        "--run",
        "run",
        "--train",
        "train.tsv",
        "--dev",
        "dev.tsv",
        "--out",
        "c",
        "method=full",
        "peak_lr=3e-3",
        "epochs=4",
        "batch=8",
        "evals_per_epoch=1",
        "truncate=head",
    ];
    let said = ok(&dir, &train);
    assert!(said.contains("accuracy 1.0000"), "{said}");
    for file in
        ["classifier.json", "weights.safetensors", "metrics.jsonl", "report.md", "confusion.svg"]
    {
        assert!(dir.join("c").join(file).exists(), "{file}");
    }
    let again = caravan(&dir, &train);
    let text = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(
        !again.status.success() && text.contains("`c` already holds a `classifier.json`"),
        "{text}"
    );
    std::fs::write(dir.join("new.txt"), "99 good good\n98 bad bad\n").unwrap();
    let labels = ok(&dir, &["finetune", "predict", "--classifier", "c", "--texts", "new.txt"]);
    let labels: Vec<serde_json::Value> =
        labels.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        (labels[0]["label"].as_str(), labels[1]["label"].as_str()),
        (Some("up"), Some("down"))
    );
}

#[test]
fn tokenizer_and_data() {
    let (_guard, dir) = folder();
    ok(
        &dir,
        &["tokenizer", "train", "--text", "text.txt", "--vocab-size", "320", "--out", "t.model"],
    );
    assert!(ok(&dir, &["tokenizer", "info", "--tokenizer", "t.model"]).contains("320"));
    let ids = ok(&dir, &["tokenizer", "encode", "--tokenizer", "t.model", "text.txt"]);
    std::fs::write(dir.join("ids.jsonl"), &ids).unwrap();
    let text = ok(&dir, &["tokenizer", "decode", "--tokenizer", "t.model", "ids.jsonl"]);
    assert_eq!(text, std::fs::read_to_string(dir.join("text.txt")).unwrap());

    ok(&dir, &["data", "build", "--tokenizer", "t.model", "--text", "text.txt", "--out", "shards"]);
    ok(&dir, &["data", "verify", "--data", "shards"]);
    assert!(
        ok(
            &dir,
            &["data", "inspect", "--data", "shards", "--document", "0", "--tokenizer", "t.model"]
        )
        .contains("The")
    );
    let batch = |step: &str| {
        ok(
            &dir,
            &[
                "data",
                "batch",
                "--data",
                "shards",
                "--step",
                step,
                "seq_len=16",
                "global_batch=4",
                "micro_batch=4",
            ],
        )
    };
    let first: Vec<serde_json::Value> =
        batch("1").lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(first.len(), 4);
    assert_eq!(first[0]["tokens"].as_array().unwrap().len(), 17);
    assert_eq!(batch("1000000"), batch("1000000"));
}

#[test]
fn a_run_is_not_overwritten_and_words_are_checked() {
    let (_guard, dir) = folder();
    ok(&dir, &train_args("run", &["steps=2"]));
    let again = caravan(&dir, &train_args("run", &["steps=2"]));
    let text = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(
        !again.status.success() && text.contains("already holds a run") && text.contains("help:"),
        "{text}"
    );
}
