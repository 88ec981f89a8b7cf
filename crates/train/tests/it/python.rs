//! TensorBoard's own reader sees the scalars that `metrics.jsonl` holds.

use std::process::Command;
use std::sync::atomic::AtomicBool;

use caravan_train::{RunDir, read_rows, train};

use crate::support::{Rows, config, python};

const SCRIPT: &str = "
import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1])
events.Reload()
for e in events.Scalars('loss/train'):
    print(e.step, e.value)
";

#[test]
fn python_tensorboard_reads_our_events() {
    let Some(python) = python("python_tensorboard_reads_our_events") else { return };
    let dir = tempfile::tempdir().unwrap();
    let out = RunDir::new(dir.path().join("run"));
    train(config(dir.path(), &[]), "flex", &out, &AtomicBool::new(false), &mut Rows::default())
        .unwrap();
    let output = Command::new(python).args(["-c", SCRIPT]).arg(out.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let seen: Vec<(u64, f32)> = text
        .lines()
        .map(|line| {
            let (step, value) = line.split_once(' ').unwrap();
            (step.parse().unwrap(), value.parse().unwrap())
        })
        .collect();
    let rows = read_rows(out.path()).unwrap();
    let ours: Vec<(u64, f32)> =
        rows.iter().map(|r| (r.step, r.train_loss.unwrap() as f32)).collect();
    assert_eq!(seen, ours, "{}", String::from_utf8_lossy(&output.stderr));
}
