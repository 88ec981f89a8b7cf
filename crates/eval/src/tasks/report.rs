//! What a task came to, for people and for programs.

use std::fmt::Write;
use std::path::PathBuf;

use serde::Serialize;

use super::TaskKind;
pub use super::metrics::Metric;

/// The result of one task on one file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaskReport {
    /// Name of the task.
    pub task: String,
    /// Its kind.
    pub kind: TaskKind,
    /// The file.
    pub file: PathBuf,
    /// Rows asked.
    pub n_items: usize,
    /// Worked examples before each.
    pub shots: usize,
    /// Seed of the choice of examples.
    pub seed: u64,
    /// Prompts whose beginning had to be dropped to fit the model's context.
    pub n_truncated: usize,
    /// The scores.
    pub metrics: Vec<Metric>,
}

impl TaskReport {
    /// The value of a metric.
    pub fn metric(&self, name: &str) -> Option<f64> {
        self.metrics.iter().find(|metric| metric.name == name).map(|metric| metric.value)
    }
}

/// What was asked and answered in one row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ItemReport {
    /// Name of the task.
    pub task: String,
    /// Where the row stands in its file: a line number, or the path inside a nested file.
    pub place: String,
    /// The rest, by kind.
    #[serde(flatten)]
    pub detail: ItemDetail,
}

/// What was asked and answered, by kind of task.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum ItemDetail {
    /// Multiple choice.
    Choice {
        /// Context and continuation of each choice, as the model saw them.
        requests: Vec<(String, String)>,
        /// `ln p(continuation | context)` of each.
        log_probs: Vec<f64>,
        /// Whether greedy decoding gives it.
        greedy: Vec<bool>,
        /// Index of the right one.
        gold: usize,
        /// Index of the likeliest.
        predicted: usize,
        /// By log-likelihood over characters.
        predicted_norm: usize,
        /// By log-likelihood over bytes.
        predicted_bytes: usize,
    },
    /// Continuation.
    Continuation {
        /// Context and continuation, as the model saw them.
        request: (String, String),
        /// `ln p(continuation | context)`.
        log_prob: f64,
        /// Whether greedy decoding gives it.
        greedy: bool,
    },
    /// Extractive question answering and generation.
    Written {
        /// As the model saw it.
        prompt: String,
        /// What the model wrote.
        written: String,
        /// What is right.
        answers: Vec<String>,
        /// The value of each metric.
        scores: Vec<(&'static str, f64)>,
    },
    /// A whole text.
    Rolled {
        /// `ln p(text)`.
        log_prob: f64,
        /// Its tokens.
        n_tokens: u64,
        /// Its words, as split at white space.
        n_words: u64,
        /// Its bytes of UTF-8.
        n_bytes: u64,
    },
}

/// A table of reports for people, one line per metric, ending in a line feed.
pub fn table(reports: &[TaskReport]) -> String {
    let width = reports.iter().map(|report| report.task.len()).chain([4]).max().unwrap_or(4);
    let mut out = format!("{:width$}  shots  rows  metric                    value  +/-\n", "task");
    for report in reports {
        for metric in &report.metrics {
            let error = metric.standard_error.map_or_else(|| "-".to_owned(), |e| format!("{e:.4}"));
            // Writing to a String cannot fail.
            let _ = writeln!(
                out,
                "{:width$}  {:5}  {:4}  {:20}  {:9.4}  {error}",
                report.task, report.shots, report.n_items, metric.name, metric.value
            );
        }
        if report.n_truncated > 0 {
            let _ = writeln!(
                out,
                "{:width$}  {} prompts were longer than the model's context and lost their beginning",
                "", report.n_truncated
            );
        }
    }
    out
}
