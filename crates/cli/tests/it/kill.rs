//! Killed at any moment, a run goes on to the same bits.

use std::process::Stdio;
use std::time::Duration;

use crate::support::{command, final_tensors, folder, ok, train_args};

/// Kills that must meet a living process; each is followed by a resume.
const KILLS: u64 = 10;
/// Runs started at most to get there.
const ATTEMPTS: u64 = 60;

#[test]
fn ten_kills_change_no_bit() {
    let (_guard, dir) = folder();
    let begun = std::time::Instant::now();
    ok(&dir, &train_args("whole", &["checkpoint_every=3"]));
    let whole = begun.elapsed().as_secs_f64();
    let expected = final_tensors(&dir.join("whole"));
    let (mut kills, mut state) = (0, 0x5eed_u64);
    for _ in 0..ATTEMPTS {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let fraction = (state >> 33) as f64 / f64::from(1u32 << 31);
        let mut child = command(&dir, &next_args(&dir));
        let mut child =
            child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
        // From start-up to nearly the end, resumed work included.
        std::thread::sleep(Duration::from_secs_f64(whole * 0.6 * fraction));
        if child.try_wait().expect("a status").is_some() {
            // It came to its end before the kill: as good a check, and a new run to kill.
            assert_eq!(
                expected,
                final_tensors(&dir.join("killed")),
                "the bits differ after {kills} kills"
            );
            std::fs::remove_dir_all(dir.join("killed")).expect("the run is removed");
            continue;
        }
        child.kill().expect("a signal");
        child.wait().expect("a status");
        kills += 1;
        if kills == KILLS {
            break;
        }
    }
    assert_eq!(kills, KILLS, "kills that met a living process in {ATTEMPTS} attempts");
    ok(&dir, &next_args(&dir));
    assert_eq!(expected, final_tensors(&dir.join("killed")), "the bits differ after {kills} kills");
    let rows = |run: &str| {
        let text = std::fs::read_to_string(dir.join(run).join("metrics.jsonl")).expect("metrics");
        let row = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("JSON");
        text.lines()
            .map(row)
            .map(|r| (r["step"].clone(), r["train_loss"].clone(), r["tokens"].clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(rows("whole"), rows("killed"), "every step once, with the same loss");
}

/// Goes on with the run in `killed` if it came far enough, or starts it.
fn next_args(dir: &std::path::Path) -> Vec<&'static str> {
    if dir.join("killed/config.toml").exists() {
        vec!["train", "--resume", "--out", "killed"]
    } else {
        train_args("killed", &["checkpoint_every=3"])
    }
}

/// Examples of two classes, and a model to begin with.
fn reviews(dir: &std::path::Path) {
    ok(dir, &train_args("run", &["steps=2"]));
    let rows = |n: usize| -> String {
        let row = |i: usize| match i % 3 {
            0 => format!("{i} good\tup\n"),
            _ => format!("{} bad\tdown\n", i * 7),
        };
        (0..n).map(row).collect()
    };
    std::fs::write(dir.join("train.tsv"), rows(96)).expect("the examples are written");
    std::fs::write(dir.join("dev.tsv"), rows(24)).expect("the examples are written");
}

fn tune_args<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let args = [
        "finetune",
        "classify",
        "--run",
        "run",
        "--train",
        "train.tsv",
        "--dev",
        "dev.tsv",
        "--out",
    ];
    let settings = ["method=full", "epochs=6", "batch=8", "micro_batch=4", "peak_lr=1e-3"];
    args.iter().chain(&[out]).chain(&settings).chain(more).copied().collect()
}

#[test]
fn kills_change_no_bit_of_a_classifier() {
    let (_guard, dir) = folder();
    reviews(&dir);
    let begun = std::time::Instant::now();
    ok(&dir, &tune_args("whole", &[]));
    let whole = begun.elapsed().as_secs_f64();
    let result = |out: &str| std::fs::read(dir.join(out).join("weights.safetensors")).unwrap();
    let mut kills = 0;
    for i in 0..40u64 {
        let args = match dir.join("killed/state").exists() {
            true => tune_args("killed", &["--resume"]),
            false => tune_args("killed", &[]),
        };
        let mut child = command(&dir, &args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        std::thread::sleep(Duration::from_secs_f64(whole * (0.2 + 0.07 * (i % 7) as f64)));
        if let Some(status) = child.try_wait().expect("a status") {
            assert!(status.success());
            break;
        }
        child.kill().expect("a signal");
        child.wait().expect("a status");
        kills += 1;
    }
    assert!(kills > 0 && dir.join("killed/classifier.json").exists(), "after {kills} kills");
    assert!(result("whole") == result("killed"), "the bits differ after {kills} kills");
    assert!(!dir.join("killed/state").exists());
    // Every measurement once, in order.
    let text = std::fs::read_to_string(dir.join("killed/metrics.jsonl")).unwrap();
    let step =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["step"].as_u64();
    let steps: Vec<u64> = text.lines().filter_map(step).collect();
    assert!(
        steps.windows(2).all(|pair| pair[0] < pair[1]) && steps.last() == Some(&72),
        "{steps:?}"
    );
    // Over ranks the same bits again.
    ok(&dir, &tune_args("ranks", &["--ranks", "2"]));
    assert!(result("whole") == result("ranks"), "two ranks");
    let refused = command(&dir, &tune_args("three", &["--ranks", "3"])).output().unwrap();
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && text.contains("3 data-parallel ranks"), "{text}");
}

#[test]
fn recompute_is_the_same_run() {
    let (_guard, dir) = folder();
    ok(&dir, &train_args("keep", &["steps=6"]));
    ok(&dir, &train_args("recompute", &["steps=6", "recompute=true"]));
    assert_eq!(final_tensors(&dir.join("keep")), final_tensors(&dir.join("recompute")));
}

#[test]
fn ctrl_c_saves_and_resume_goes_on() {
    let (_guard, dir) = folder();
    let more = ["steps=4000", "checkpoint_every=0"];
    let child = command(&dir, &train_args("run", &more))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // Until it trains.
    let metrics = dir.join("run/metrics.jsonl");
    for _ in 0..600 {
        if std::fs::metadata(&metrics).is_ok_and(|m| m.len() > 500) {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let status = std::process::Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .expect("kill");
    assert!(status.success());
    let output = child.wait_with_output().expect("an end");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(text.contains("--resume --out run"), "{text}");
    assert!(dir.join("run/checkpoints/LATEST").exists());
}
