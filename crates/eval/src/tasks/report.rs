//! What a task came to, for people and for programs.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Task, TaskKind, TaskOptions};

/// A number with its uncertainty.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Metric {
    /// For example `acc`.
    pub name: &'static str,
    /// The number.
    pub value: f64,
    /// Its standard error; absent for a single row.
    pub standard_error: Option<f64>,
}

impl Metric {
    /// The mean of `values`, with the standard error of a mean: sample deviation over the root of the count.
    pub(super) fn mean(name: &'static str, values: &[f64]) -> Self {
        let (value, standard_error) = mean(values);
        Self { name, value, standard_error }
    }

    /// `exp` of the mean, with the error carried over in first order.
    pub(super) fn exp_of_mean(name: &'static str, values: &[f64]) -> Self {
        let (mean, error) = mean(values);
        Self { name, value: mean.exp(), standard_error: error.map(|error| error * mean.exp()) }
    }
}

fn mean(values: &[f64]) -> (f64, Option<f64>) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (values.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt()))
}

/// The result of one task on one file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaskReport {
    /// Name of the task.
    pub task: &'static str,
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
    /// What was found for every row.
    #[serde(skip)]
    pub items: Vec<Item>,
}

/// What was found for a row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Item {
    /// Line of the file.
    pub line: usize,
    /// `ln p` of every choice, or of the continuation.
    pub log_probs: Vec<f64>,
    /// The first metric's value: 1 for right, 0 for wrong.
    pub score: f64,
}

impl TaskReport {
    pub(super) fn new(
        task: &Task,
        path: &Path,
        options: &TaskOptions,
        n_items: usize,
        n_truncated: usize,
        metrics: Vec<Metric>,
        items: Vec<Item>,
    ) -> Self {
        let TaskOptions { shots, seed, .. } = *options;
        let (task, kind, file) = (task.name, task.kind, path.to_owned());
        Self { task, kind, file, n_items, shots, seed, n_truncated, metrics, items }
    }

    /// The value of a metric.
    pub fn metric(&self, name: &str) -> Option<f64> {
        self.metrics.iter().find(|metric| metric.name == name).map(|metric| metric.value)
    }
}

/// A table of reports for people, one line per metric, ending in a line feed.
pub fn table(reports: &[TaskReport]) -> String {
    let width = reports.iter().map(|report| report.task.len()).chain([4]).max().unwrap_or(4);
    let mut out = format!("{:width$}  shots  rows  metric          value  +/-\n", "task");
    for report in reports {
        for metric in &report.metrics {
            let error = metric.standard_error.map_or_else(|| "-".to_owned(), |e| format!("{e:.4}"));
            // Writing to a String cannot fail.
            let _ = writeln!(
                out,
                "{:width$}  {:5}  {:4}  {:10}  {:9.4}  {error}",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_those_of_a_mean() {
        // 3 of 4 right: sqrt(0.75 * 0.25 * 4/3 / 4) = 0.25
        let acc = Metric::mean("acc", &[1.0, 1.0, 0.0, 1.0]);
        assert_eq!((acc.value, acc.standard_error), (0.75, Some(0.25)));
        let perplexity = Metric::exp_of_mean("perplexity", &[1.0, 1.0, 0.0, 1.0]);
        assert!((perplexity.standard_error.unwrap() - 0.25 * 0.75f64.exp()).abs() < 1e-12);
        assert_eq!(Metric::mean("acc", &[1.0]).standard_error, None);
    }
}
