use std::path::Path;
use std::sync::atomic::AtomicBool;

use caravan_collective::{Communicator, threads};
use caravan_finetune::{Ended, Example, Outcome, Scores, Settings};
use caravan_model::Llama;

use crate::runs::{finished, sets, stopped, stopped_on};
use crate::support::{classified, classified_on, examples, parameters, settings};

/// Threads as ranks, as many as the layout has; the first one's result.
fn run_on_ranks(
    state: &Path,
    sets: [&[Example]; 2],
    settings: &Settings,
) -> Ended<Outcome<Scores>> {
    let p = &settings.parallel;
    let n = p.data_parallel * p.pipeline_parallel * p.tensor_parallel * p.context_parallel;
    let no = AtomicBool::new(false);
    let ended = threads::run(n, |world| classified_on(world, state, &no, sets, settings).unwrap());
    let mut ended = ended.unwrap().into_iter();
    let first = ended.next().unwrap();
    assert!(ended.all(|end| matches!(end, Ended::Assisted)));
    first
}

fn largest_difference(a: &Llama, b: &Llama) -> f32 {
    let (a, b) = (parameters(a), parameters(b));
    assert!(a.keys().eq(b.keys()));
    let pairs = a.values().flatten().zip(b.values().flatten());
    pairs.fold(0.0, |most, (a, b)| most.max((a - b).abs()))
}

#[test]
fn any_layout_gives_the_bits_of_one_rank() {
    let all = examples(120);
    for (method, pool) in [("lora", "last"), ("full", "last"), ("lora", "mean")] {
        let (method, mix) = (format!("method={method}"), format!("layer_mix={}", pool == "mean"));
        let pool = format!("pool={pool}");
        let common = [&*method, &*pool, &*mix, "epochs=2", "micro_batch=4", "freeze=blocks.0.wq.*"];
        let alone = classified(sets(&all), &settings(&common)).unwrap();
        for layout in [
            &["data_parallel=2"][..],
            &["data_parallel=4", "zero_stage=1"],
            &["data_parallel=2", "zero_stage=2"],
            &["data_parallel=2", "zero_stage=3"],
            &["pipeline_parallel=2"],
            &["data_parallel=2", "pipeline_parallel=2", "pipeline_schedule=gpipe"],
        ] {
            let settings = settings(&[&common[..], layout].concat());
            let dir = tempfile::tempdir().unwrap();
            let outcome = finished(run_on_ranks(dir.path(), sets(&all), &settings));
            let (mine, expected) = (parameters(&outcome.model), parameters(&alone.model));
            let differ: Vec<&String> =
                expected.keys().filter(|path| mine[*path] != expected[*path]).collect();
            assert!(differ.is_empty(), "{method} {pool} {layout:?}: {differ:?} differ");
            assert_eq!(outcome.scores, alone.scores, "{method} {layout:?}");
        }
    }
}

#[test]
fn a_run_goes_on_with_another_layout() {
    let all = examples(120);
    let common = ["epochs=3", "micro_batch=8", "method=full"];
    let whole = classified(sets(&all), &settings(&common)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    stopped(dir.path(), sets(&all), &settings(&common), 6);
    let wide = settings(&[&common[..], &["data_parallel=2", "zero_stage=2"]].concat());
    let outcome = finished(run_on_ranks(dir.path(), sets(&all), &wide));
    assert!(parameters(&outcome.model) == parameters(&whole.model));
}

/// Where ranks share matrices or sequences, sums have another order: it may change the last bits, and what AdamW makes of
/// them in its first updates.
#[test]
fn ranks_that_share_matrices_or_sequences_tune_as_one() {
    let all = examples(120);
    for (method, pool) in [("lora", "last"), ("full", "last"), ("lora", "mean")] {
        let (method, mix) = (format!("method={method}"), format!("layer_mix={}", pool == "mean"));
        let pool = format!("pool={pool}");
        let common = [&*method, &*pool, &*mix, "epochs=1", "batch=32", "micro_batch=16"];
        let alone = classified(sets(&all), &settings(&common)).unwrap();
        for layout in [
            &["tensor_parallel=2"][..],
            &["tensor_parallel=2", "sequence_parallel=true", "data_parallel=2", "zero_stage=2"],
            &["tensor_parallel=2", "sequence_parallel=true", "pipeline_parallel=2"],
            &["tensor_parallel=2", "data_parallel=2", "zero_stage=3"],
            &["context_parallel=2"],
            &["context_parallel=2", "tensor_parallel=2", "sequence_parallel=true"],
        ] {
            let settings = settings(&[&common[..], layout].concat());
            if settings.pool == "mean" && settings.parallel.context_parallel > 1 {
                continue;
            }
            let dir = tempfile::tempdir().unwrap();
            let outcome = finished(run_on_ranks(dir.path(), sets(&all), &settings));
            let apart = largest_difference(&outcome.model, &alone.model);
            println!("{apart:.1e} {method} {pool} {layout:?}");
            // Three updates move a weight by up to 0.01.
            assert!(apart < 2e-4, "{apart} {method} {pool} {layout:?}");
            assert_eq!(outcome.scores.accuracy, alone.scores.accuracy, "{method} {layout:?}");
            assert!((outcome.scores.loss - alone.scores.loss).abs() < 1e-4, "{method} {layout:?}");
        }
    }
}

/// What ranks with slices saved is read by one that has no slices.
#[test]
fn a_run_of_tensor_ranks_goes_on_with_one() {
    let all = examples(120);
    let common = ["epochs=2", "batch=32", "method=lora"];
    let whole = classified(sets(&all), &settings(&common)).unwrap();
    let sliced = settings(&[&common[..], &["tensor_parallel=2"]].concat());
    let dir = tempfile::tempdir().unwrap();
    let stop = AtomicBool::new(false);
    let ended =
        threads::run(2, |world| stopped_on(world, dir.path(), sets(&all), &sliced, 3, &stop));
    assert_eq!(ended.unwrap(), [(3, 6); 2]);
    let no = AtomicBool::new(false);
    let alone = Communicator::alone();
    let ended = classified_on(alone, dir.path(), &no, sets(&all), &settings(&common)).unwrap();
    let apart = largest_difference(&finished(ended).model, &whole.model);
    println!("{apart:.1e}");
    assert!(apart > 0.0 && apart < 2e-4, "{apart}");
}

#[test]
fn what_a_layout_cannot_do_is_said_first() {
    let all = examples(120);
    let refused =
        |changes: &[&str]| classified(sets(&all), &settings(changes)).unwrap_err().to_string();
    let message = refused(&["tensor_parallel=3"]);
    assert!(message.contains("tensor_parallel = 3 does not divide n_heads"), "{message}");
    let message = refused(&["tensor_parallel=2", "sequence_parallel=true", "seq_len=33"]);
    assert!(message.contains("needs seq_len to be a multiple of tensor_parallel = 2"), "{message}");
    let message = refused(&["data_parallel=3", "micro_batch=4"]);
    assert!(
        message.contains("makes 4 micro-batches of batch = 16, which 3 data-parallel ranks"),
        "{message}"
    );
    assert!(message.ends_with("\nhelp: set batch=18 and micro_batch=6"), "{message}");
}
