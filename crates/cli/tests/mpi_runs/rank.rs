//! A rank that panics: the program's own loop, with a watcher that breaks it.

use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use caravan_train::{Event, Observer, Outcome, RankLog, RunConfig, RunDir, resume_on, train_on};

/// Panics on one rank at one event.
struct Breaking {
    log: RankLog,
    is_here: bool,
    at: String,
}

impl Observer for Breaking {
    fn event(&mut self, event: &Event<'_>) {
        self.log.event(event);
        let now = match event {
            Event::Planned(_) => "planned".to_owned(),
            Event::Step { row, .. } => format!("step-{}", row.step),
            Event::Saved { step, .. } => format!("saved-{step}"),
            _ => return,
        };
        assert!(!self.is_here || now != self.at, "broken at {now}");
    }
}

/// `OUT RANK EVENT [KEY=VALUE]...`: starts or goes on with the run in OUT.
pub(crate) fn run(args: &[String]) -> ExitCode {
    let [out, rank, at, settings @ ..] = args else { panic!("OUT RANK EVENT, not {args:?}") };
    let world = caravan_collective::mpi::world().expect("MPI starts");
    let dir = RunDir::new(out);
    let mut breaking = Breaking {
        log: RankLog::new(Path::new(out), world.rank()),
        is_here: world.rank().to_string() == *rank,
        at: at.clone(),
    };
    let stop = AtomicBool::new(false);
    let layout = format!("data_parallel={}", world.size());
    let settings = [settings, std::slice::from_ref(&layout)].concat();
    let outcome = if dir.config().exists() {
        let change = |saved: RunConfig| saved.with_overrides(&settings);
        resume_on((*world).clone(), &dir, "flex", change, &stop, &mut breaking)
    } else {
        let config = RunConfig::default().with_overrides(&settings).expect("settings");
        train_on((*world).clone(), config, "flex", &dir, &stop, &mut breaking)
    };
    match outcome.expect("it panics before it errs") {
        Outcome::Finished(_) | Outcome::Assisted => ExitCode::SUCCESS,
        Outcome::Stopped { .. } => ExitCode::FAILURE,
    }
}
