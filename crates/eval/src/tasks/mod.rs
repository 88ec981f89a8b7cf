//! Tasks with a right answer.
//!
//! ```text
//! file -> rows -> Form -> items (Ask: choose, continue, generate, roll) -> prompts with examples -> model -> TaskReport
//! ```
//!
//! [`TASKS`] is the table of what is known by name. A [`Task`] has a kind, which says what is asked of the model and which
//! metrics there are, and a form, which says how a row becomes an item. [`read_task_file`] makes a task of a short TOML
//! file. [`run_task`] asks the model about every row of a file.

mod ask;
mod choices;
mod form;
mod metrics;
mod normalise;
mod numbers;
mod own;
mod partial;
mod passages;
mod report;
mod run;
mod shots;
mod table;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::error::EvalError;

pub use own::{TaskFile, read_task_file};
pub use report::{ItemDetail, ItemReport, Metric, TaskReport, table};
pub use run::{TaskOptions, TaskRun, run_task, run_task_items, score_answer};
pub use table::TASKS;

use form::Form;
use normalise::Language;

/// What a task asks and how its answers are scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TaskKind {
    /// Which of several texts is the likeliest? `acc` (by log-likelihood), `acc_norm` (divided by the choice's length in
    /// characters), `acc_bytes` (in bytes).
    MultipleChoice,
    /// How likely is this continuation? `acc` (greedy decoding gives exactly it) and `perplexity` (`exp` of the mean
    /// negative log-likelihood of a continuation, not of a token).
    Continuation,
    /// What is the answer, a stretch of the passage? `exact_match` and `f1`, both after normalisation.
    ExtractiveQa,
    /// What does the model write? `exact_match`, `exact_match_strict` and `exact_match_flexible` (numbers in the form of
    /// GSM8K), `f1`.
    Generation,
    /// How well is a whole text predicted? `word_perplexity`, `byte_perplexity`, `bits_per_byte`, `perplexity` (per token).
    Rolling,
}

impl TaskKind {
    /// All metrics of the kind.
    pub(crate) fn metrics(self) -> &'static [&'static str] {
        match self {
            Self::MultipleChoice => &["acc", "acc_norm", "acc_bytes"],
            Self::Continuation => &["acc", "perplexity"],
            Self::ExtractiveQa => &["exact_match", "f1"],
            Self::Generation => {
                &["exact_match", "exact_match_strict", "exact_match_flexible", "f1"]
            }
            Self::Rolling => &["word_perplexity", "byte_perplexity", "bits_per_byte", "perplexity"],
        }
    }
}

/// Something to ask a model: an entry of [`TASKS`], or what a task file says.
#[derive(Clone, Debug)]
pub struct Task {
    /// What it is called on the command line.
    pub name: Cow<'static, str>,
    /// What is asked and measured.
    pub kind: TaskKind,
    /// One line about it.
    pub about: Cow<'static, str>,
    /// Which of the kind's metrics are reported.
    pub metrics: Cow<'static, [&'static str]>,
    /// How a row becomes an item.
    pub(crate) form: Form,
    /// What ends a generated answer.
    pub(crate) stop: Cow<'static, [Cow<'static, str>]>,
    /// At most so many tokens are generated.
    pub(crate) max_tokens: usize,
    /// How answers are normalised.
    pub(crate) language: Language,
}

/// Finds a task by name.
///
/// # Errors
/// An unknown name; the error has the nearest known one.
pub fn task(name: &str) -> Result<&'static Task, EvalError> {
    TASKS.iter().find(|task| task.name == name).ok_or_else(|| {
        let similar = TASKS
            .iter()
            .map(|task| (strsim::jaro_winkler(name, &task.name), &task.name))
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .filter(|(similarity, _)| *similarity > 0.7);
        EvalError::UnknownTask {
            name: name.to_owned(),
            nearest: similar.map(|(_, name)| name.clone().into_owned()),
            known: TASKS.iter().map(|task| &*task.name).collect::<Vec<_>>().join(", "),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_task_is_refused_with_the_nearest() {
        assert_eq!(task("piqa").unwrap().kind, TaskKind::MultipleChoice);
        let error = task("arc-easy").unwrap_err().to_string();
        assert!(
            error.contains("did you mean \"arc_easy\"?") && error.contains("lambada"),
            "{error}"
        );
        assert!(!task("qqqq").unwrap_err().to_string().contains("did you mean"));
    }

    #[test]
    fn every_metric_of_a_task_is_one_of_its_kind() {
        for task in TASKS {
            assert!(task.metrics.iter().all(|name| task.kind.metrics().contains(name)), "{task:?}");
            assert_eq!(TASKS.iter().filter(|other| other.name == task.name).count(), 1, "{task:?}");
        }
    }
}
