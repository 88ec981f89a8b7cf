//! One clear error for every mistake: what was expected, what was found, what to do.

use std::path::Path;

use crate::support::{folder, ok, refused, train_args};

#[test]
fn settings() {
    let (_guard, dir) = folder();
    let train =
        |word: &'static str, words: &[&str]| refused(&dir, &train_args("run", &[word]), words);
    train("stepz=3", &["unknown key `stepz`", "did you mean `steps`"]);
    train("steps=soon", &["`steps`", "soon"]);
    train("steps=0", &["steps = 0"]);
    train("micro_batch=4", &["global_batch = 6", "micro_batch = 4"]);
    train("n_kv_heads=3", &["n_kv_heads"]);
    train("preset=9m", &["9m"]);
    train("schedule=cosin", &["cosin", "cosine"]);
    train("val_fraction=1.5", &["val_fraction"]);
    train("dtype=f8", &["f8"]);
    train("tensor_parallel=2", &["1 rank,", "tensor_parallel 2"]);
    train("memory_limit=1MB", &["memory_limit", "predicted"]);
    train("memory_limit=lots", &["memory_limit", "lots"]);
    train("seq_len=1000000", &["1000000"]);
    train("vocab_size=100", &["100"]);
    train("vocab_size=50000", &["50000"]);
    train("warmup_steps=99", &["warmup"]);
    train("packing=tight", &["tight", "best_fit"]);
    train("tokenizer=absent.model", &["absent.model"]);
    std::fs::write(dir.join("c.toml"), "[run]\nsteps = \n").unwrap();
    refused(&dir, &["train", "--config", "c.toml", "--text", "text.txt"], &["c.toml", "line 2"]);
    refused(&dir, &["train", "--config", "absent.toml"], &["absent.toml"]);
    assert!(!dir.join("run").join("config.toml").exists(), "nothing was started");
}

#[test]
fn texts() {
    let (_guard, dir) = folder();
    let train = |path: &str, words: &[&str]| {
        let mut args = train_args("run", &[]);
        args[2] = path;
        refused(&dir, &args, words);
    };
    train("absent.txt", &["absent.txt"]);
    std::fs::write(dir.join("empty.txt"), "").unwrap();
    train("empty.txt", &["empty.txt"]);
    std::fs::create_dir(dir.join("folder")).unwrap();
    train("folder", &["folder"]);
    train("*.nothing", &["*.nothing"]);
    std::fs::write(dir.join("latin.txt"), b"caf\xe9 au lait\n").unwrap();
    train("latin.txt", &["latin.txt", "3"]);
    std::fs::write(dir.join("bad.jsonl"), "{\"text\": \"fine\"}\n{\"text\": oops}\n").unwrap();
    train("bad.jsonl", &["bad.jsonl", "2"]);
    std::fs::write(dir.join("field.jsonl"), "{\"txt\": \"fine\"}\n").unwrap();
    train("field.jsonl", &["field.jsonl", "text"]);
    std::fs::write(dir.join("cut.txt.gz"), [0x1f, 0x8b, 8, 0, 0, 0, 0, 0]).unwrap();
    train("cut.txt.gz", &["cut.txt.gz"]);
    std::fs::write(dir.join("not.parquet"), "PAR0").unwrap();
    train("not.parquet", &["not.parquet"]);
}

#[test]
fn damaged_files() {
    let (_guard, dir) = folder();
    ok(&dir, &train_args("run", &["steps=4", "checkpoint_every=2"]));
    let flip = |path: &Path, at: usize| {
        let mut bytes = std::fs::read(path).unwrap();
        let at = at.min(bytes.len() - 1);
        bytes[at] ^= 0x10;
        std::fs::write(path, bytes).unwrap();
    };
    let latest = std::fs::read_to_string(dir.join("run/checkpoints/LATEST")).unwrap();
    let checkpoint = dir.join("run/checkpoints").join(latest.lines().next().unwrap());
    let tensors = checkpoint.join("rank-00000.safetensors");
    let good = std::fs::read(&tensors).unwrap();
    flip(&tensors, good.len() / 2);
    let generate = ["generate", "--run", "run", "--prompt", "The"];
    refused(&dir, &generate, &["rank-00000.safetensors"]);
    refused(&dir, &["train", "--resume", "--out", "run"], &["rank-00000.safetensors"]);
    std::fs::write(&tensors, &good[..good.len() / 2]).unwrap();
    refused(&dir, &generate, &["rank-00000.safetensors"]);
    std::fs::write(&tensors, &good).unwrap();
    ok(&dir, &generate);
    let manifest = checkpoint.join("manifest.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, "{").unwrap();
    refused(&dir, &generate, &["manifest.json"]);
    std::fs::write(&manifest, text).unwrap();

    ok(
        &dir,
        &[
            "tokenizer",
            "train",
            "--text",
            "text.txt",
            "--vocab-size",
            "310",
            "--out",
            "other.model",
        ],
    );
    ok(
        &dir,
        &["data", "build", "--tokenizer", "other.model", "--text", "text.txt", "--out", "shards"],
    );
    let shard = std::fs::read_dir(dir.join("shards"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.extension().is_some_and(|e| e == "shard"))
        .unwrap();
    let good = std::fs::read(&shard).unwrap();
    flip(&shard, good.len() / 2);
    refused(&dir, &["data", "verify", "--data", "shards"], &[".shard"]);
    std::fs::write(&shard, &good[..good.len() - 9]).unwrap();
    refused(&dir, &["data", "inspect", "--data", "shards"], &[".shard"]);
    std::fs::copy(dir.join("other.model"), dir.join("run/tokenizer.model")).unwrap();
    refused(&dir, &generate, &["tokenizer"]);
    std::fs::write(dir.join("run/tokenizer.model"), "junk").unwrap();
    refused(&dir, &generate, &["tokenizer.model"]);
}

#[test]
fn places() {
    let (_guard, dir) = folder();
    refused(&dir, &["generate", "--run", "nowhere", "--prompt", "x"], &["nowhere"]);
    refused(&dir, &["generate", "--model", "nowhere", "--prompt", "x"], &["nowhere"]);
    refused(&dir, &["train", "--resume", "--out", "nowhere"], &["nowhere", "no run to resume"]);
    std::fs::create_dir(dir.join("full")).unwrap();
    std::fs::write(dir.join("full/thesis.txt"), "mine").unwrap();
    refused(&dir, &train_args("full", &[]), &["full", "thesis.txt"]);
    refused(&dir, &train_args("run", &["--device", "abacus"]), &["abacus"]);
    refused(&dir, &train_args("run", &["--device", "cuda"]), &["cuda"]);
    refused(
        &dir,
        &train_args("run", &["--ranks", "2"]),
        &["global_batch = 6", "data_parallel = 4"],
    );
    refused(&dir, &["data", "verify", "--data", "nowhere"], &["nowhere"]);
    refused(&dir, &["train"], &["no text"]);
}

#[test]
fn tuning_and_stages() {
    let (_guard, dir) = folder();
    ok(&dir, &train_args("run", &["steps=1"]));
    std::fs::write(dir.join("a.tsv"), "one\tup\ntwo\tdown\n").unwrap();
    std::fs::write(dir.join("q.jsonl"), "{\"question\": \"Q\"}\n").unwrap();
    std::fs::write(dir.join("c.jsonl"), "{\"prompt\": \"Q\", \"completion\": \"A\"}\n").unwrap();
    let tune = |kind: &'static str, file: &str, more: &[&str], words: &[&str]| {
        let args = ["finetune", kind, "--run", "run", "--train", file, "--dev", file];
        let args: Vec<&str> = args.iter().chain(&["--out", "c"]).chain(more).copied().collect();
        refused(&dir, &args, words);
    };
    tune("classify", "a.tsv", &["epoch=3"], &["epoch = 3", "there is no such key"]);
    tune("classify", "a.tsv", &["class_weights=far:2"], &["no class `far`", "down:1,up:2"]);
    tune("classify", "a.tsv", &["pool=max"], &["pool = max", "last, mean"]);
    tune("classify", "a.tsv", &["--ranks", "3", "micro_batch=8"], &["3 data-parallel ranks"]);
    tune("classify", "a.tsv", &["tensor_parallel=5", "--ranks", "5"], &["= 5 does not divide"]);
    tune("classify", "a.tsv", &["--adapter", "x"], &["--adapter x", "caravan export"]);
    tune("instruct", "q.jsonl", &[], &["`q.jsonl` line 1", "question"]);
    tune("instruct", "c.jsonl", &[], &["no chat template", "--chat-template"]);
    tune("instruct", "c.jsonl", &["--chat-template", "raw", "seq_len=2"], &["line 1 has"]);
    tune("instruct", "c.jsonl", &["--chat-template", "raw", "pool=mean"], &["for classifiers"]);
    assert!(!dir.join("c").exists(), "a run that was refused left something behind");
    std::fs::create_dir_all(dir.join("c/state")).unwrap();
    tune("classify", "a.tsv", &[], &["was interrupted", "--resume"]);
    refused(&dir, &["generate", "--model", "hf:nobody", "--prompt", "x"], &["`nobody`"]);
    refused(
        &dir,
        &["generate", "--run", "run", "--adapter", "absent", "--prompt", "x"],
        &["absent"],
    );
    std::fs::write(dir.join("s.toml"), "[[stages]]\nunit = \"word\"\nsteps = 3\n").unwrap();
    let train = ["train", "--config", "s.toml", "--text", "text.txt", "--out", "s"];
    refused(&dir, &train, &["s.toml", "stages[0]", "word", "sentence"]);
    std::fs::write(dir.join("s.toml"), "[[stages]]\nsteps = 3\nglobal_batch = 3\n").unwrap();
    refused(&dir, &train, &["stage `document`", "global_batch = 3"]);
    refused(&dir, &[&train[..], &["steps=4"]].concat(), &["`steps`", "[[stages]]"]);
    assert!(!dir.join("s").exists(), "nothing was started");
}
