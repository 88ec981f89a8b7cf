//! Tasks with a right answer.
//!
//! [`TASKS`] is the table: a name, a kind and how a row becomes a prompt. A kind is a file here: how its rows look, and
//! what is measured. [`run_task`] reads a file of rows, asks the model and returns a [`TaskReport`].

mod continuation;
mod multiple_choice;
mod report;
mod rows;
mod shots;

use std::path::Path;

use caravan_model::Forward;
use caravan_tokenizer::Encode;
use serde::Serialize;

use crate::error::EvalError;
use crate::requests::{Answer, Request, answer, encode_pairs};

pub use report::{Item, Metric, TaskReport, table};

/// What a task asks and how its answer is scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TaskKind {
    /// Rows `{"query": text, "choices": [text, ..], "gold": index}`. Scores `acc` (the choice with the highest
    /// log-likelihood is right) and `acc_norm` (log-likelihood divided by the choice's length in bytes).
    MultipleChoice,
    /// Rows `{"context": text, "continuation": text}`. Scores `acc` (greedy decoding gives exactly the continuation) and
    /// `perplexity` (`exp` of the mean negative log-likelihood of a continuation, not of a token).
    Continuation,
}

/// An entry of [`TASKS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// What it is called on the command line.
    pub name: &'static str,
    /// Form of the rows and of the score.
    pub kind: TaskKind,
    /// Put between the query, without spaces at its end, and the answer's separating space.
    pub cue: &'static str,
    /// One line about it.
    pub about: &'static str,
}

/// Every task, by name. Prompts are those of EleutherAI's lm-evaluation-harness.
pub static TASKS: &[Task] = &[
    Task {
        name: "piqa",
        kind: TaskKind::MultipleChoice,
        cue: "\nAnswer:",
        about: "everyday physics, two choices (Bisk et al. 2019)",
    },
    Task {
        name: "arc_easy",
        kind: TaskKind::MultipleChoice,
        cue: "\nAnswer:",
        about: "school science, mostly four choices (Clark et al. 2018)",
    },
    Task {
        name: "lambada",
        kind: TaskKind::Continuation,
        cue: "",
        about: "the last word of a passage (Paperno et al. 2016)",
    },
    Task {
        name: "multiple_choice",
        kind: TaskKind::MultipleChoice,
        cue: "",
        about: "any file with query, choices and gold; the query is used as it is",
    },
    Task {
        name: "continuation",
        kind: TaskKind::Continuation,
        cue: "",
        about: "any file with context and continuation",
    },
];

/// Finds a task by name.
///
/// # Errors
/// An unknown name; the error has the nearest known one.
pub fn task(name: &str) -> Result<&'static Task, EvalError> {
    TASKS.iter().find(|task| task.name == name).ok_or_else(|| {
        let similar = TASKS
            .iter()
            .map(|task| (strsim::jaro_winkler(name, task.name), task.name))
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .filter(|(similarity, _)| *similarity > 0.7);
        let known = TASKS.iter().map(|task| task.name).collect::<Vec<_>>().join(", ");
        EvalError::UnknownTask {
            name: name.to_owned(),
            nearest: similar.map(|(_, n)| n.to_owned()),
            known,
        }
    })
}

/// How to run a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskOptions {
    /// Worked examples before each question, drawn from the other rows of the same file.
    pub shots: usize,
    /// Only the first so many rows are asked; the examples still come from all.
    pub limit: Option<usize>,
    /// Seed of the choice of examples.
    pub seed: u64,
    /// Rows per forward pass.
    pub rows: usize,
}

impl Default for TaskOptions {
    /// No examples, all rows, eight rows per forward pass.
    fn default() -> Self {
        Self { shots: 0, limit: None, seed: 0, rows: 8 }
    }
}

/// Asks the model every row of the file at `path`.
///
/// # Errors
/// A file that cannot be read, a bad row (with its line), too few rows for the shots, a continuation longer than the context.
pub fn run_task(
    model: &dyn Forward,
    tokenizer: &dyn Encode,
    task: &Task,
    path: &Path,
    options: &TaskOptions,
) -> Result<TaskReport, EvalError> {
    match task.kind {
        TaskKind::MultipleChoice => multiple_choice::run(model, tokenizer, task, path, options),
        TaskKind::Continuation => continuation::run(model, tokenizer, task, path, options),
    }
}

/// Prompt and answer, and the line of the file they come from.
struct Question {
    line: usize,
    prompt: String,
    answer: String,
}

/// Encodes the questions and asks the model; `path` is for errors.
fn ask(
    model: &dyn Forward,
    tokenizer: &dyn Encode,
    path: &Path,
    questions: Vec<Question>,
    rows: usize,
) -> Result<Vec<Answer>, EvalError> {
    let (lines, pairs): (Vec<usize>, Vec<(String, String)>) =
        questions.into_iter().map(|q| (q.line, (q.prompt, q.answer))).unzip();
    let requests = encode_pairs(tokenizer, &pairs)?;
    let limit = model.config().max_seq_len;
    for (Request { context, continuation }, line) in requests.iter().zip(lines) {
        let (path, found) = (path.to_owned(), continuation.len());
        if context.is_empty() || found == 0 {
            let reason = "the context or the answer is empty once encoded".to_owned();
            return Err(EvalError::Row { path, line, reason, help: "give both some text" });
        }
        if found > limit {
            return Err(EvalError::ContinuationTooLong { path, line, found, limit });
        }
    }
    answer(model, &requests, rows.max(1))
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
}
