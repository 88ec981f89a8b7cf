//! What a rank writes down for later: a file of plain lines. Of ranks that have no terminal it is all there is.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::observer::{Event, Observer};

/// A rank's log, `logs/rank-00001.log` in the run folder; a resumed run goes on with it.
#[derive(Debug)]
pub struct RankLog {
    path: PathBuf,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Lines from before the run has a folder: one that is refused stays as it was.
    Waiting(String),
    Open(File),
    /// A log that cannot be written is no reason to end a run: the checkpoints say if the disk is full.
    Failed,
}

impl RankLog {
    /// The log of `rank` in the run folder `dir`. The file is made when the plan is known.
    pub fn new(dir: &Path, rank: usize) -> Self {
        let path = dir.join("logs").join(format!("rank-{rank:05}.log"));
        Self { path, state: State::Waiting(String::new()) }
    }

    /// Writes down why the run ended, if it had begun.
    pub fn failed(&mut self, error: &str) {
        if matches!(self.state, State::Open(_)) {
            self.line(&format!("error: {error}"));
        }
    }

    fn open(&mut self) {
        if let State::Waiting(lines) = &self.state {
            let made = self.path.parent().map_or(Ok(()), std::fs::create_dir_all);
            let open = || OpenOptions::new().create(true).append(true).open(&self.path);
            let file = made.and_then(|()| open());
            let file = file.and_then(|mut file| file.write_all(lines.as_bytes()).map(|()| file));
            self.state = file.map_or(State::Failed, State::Open);
        }
    }

    fn line(&mut self, text: &str) {
        match &mut self.state {
            State::Waiting(lines) => lines.extend([text, "\n"]),
            State::Open(file) => {
                // In one write, whole lines even of a rank that is killed.
                let _ = file.write_all(format!("{text}\n").as_bytes());
            }
            State::Failed => {}
        }
    }
}

impl Observer for RankLog {
    fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Note(text) => self.line(text),
            Event::Planned(plan) => {
                self.open();
                self.line(&format!("plan\n{}", plan.describe()));
            }
            Event::Step { row, steps, .. } => self.line(&format!(
                "step {}/{steps} loss {:.6} norm {:.4} {:.0} tokens/s",
                row.step,
                row.train_loss.unwrap_or(f64::NAN),
                row.grad_norm.unwrap_or(f64::NAN),
                row.tokens_per_sec.unwrap_or_default()
            )),
            Event::Evaluated(row) => self.line(&format!(
                "step {}: validation loss {:.6}",
                row.step,
                row.val_loss.unwrap_or(f64::NAN)
            )),
            Event::Saved { step, path } => {
                self.line(&format!("step {step}: saved `{}`", path.display()));
            }
            Event::Sample { .. } | Event::Progress { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_a_plan_stays_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = RankLog::new(folder.path(), 3);
        log.event(&Event::Note("before"));
        log.failed("the folder is refused");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        log.open();
        log.event(&Event::Note("after"));
        log.failed("no more hay");
        let text = std::fs::read_to_string(folder.path().join("logs/rank-00003.log")).unwrap();
        assert_eq!(text, "before\nafter\nerror: no more hay\n");
    }
}
