//! Runs that come to their end, or are asked to stop.

use std::time::Duration;

use crate::launch::{alone, folder, over_mpi, rows, signal, train_args, weights};

pub(crate) fn four_processes_have_the_loss_curve_of_one_rank() {
    let (_guard, dir) = folder();
    alone(&dir, &train_args(&dir, "one", &[])).ok();
    let (losses, expected) = (rows(&dir.join("one")), weights(&dir.join("one")));
    assert_eq!(losses.len(), 30);
    assert!(losses[29][2].as_f64() < losses[0][2].as_f64(), "it learns");
    let layouts: [(&str, usize, &[&str]); 3] = [
        ("four", 4, &[]),
        ("three", 3, &["zero_stage=3"]),
        ("stages", 4, &["pipeline_parallel=2", "zero_stage=1"]),
    ];
    for (out, n_ranks, degrees) in layouts {
        let text = over_mpi(&dir, n_ranks, &train_args(&dir, out, degrees)).end().ok();
        assert_eq!(text.matches("# Training report").count(), 1, "one rank speaks\n{text}");
        let run = dir.join(out);
        assert_eq!(rows(&run), losses, "{n_ranks} ranks, {degrees:?}");
        assert!(
            weights(&run) == expected,
            "{n_ranks} ranks, {degrees:?}: other bits than one rank's"
        );
        for rank in 0..n_ranks {
            let log = std::fs::read_to_string(run.join(format!("logs/rank-{rank:05}.log")));
            assert!(log.expect("every rank has a log").contains("step 30/30 loss "));
        }
    }
}

/// `mpirun` hands SIGUSR1 on to all ranks.
pub(crate) fn a_signal_to_the_launcher_stops_and_saves() {
    let (_guard, dir) = folder();
    alone(&dir, &train_args(&dir, "one", &[])).ok();
    let words = train_args(&dir, "run", &["checkpoint_every=0"]);
    let running = over_mpi(&dir, 3, &words);
    let metrics = dir.join("run/metrics.jsonl");
    while std::fs::read_to_string(&metrics).map_or(0, |text| text.lines().count()) < 2 {
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(signal(running.pid(), "USR1"));
    let ended = running.end();
    assert_eq!(ended.status.code(), Some(130), "{}", ended.text);
    assert_eq!(ended.text.matches("stopped after step ").count(), 1, "{}", ended.text);
    assert_eq!(ended.text.matches(": saved `").count(), 1, "{}", ended.text);
    over_mpi(&dir, 2, &train_args(&dir, "run", &["pipeline_parallel=2"])).end().ok();
    assert_eq!(rows(&dir.join("run")), rows(&dir.join("one")));
    assert!(weights(&dir.join("run")) == weights(&dir.join("one")), "other bits");
}

pub(crate) fn a_classifier_over_processes_has_the_bits_of_one_rank() {
    let (_guard, dir) = folder();
    alone(&dir, &train_args(&dir, "run", &["steps=3"])).ok();
    let row = |i: usize| match i % 3 {
        0 => format!("{i} good\tup\n"),
        _ => format!("{} bad\tdown\n", i * 7),
    };
    let rows = |n: usize| (0..n).map(row).collect::<String>();
    std::fs::write(dir.join("train.tsv"), rows(48)).unwrap();
    std::fs::write(dir.join("dev.tsv"), rows(12)).unwrap();
    let words = |out: &'static str, more: &[&'static str]| {
        let words = ["finetune", "classify", "--run", "run", "--train", "train.tsv"];
        let more_words = ["--dev", "dev.tsv", "--out", out, "batch=12", "micro_batch=3"];
        [&words[..], &more_words, &["epochs=3", "peak_lr=3e-3"], more].concat()
    };
    let result = |out: &str| std::fs::read(dir.join(out).join("weights.safetensors")).unwrap();
    alone(&dir, &words("one", &[])).ok();
    for (out, n_ranks, degrees) in
        [("two", 2, &[][..]), ("stages", 4, &["pipeline_parallel=2", "zero_stage=2"])]
    {
        let text = over_mpi(&dir, n_ranks, &words(out, degrees)).end().ok();
        assert_eq!(text.matches("48 examples of 2 classes").count(), 1, "one rank speaks\n{text}");
        assert!(result(out) == result("one"), "{n_ranks} ranks, {degrees:?}: other bits");
    }
}
