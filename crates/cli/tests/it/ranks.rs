//! Runs over ranks, as threads of the program: they end with what one rank ends with, also when they are stopped or
//! killed on one layout and go on on another.

use std::path::Path;

use serde_json::Value;

use crate::support::{ended, folder, ok, signal, started, timed, train_args, wait_for_step};

/// On top of the tiny run: micro-batches for up to twelve ranks.
const RUN: &[&str] = &["global_batch=12", "micro_batch=1", "checkpoint_every=0"];

/// How far losses of tensor- and context-parallel runs may lie from one rank's, which adds up in another order.
const TOLERANCE: f64 = 1e-4;

/// The arguments of a run into `out`.
fn args<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    train_args(out, &[RUN, more].concat())
}

/// Runs the program over ranks; gives what it says.
fn run(dir: &Path, args: &[&str]) -> String {
    let output = timed(dir, args);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}\n{text}");
    text
}

/// The exported weights.
fn weights(run: &Path) -> Vec<u8> {
    std::fs::read(run.join("export/model.safetensors")).unwrap()
}

/// Of every step its number, tokens, losses and norm.
fn rows(run: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let row = |line: &str| {
        let row: Value = serde_json::from_str(line).unwrap();
        ["step", "tokens", "train_loss", "val_loss", "grad_norm"].map(|key| row[key].clone()).into()
    };
    text.lines().map(row).collect()
}

/// The steps, and how far the losses of two runs are apart at most.
fn apart(a: &[Value], b: &[Value]) -> f64 {
    assert_eq!(a.len(), b.len());
    let pairs = a.iter().zip(b).flat_map(|(a, b)| {
        assert_eq!((&a[0], &a[1]), (&b[0], &b[1]), "step and tokens");
        [2, 3].map(|i| a[i].as_f64().unwrap_or(0.0) - b[i].as_f64().unwrap_or(0.0))
    });
    pairs.map(f64::abs).fold(0.0, f64::max)
}

#[test]
fn layouts_end_with_the_bits_of_one_rank() {
    let (_guard, dir) = folder();
    run(&dir, &args("one", &["steps=8"]));
    assert!(!dir.join("one/logs").exists(), "one rank says all on standard error");
    let (expected, losses) = (weights(&dir.join("one")), rows(&dir.join("one")));
    let layouts: [(usize, &[&str]); 6] = [
        (2, &[]),
        (3, &["zero_stage=1"]),
        (4, &["zero_stage=3"]),
        (2, &["pipeline_parallel=2"]),
        (6, &["pipeline_parallel=2", "pipeline_schedule=gpipe", "zero_stage=2"]),
        (4, &["shard_parallel=2", "zero_stage=3", "recompute=true"]),
    ];
    for (i, (n_ranks, keys)) in layouts.iter().enumerate() {
        let (out, n) = (format!("run-{i}"), n_ranks.to_string());
        let more = [&["steps=8", "--ranks", n.as_str()], *keys].concat();
        run(&dir, &args(&out, &more));
        let run = dir.join(&out);
        assert_eq!(rows(&run), losses, "{n} ranks, {keys:?}");
        assert!(weights(&run) == expected, "{n} ranks, {keys:?}: other bits than one rank's");
        for rank in 0..*n_ranks {
            let log = run.join(format!("logs/rank-{rank:05}.log"));
            let text = std::fs::read_to_string(&log).expect("every rank has a log");
            assert!(text.contains("step 8/8 loss "), "{}: {text}", log.display());
        }
        assert!(!run.join(format!("logs/rank-{n_ranks:05}.log")).exists());
    }
}

/// Each layout is killed at some step; the next goes on from what it saved.
#[test]
fn killed_on_one_layout_and_resumed_on_another_is_the_same_run() {
    let (_guard, dir) = folder();
    let keys = ["steps=60", "checkpoint_every=3"];
    run(&dir, &args("whole", &keys));
    let run_dir = dir.join("run");
    let resume = ["train", "--resume", "--out", "run", "--ranks"];
    let layouts: [(usize, Vec<&str>); 5] = [
        (8, args("run", &keys)),
        (20, [&resume[..], &["3"]].concat()),
        (32, [&resume[..], &["4", "zero_stage=3"]].concat()),
        (44, [&resume[..], &["2", "pipeline_parallel=2", "zero_stage=0"]].concat()),
        (60, [&resume[..], &["2", "pipeline_parallel=1", "zero_stage=2"]].concat()),
    ];
    for (step, args) in &layouts {
        let mut child = started(&dir, args);
        if *step < 60 {
            wait_for_step(&run_dir, *step);
            assert!(child.try_wait().unwrap().is_none(), "{args:?} ended before it was killed");
            child.kill().unwrap();
        }
        let output = ended(child, args);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), *step == 60, "{args:?}\n{text}");
        assert!(*step == 8 || text.contains("resumed at step "), "{text}");
    }
    assert_eq!(rows(&run_dir), rows(&dir.join("whole")), "every step once, with the same loss");
    assert!(weights(&run_dir) == weights(&dir.join("whole")), "other bits");
}

#[test]
fn tensor_context_and_sequence_parallel_runs_are_of_use() {
    let (_guard, dir) = folder();
    let keys = ["steps=10", "eval_every=5"];
    run(&dir, &args("one", &keys));
    let losses = rows(&dir.join("one"));
    let layouts: [(&str, &[&str]); 4] = [
        ("2", &["tensor_parallel=2"]),
        ("2", &["tensor_parallel=2", "sequence_parallel=true"]),
        ("2", &["context_parallel=2"]),
        ("4", &["tensor_parallel=2", "context_parallel=2"]),
    ];
    for (i, (n, degrees)) in layouts.iter().enumerate() {
        let out = format!("run-{i}");
        let said = run(&dir, &args(&out, &[&keys[..], &["--ranks", n], degrees].concat()));
        assert!(said.contains("step      5: validation loss"), "{said}");
        let run = dir.join(&out);
        let apart = apart(&rows(&run), &losses);
        assert!(apart < TOLERANCE, "{degrees:?}: losses are {apart} apart");
        let generate =
            ["generate", "--prompt", "The fox", "--max-tokens", "8", "--temperature", "0"];
        let written = |from: &[&str]| ok(&dir, &[&generate[..], from].concat());
        let export = format!("{out}/export");
        assert_eq!(written(&["--run", &out]), written(&["--model", &export]));
    }
    // One rank reads what two wrote: scores it, exports it, and goes on with it.
    ok(&dir, &["eval", "--run", "run-0", "--text", "text.txt", "--json", "two.json"]);
    ok(&dir, &["eval", "--run", "one", "--text", "text.txt", "--json", "one.json"]);
    let bits = |file: &str| {
        let json: Value = serde_json::from_slice(&std::fs::read(dir.join(file)).unwrap()).unwrap();
        json["text"]["text.txt"]["bits_per_byte"].as_f64().unwrap()
    };
    assert!((bits("one.json") - bits("two.json")).abs() < TOLERANCE);
    ok(&dir, &["export", "--run", "run-0", "--out", "hf"]);
    assert!(
        std::fs::read(dir.join("hf/model.safetensors")).unwrap() == weights(&dir.join("run-0"))
    );
}

#[test]
fn a_tensor_parallel_run_goes_on_on_one_rank() {
    let (_guard, dir) = folder();
    let keys = ["steps=40", "checkpoint_every=4"];
    run(&dir, &args("one", &keys));
    let first = args("run", &[&keys[..], &["--ranks", "2", "tensor_parallel=2"]].concat());
    let child = started(&dir, &first);
    wait_for_step(&dir.join("run"), 10);
    signal(child.id(), "KILL");
    ended(child, &first);
    let said = run(&dir, &["train", "--resume", "--out", "run", "tensor_parallel=1"]);
    assert!(said.contains("resumed at step ") && !said.contains("ranks  "), "{said}");
    let apart = apart(&rows(&dir.join("run")), &rows(&dir.join("one")));
    assert!(apart < TOLERANCE, "losses are {apart} apart");
}

#[test]
fn signals_stop_ranks_which_save_once() {
    let (_guard, dir) = folder();
    for (name, n, keys) in [("INT", "3", "zero_stage=1"), ("USR1", "2", "pipeline_parallel=2")] {
        let args = args(name, &["steps=4000", "--ranks", n, keys]);
        let child = started(&dir, &args);
        wait_for_step(&dir.join(name), 3);
        signal(child.id(), name);
        let output = ended(child, &args);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{text}");
        assert_eq!(text.matches(": saved `").count(), 1, "{text}");
        assert_eq!(text.matches("stopped after step ").count(), 1, "{text}");
        let help = format!("help: go on with `cargo xtask train --resume --out {name}`");
        assert!(text.contains(&help), "{text}");
        let saved = std::fs::read_dir(dir.join(name).join("checkpoints")).unwrap();
        assert_eq!(saved.count(), 2, "one checkpoint and LATEST");
        ok(&dir, &["generate", "--run", name, "--prompt", "The", "--max-tokens", "3"]);
    }
}
