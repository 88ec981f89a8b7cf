//! Runs that must be the same run.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use caravan_train::{Outcome, Row, RunConfig, RunDir, open_run, read_rows, resume, train};

use crate::support::{Rows, config};

fn run(config: RunConfig, dir: &Path) -> Vec<Row> {
    let mut rows = Rows::default();
    let outcome =
        train(config, "flex", &RunDir::new(dir), &AtomicBool::new(false), &mut rows).unwrap();
    assert!(matches!(outcome, Outcome::Finished(_)));
    rows.rows
}

fn losses(rows: &[Row]) -> Vec<f64> {
    rows.iter().map(|r| r.train_loss.unwrap()).collect()
}

/// Every parameter of the newest checkpoint, as bits.
fn parameters(dir: &Path) -> Vec<u32> {
    let device = caravan_model::device::parse("flex").unwrap();
    let run = open_run(dir, &device).unwrap();
    let mut bits = Vec::new();
    run.model.flat(&mut |_, _, values| {
        bits.extend(values.into_data().as_slice::<f32>().unwrap().iter().map(|v| v.to_bits()));
    });
    bits
}

#[test]
fn stopped_and_resumed_is_the_same_run() {
    let dir = tempfile::tempdir().unwrap();
    let whole = run(config(dir.path(), &[]), &dir.path().join("whole"));
    let run_dir = RunDir::new(dir.path().join("parts"));
    let mut first = Rows { stop_after: Some(5), ..Rows::default() };
    let stop = std::sync::Arc::clone(&first.stop);
    let outcome = train(config(dir.path(), &[]), "flex", &run_dir, &stop, &mut first).unwrap();
    assert!(matches!(outcome, Outcome::Stopped { step: 5, steps: 12, .. }));
    stop.store(false, Ordering::Relaxed);
    let mut second = Rows::default();
    resume(&run_dir, "flex", Ok, &stop, &mut second).unwrap();
    let parts: Vec<Row> = first.rows.iter().chain(&second.rows).cloned().collect();
    assert_eq!(losses(&whole), losses(&parts));
    assert_eq!(parameters(&dir.path().join("whole")), parameters(run_dir.path()));
    let rows = read_rows(run_dir.path()).unwrap();
    assert_eq!(rows.iter().map(|r| r.step).collect::<Vec<_>>(), (1..=12).collect::<Vec<_>>());
    assert_eq!(rows[11].tokens, whole[11].tokens);
}

#[test]
fn recompute_changes_no_bit_and_a_seed_changes_all() {
    let dir = tempfile::tempdir().unwrap();
    run(config(dir.path(), &[]), &dir.path().join("keep"));
    run(config(dir.path(), &["recompute=true"]), &dir.path().join("recompute"));
    run(config(dir.path(), &["seed=2"]), &dir.path().join("seed"));
    let keep = parameters(&dir.path().join("keep"));
    assert_eq!(keep, parameters(&dir.path().join("recompute")));
    assert_ne!(keep, parameters(&dir.path().join("seed")));
}

#[test]
fn the_loss_falls_in_every_mode() {
    let dir = tempfile::tempdir().unwrap();
    let modes = [
        vec!["packing=best_fit"],
        vec!["document_mask=false"],
        vec!["tie_embeddings=true"],
        vec!["document_separator=\\n", "packing=best_fit"],
        vec!["kernels=reference"],
        vec!["schedule=wsd"],
    ];
    for (i, mode) in modes.iter().enumerate() {
        let mut words = vec!["steps=30"];
        words.extend(mode);
        let rows = run(config(dir.path(), &words), &dir.path().join(format!("mode{i}")));
        let (first, last) = (rows[0].train_loss.unwrap(), rows[29].train_loss.unwrap());
        assert!(last < first - 0.5, "{mode:?}: {first} to {last}");
    }
}

#[test]
fn a_run_is_refused_what_would_make_it_another() {
    let dir = tempfile::tempdir().unwrap();
    let out = RunDir::new(dir.path().join("run"));
    run(config(dir.path(), &[]), out.path());
    let no = AtomicBool::new(false);
    let change = |word: &str| {
        let word = vec![word.to_owned()];
        resume(&out, "flex", |saved| saved.with_overrides(&word), &no, &mut Rows::default())
    };
    let e = change("peak_lr=1e-4").unwrap_err().to_string();
    assert!(e.contains("peak_lr = 0.0001") && e.contains("0.003") && e.contains("help:"), "{e}");
    assert!(change("keep_checkpoints=1").is_ok());
    std::fs::write(dir.path().join("text.txt"), "other text\n".repeat(500)).unwrap();
    let e = change("keep_checkpoints=2").unwrap_err().to_string();
    assert!(e.contains("help:"), "{e}");
}
