use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Device;
use caravan_collective::{Communicator, threads};
use caravan_finetune::{Ended, Example, Outcome, Scores, Session, Settings, class_names, classify};
use caravan_tokenizer::ByteTokenizer;

use crate::support::{base, classified, classified_on, examples, parameters, settings};

fn sets(all: &[Example]) -> [&[Example]; 2] {
    let (train, dev) = all.split_at(90);
    [train, dev]
}

fn finished(ended: Ended<Outcome<Scores>>) -> Outcome<Scores> {
    match ended {
        Ended::Finished(outcome) => *outcome,
        other => panic!("{other:?}"),
    }
}

/// Trains until the measurement after update `after`, then asks to stop.
fn stopped(state: &Path, sets: [&[Example]; 2], settings: &Settings, after: u64) -> (u64, u64) {
    let stop = AtomicBool::new(false);
    let session = Session { state, world: Communicator::alone(), stop: &stop };
    let names = class_names("f".as_ref(), sets[0]).unwrap();
    let ended = classify(
        base(&Device::flex().autodiff()),
        &ByteTokenizer::new(),
        &names,
        sets,
        settings,
        &session,
        &mut |progress| {
            stop.store(progress.step >= after, Ordering::Relaxed);
            Ok(())
        },
    );
    match ended.unwrap() {
        Ended::Stopped { step, steps } => (step, steps),
        other => panic!("{other:?}"),
    }
}

#[test]
fn interrupted_and_resumed_is_the_same_run() {
    let all = examples(120);
    for method in ["lora", "full"] {
        let settings = settings(&[
            &format!("method={method}"),
            "epochs=3",
            "evals_per_epoch=2",
            "class_weights=balanced",
        ]);
        let whole = classified(sets(&all), &settings).unwrap();
        for after in [3, 6] {
            let dir = tempfile::tempdir().unwrap();
            let (step, steps) = stopped(dir.path(), sets(&all), &settings, after);
            assert_eq!((step, steps), (after, 18), "{method}");
            let no = AtomicBool::new(false);
            let go_on = |settings: &Settings| {
                classified_on(Communicator::alone(), dir.path(), &no, sets(&all), settings)
            };
            // With other settings or examples it would be another run.
            let mut other = settings.clone();
            other.set("peak_lr=1e-3").unwrap();
            let message = go_on(&other).unwrap_err().to_string();
            assert!(message.contains("other settings\nhelp: "), "{message}");
            let again = finished(go_on(&settings).unwrap());
            assert!(parameters(&again.model) == parameters(&whole.model), "{method} {after}");
            assert_eq!(
                (again.scores, again.best_step, again.steps),
                (whole.scores.clone(), whole.best_step, whole.steps)
            );
        }
    }
}

#[test]
fn a_killed_run_that_was_done_gives_its_result_again() {
    let all = examples(120);
    let settings = settings(&["epochs=2"]);
    let dir = tempfile::tempdir().unwrap();
    let no = AtomicBool::new(false);
    let run = || {
        finished(
            classified_on(Communicator::alone(), dir.path(), &no, sets(&all), &settings).unwrap(),
        )
    };
    let (first, second) = (run(), run());
    assert!(parameters(&first.model) == parameters(&second.model));
    assert_eq!((first.scores, first.best_step), (second.scores, second.best_step));
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
            let p = &settings.parallel;
            let n = p.data_parallel * p.pipeline_parallel;
            let dir = tempfile::tempdir().unwrap();
            let no = AtomicBool::new(false);
            let ended = threads::run(n, |world| {
                classified_on(world, dir.path(), &no, sets(&all), &settings).unwrap()
            });
            let mut ended = ended.unwrap().into_iter();
            let outcome = finished(ended.next().unwrap());
            assert!(ended.all(|end| matches!(end, Ended::Assisted)));
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
    let no = AtomicBool::new(false);
    let ended =
        threads::run(2, |world| classified_on(world, dir.path(), &no, sets(&all), &wide).unwrap());
    let outcome = finished(ended.unwrap().swap_remove(0));
    assert!(parameters(&outcome.model) == parameters(&whole.model));
}

#[test]
fn what_a_layout_cannot_do_is_said_first() {
    let all = examples(120);
    let refused =
        |changes: &[&str]| classified(sets(&all), &settings(changes)).unwrap_err().to_string();
    let message = refused(&["tensor_parallel=2"]);
    assert!(message.contains("tensor_parallel = 2: is not built for fine-tuning"), "{message}");
    let message = refused(&["data_parallel=3", "micro_batch=4"]);
    assert!(
        message.contains("makes 4 micro-batches of batch = 16, which 3 data-parallel ranks"),
        "{message}"
    );
    assert!(message.ends_with("\nhelp: set batch=18 and micro_batch=6"), "{message}");
}
