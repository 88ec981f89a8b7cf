use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Device;
use caravan_collective::Communicator;
use caravan_finetune::{Ended, Example, Outcome, Scores, Session, Settings, class_names, classify};
use caravan_tokenizer::ByteTokenizer;

use crate::support::{base, classified, classified_on, examples, parameters, settings};

pub(crate) fn sets(all: &[Example]) -> [&[Example]; 2] {
    let (train, dev) = all.split_at(90);
    [train, dev]
}

pub(crate) fn finished(ended: Ended<Outcome<Scores>>) -> Outcome<Scores> {
    match ended {
        Ended::Finished(outcome) => *outcome,
        other => panic!("{other:?}"),
    }
}

/// Trains until the measurement after update `after`, then asks to stop.
pub(crate) fn stopped(
    state: &Path,
    sets: [&[Example]; 2],
    settings: &Settings,
    after: u64,
) -> (u64, u64) {
    let stop = AtomicBool::new(false);
    stopped_on(Communicator::alone(), state, sets, settings, after, &stop)
}

/// The same on a rank of `world`; all have `stop`.
pub(crate) fn stopped_on(
    world: Communicator,
    state: &Path,
    sets: [&[Example]; 2],
    settings: &Settings,
    after: u64,
    stop: &AtomicBool,
) -> (u64, u64) {
    let session = Session { state, world, stop };
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
