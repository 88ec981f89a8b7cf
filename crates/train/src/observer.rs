//! What a run tells whoever watches it. The library prints nothing itself.

use std::path::Path;

use crate::metrics::Row;
use crate::plan::Plan;

/// Something that happened.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A line of text.
    Note(&'a str),
    /// A stage before training moves on; `total` is `None` where it is not known.
    Progress {
        /// Which stage.
        what: &'a str,
        /// Done so far.
        done: u64,
        /// Of so many.
        total: Option<u64>,
    },
    /// The resolved plan, before the first step.
    Planned(&'a Plan),
    /// An update was done.
    Step {
        /// Its numbers.
        row: &'a Row,
        /// Updates of the whole run.
        steps: u64,
        /// Expected seconds to the end.
        secs_left: f64,
    },
    /// The validation text was scored.
    Evaluated(&'a Row),
    /// The model wrote something.
    Sample {
        /// What it was given.
        prompt: &'a str,
        /// What it wrote.
        text: &'a str,
    },
    /// A checkpoint is safe on disk.
    Saved {
        /// Its step.
        step: u64,
        /// Its folder.
        path: &'a Path,
    },
}

/// A watcher of a run.
pub trait Observer {
    /// Takes note of `event`; called from the training thread.
    fn event(&mut self, event: &Event<'_>);
}

/// Two watchers of one run.
impl<A: Observer, B: Observer> Observer for (&mut A, &mut B) {
    fn event(&mut self, event: &Event<'_>) {
        self.0.event(event);
        self.1.event(event);
    }
}

/// A watcher that looks away.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn event(&mut self, _: &Event<'_>) {}
}
