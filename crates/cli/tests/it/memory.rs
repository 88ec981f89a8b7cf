//! The plan's memory is what a run takes.

use std::path::Path;

use crate::support::{caravan, folder};

/// How far the measured peak may lie from the prediction. The prediction counts what the shapes say; thread
/// stacks, the allocator's slack and the largest of the passing buffers make up the rest.
const TOLERANCE: f64 = 0.15;

const BASE: &[&str] = &[
    "steps=3",
    "seq_len=256",
    "global_batch=16",
    "micro_batch=8",
    "vocab_size=300",
    "d_model=256",
    "n_heads=4",
    "n_kv_heads=2",
    "head_dim=64",
    "d_ff=704",
    "eval_every=0",
    "checkpoint_every=0",
    "sample_tokens=0",
];

fn predicted_and_measured(dir: &Path, out: &str, more: &[&str]) -> (f64, f64) {
    let args: Vec<&str> = ["train", "--text", "text.txt", "--out", out]
        .iter()
        .chain(BASE)
        .chain(more)
        .copied()
        .collect();
    let output = caravan(dir, &args);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    let line = text.lines().find(|l| l.trim_start().starts_with("memory ")).unwrap();
    let mut words = line.split_whitespace().skip_while(|w| *w != "about").skip(1);
    let (number, unit) = (words.next().unwrap().parse::<f64>().unwrap(), words.next().unwrap());
    assert_eq!(unit, "MiB", "{line}");
    let metrics = std::fs::read_to_string(dir.join(out).join("metrics.jsonl")).unwrap();
    let row: serde_json::Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
    (number, row["peak_rss_bytes"].as_f64().unwrap() / 1_048_576.0)
}

#[test]
fn a_run_takes_what_its_plan_says() {
    let (_guard, dir) = folder();
    for (out, more) in [
        ("deep", vec!["n_layers=8"]),
        ("shallow", vec!["n_layers=2"]),
        ("recompute", vec!["n_layers=8", "recompute=true"]),
    ] {
        // The median of three: which buffers are alive at once depends on when the system lets each thread run, and a
        // busy machine's peak may lie a tenth higher.
        let mut peaks: Vec<(f64, f64)> =
            (0..3).map(|i| predicted_and_measured(&dir, &format!("{out}-{i}"), &more)).collect();
        peaks.sort_by(|a, b| a.1.total_cmp(&b.1));
        let (predicted, measured) = peaks[1];
        let off = measured / predicted - 1.0;
        eprintln!("{out}: {predicted:.0} MiB predicted, {measured:.0} MiB measured");
        assert!(
            off.abs() <= TOLERANCE,
            "{out}: {predicted:.0} MiB predicted, {measured:.0} MiB measured"
        );
    }
}
