//! Killed at any moment, a run goes on to the same bits.

use std::process::Stdio;
use std::time::Duration;

use crate::support::{command, final_tensors, folder, ok, train_args};

/// Kills per test; each is followed by a resume.
const KILLS: u64 = 10;

#[test]
fn ten_kills_change_no_bit() {
    let (_guard, dir) = folder();
    let begun = std::time::Instant::now();
    ok(&dir, &train_args("whole", &[]));
    // Kills are spread over a time in which a run does most of its work, start-up included.
    let whole = begun.elapsed();
    let mut state = 0x5eed_u64;
    let mut killed = 0;
    for attempt in 0..KILLS {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let fraction = (state >> 33) as f64 / f64::from(1u32 << 31);
        let started = dir.join("killed/config.toml").exists();
        let mut args = if started {
            vec!["train", "--resume", "--out", "killed"]
        } else {
            train_args("killed", &[])
        };
        args.push("checkpoint_every=3");
        let mut child = command(&dir, &args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        std::thread::sleep(Duration::from_secs_f64(
            whole.as_secs_f64() * 0.6 * fraction * (attempt + 1) as f64 / KILLS as f64,
        ));
        if child.try_wait().expect("a status").is_none() {
            child.kill().expect("a signal");
            killed += 1;
        }
        child.wait().expect("a status");
    }
    assert!(killed > KILLS / 2, "only {killed} of {KILLS} kills met a living process");
    let last = if dir.join("killed/config.toml").exists() {
        vec!["train", "--resume", "--out", "killed"]
    } else {
        train_args("killed", &[])
    };
    ok(&dir, &last);
    assert_eq!(
        final_tensors(&dir.join("whole")),
        final_tensors(&dir.join("killed")),
        "the bits differ after {killed} kills"
    );
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
