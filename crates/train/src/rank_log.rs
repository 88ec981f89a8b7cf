//! What a rank that has no terminal writes down: a file of plain lines.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::observer::{Event, Observer};

/// A rank's log, `logs/rank-00001.log` in the run folder; a resumed run goes on with it.
#[derive(Debug)]
pub struct RankLog {
    path: PathBuf,
    file: Option<File>,
}

impl RankLog {
    /// The log of `rank` in the run folder `dir`. The file is made when there is something to write.
    pub fn new(dir: &Path, rank: usize) -> Self {
        Self { path: dir.join("logs").join(format!("rank-{rank:05}.log")), file: None }
    }

    fn line(&mut self, text: &str) {
        if self.file.is_none() {
            let made = self.path.parent().map_or(Ok(()), std::fs::create_dir_all);
            let open = || OpenOptions::new().create(true).append(true).open(&self.path);
            self.file = made.and_then(|()| open()).ok();
        }
        // A log that cannot be written is no reason to end a run: the checkpoints say if the disk is full.
        if let Some(file) = &mut self.file {
            let _ = writeln!(file, "{text}");
        }
    }
}

impl Observer for RankLog {
    fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Note(text) => self.line(text),
            Event::Planned(plan) => self.line(&format!("plan\n{}", plan.describe())),
            Event::Step { row, steps, .. } => self.line(&format!(
                "step {}/{steps} loss {:.6} norm {:.4} {:.0} tokens/s",
                row.step,
                row.train_loss.unwrap_or(f64::NAN),
                row.grad_norm.unwrap_or(f64::NAN),
                row.tokens_per_sec.unwrap_or_default()
            )),
            Event::Saved { step, path } => {
                self.line(&format!("step {step}: saved `{}`", path.display()));
            }
            Event::Evaluated(_) | Event::Sample { .. } | Event::Progress { .. } => {}
        }
    }
}
