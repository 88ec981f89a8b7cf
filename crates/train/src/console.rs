//! A run on a terminal: a progress bar where there is a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::metrics::Row;
use crate::observer::{Event, Observer};
use crate::plan::group;

/// Without a terminal, at most one line in this time.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows a run on standard error.
#[derive(Debug)]
pub struct Console {
    bar: Option<ProgressBar>,
    training: bool,
    terminal: bool,
    last_line: Option<Instant>,
    stage: String,
}

impl Default for Console {
    fn default() -> Self {
        Self::new()
    }
}

impl Console {
    /// A console on standard error.
    pub fn new() -> Self {
        Self {
            bar: None,
            training: false,
            terminal: std::io::stderr().is_terminal(),
            last_line: None,
            stage: String::new(),
        }
    }

    /// Ends the bar, so that what is printed next stands on its own line.
    pub fn close(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.training = false;
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| put(text)),
            None => put(text),
        }
    }

    fn due(&mut self) -> bool {
        let due = self.last_line.is_none_or(|t| t.elapsed() >= LINE_EVERY);
        if due {
            self.last_line = Some(Instant::now());
        }
        due
    }

    fn stage(&mut self, what: &str, done: u64, total: Option<u64>) {
        if self.stage != what {
            self.close();
            what.clone_into(&mut self.stage);
            self.last_line = None;
        }
        if !self.terminal {
            if self.due() {
                let total = total.map_or(String::new(), |t| format!(" of {}", group(t)));
                put(&format!("{what}: {}{total}", group(done)));
            }
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
            let style = if total.is_some() {
                "{msg:12} {wide_bar:.cyan/blue} {percent:>3}% {eta}"
            } else {
                "{msg:12} {spinner} {pos}"
            };
            bar.set_style(ProgressStyle::with_template(style).expect("a correct template"));
            bar.set_message(what.to_owned());
            bar
        });
        bar.set_position(done);
    }

    fn step(&mut self, row: &Row, steps: u64, secs_left: f64) {
        if !self.training {
            self.close();
            self.training = true;
            self.last_line = None;
        }
        let loss = row.train_loss.unwrap_or(f64::NAN);
        let rate = row.tokens_per_sec.unwrap_or_default();
        if !self.terminal {
            if self.due() || row.step == steps {
                put(&format!(
                    "step {:>6}/{steps}  loss {loss:.4}  norm {:.2}  lr {:.2e}  {} tokens/s  {} left",
                    row.step,
                    row.grad_norm.unwrap_or_default(),
                    row.lr.unwrap_or_default(),
                    group(rate as u64),
                    clock(secs_left)
                ));
            }
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr());
            bar.set_style(
                ProgressStyle::with_template("step {pos:>6}/{len} {wide_bar:.cyan/blue} {msg}")
                    .expect("a correct template"),
            );
            bar
        });
        bar.set_message(format!(
            "loss {loss:.4}  {} tokens/s  {} left",
            group(rate as u64),
            clock(secs_left)
        ));
        bar.set_position(row.step);
    }
}

impl Observer for Console {
    fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Note(text) => {
                if !self.training {
                    self.close();
                }
                self.line(text);
            }
            Event::Progress { what, done, total } => self.stage(what, *done, *total),
            Event::Planned(plan) => {
                self.close();
                put(&format!("plan\n{}", plan.describe()));
            }
            Event::Step { row, steps, secs_left } => self.step(row, *steps, *secs_left),
            Event::Evaluated(row) => self.line(&format!(
                "step {:>6}: validation loss {:.4}, {:.4} bits per byte",
                row.step,
                row.val_loss.unwrap_or(f64::NAN),
                row.val_bits_per_byte.unwrap_or(f64::NAN)
            )),
            Event::Sample { prompt, text } => {
                self.line(&format!("  {prompt}|{}", text.replace('\n', "\n  ")))
            }
            Event::Saved { step, path } => {
                self.line(&format!("step {step:>6}: saved `{}`", path.display()))
            }
        }
    }
}

/// `3725` seconds as `1:02:05`.
pub fn clock(secs: f64) -> String {
    let s = secs.max(0.0).round() as u64;
    if s >= 3600 {
        format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
    } else {
        format!("{}:{:02}", s / 60, s % 60)
    }
}

/// A closed standard error is no reason to end a run.
fn put(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    #[test]
    fn time_reads_like_a_clock() {
        assert_eq!(super::clock(3725.2), "1:02:05");
        assert_eq!(super::clock(65.0), "1:05");
    }
}
