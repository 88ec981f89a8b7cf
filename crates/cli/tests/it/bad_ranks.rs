//! What a user can get wrong about ranks: one clear error for each, on every transport the same.

use crate::support::{folder, ok, refused, train_args};

/// A run over ranks with these words must be refused with those.
#[test]
fn degrees() {
    let (_guard, dir) = folder();
    let train = |words: &str, expected: &[&str]| {
        let words: Vec<&str> = words.split(' ').collect();
        refused(&dir, &train_args("run", &words), expected);
    };
    // What does not divide.
    train(
        "--ranks 2 tensor_parallel=2 n_heads=3 n_kv_heads=3",
        &["tensor_parallel = 2", "n_heads = 3"],
    );
    train("--ranks 4 tensor_parallel=4", &["tensor_parallel = 4", "n_kv_heads = 2"]);
    train("--ranks 2 tensor_parallel=2 d_ff=65", &["tensor_parallel = 2", "d_ff = 65"]);
    train(
        "--ranks 3 context_parallel=3",
        &["seq_len is 32", "context_parallel=3", "set seq_len=30"],
    );
    train(
        "--ranks 2 tensor_parallel=2 sequence_parallel=true seq_len=33",
        &["sequence_parallel", "tensor_parallel = 2", "33"],
    );
    train("--ranks 5", &["global_batch = 6", "data_parallel = 10", "set global_batch=10"]);
    train("--ranks 4 pipeline_parallel=4", &["4 pipeline pieces", "n_layers = 2"]);
    train(
        "--ranks 2 n_layers=4 micro_batch=1 global_batch=3 pipeline_parallel=2 pipeline_schedule=interleaved virtual_stages=2",
        &["3 micro-batches", "pipeline_parallel = 2"],
    );
    // What has nothing to do, or does not go together.
    train("zero_stage=2", &["zero_stage = 2", "one replica"]);
    train("--ranks 2 pipeline_parallel=2 zero_stage=1", &["zero_stage = 1", "one replica"]);
    train("--ranks 3 shard_parallel=3", &["shard_parallel = 3", "zero_stage = 0"]);
    train("--ranks 2 pipeline_parallel=2 virtual_stages=2", &["virtual_stages = 2", "interleaved"]);
    train("--ranks 3 sequence_parallel=true", &["sequence_parallel", "tensor_parallel above 1"]);
    // What is not known.
    train("--ranks 3 zero_stage=4", &["zero_stage = 4", "0, 1, 2 or 3"]);
    train("pipeline_schedule=zigzag", &["pipeline_schedule = \"zigzag\"", "1f1b"]);
    train("reduction=slow", &["reduction = \"slow\"", "exact or fast"]);
    train("--ranks 2 tensor_parallel=0", &["tensor_parallel = 0"]);
    train("--ranks 3 stepz=3", &["unknown key `stepz`"]);
    assert!(!dir.join("run").join("config.toml").exists(), "nothing was started");
    assert!(!dir.join("run").join("logs").exists(), "nothing was written down");
}

#[test]
fn numbers_of_ranks() {
    let (_guard, dir) = folder();
    let train = |words: &[&'static str], expected: &[&str]| {
        refused(&dir, &train_args("run", words), expected);
    };
    train(&["--ranks", "0"], &["--ranks 0"]);
    train(
        &["--ranks", "3", "data_parallel=1"],
        &["3 ranks", "data_parallel 1", "set data_parallel=3"],
    );
    train(&["pipeline_parallel=2"], &["1 rank", "pipeline_parallel 2", "= 2"]);
    let two_by_two = ["--ranks", "3", "pipeline_parallel=2", "tensor_parallel=2"];
    train(&two_by_two, &["3 ranks", "pipeline_parallel 2", "tensor_parallel 2", "start 4 ranks"]);
    #[cfg(not(feature = "mpi"))]
    train(&["--ranks", "2", "--transport", "mpi"], &["built without MPI", "--features mpi"]);
}

/// A run goes on on any ranks that its degrees can fill, and says what to change where they cannot.
#[test]
fn layouts_to_resume_on() {
    let (_guard, dir) = folder();
    let words = ["steps=4", "--ranks", "2", "pipeline_parallel=2"];
    ok(&dir, &train_args("run", &words));
    let resume = |words: &[&str], expected: &[&str]| {
        refused(&dir, &[&["train", "--resume", "--out", "run"], words].concat(), expected);
    };
    resume(&[], &["1 rank", "pipeline_parallel 2"]);
    resume(&["--ranks", "3"], &["3 ranks", "pipeline_parallel 2"]);
    resume(&["--ranks", "3", "pipeline_parallel=3"], &["3 pipeline pieces", "n_layers = 2"]);
    resume(&["--ranks", "8"], &["global_batch = 6", "data_parallel = 8"]);
    resume(&["--ranks", "2", "micro_batch=1"], &["micro_batch = 1", "started with 2"]);
    let kept = std::fs::read_to_string(dir.join("run/config.toml")).unwrap();
    assert!(kept.contains("pipeline_parallel = 2") && kept.contains("micro_batch = 2"), "{kept}");
    // A rank's file is gone.
    let latest = std::fs::read_to_string(dir.join("run/checkpoints/LATEST")).unwrap();
    let saved = dir.join("run/checkpoints").join(latest.lines().next().unwrap());
    std::fs::remove_file(saved.join("rank-00001.safetensors")).unwrap();
    let named = ["rank 1: ", "rank-00001.safetensors", "latest checkpoint cannot be used"];
    resume(&["--ranks", "2"], &named);
}
