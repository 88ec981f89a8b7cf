//! How good a language model is: perplexity, bits per byte, tasks as the field has them, a byte n-gram to compare with.
//!
//! ```text
//! documents -> windows -> Forward::token_losses -> TextScore { nats, tokens, bytes } -> bits per byte, perplexity
//! task file -> rows -> prompts -> Forward::extend -> TaskReport { acc, .. }            -> table, JSON
//! ids       ----------->  Forward::token_losses -> IdScores
//! ```
//!
//! [`evaluate_text`] scores text, [`run_task`] runs an entry of [`TASKS`] or a task of [`read_task_file`], [`score_ids`]
//! gives the raw numbers for ids. Sums travel: [`TextScore`] divides only when it is asked for a mean.
//! `examples/bits_per_byte.rs` shows it; `docs/eval.md` has every task, its forms and where definitions differ.

mod error;
mod ids;
mod ngram;
mod random;
mod rolling;
mod rows;
mod scoring;
mod tasks;
mod text;
mod windows;
mod writing;

pub use error::EvalError;
pub use ids::{IdScores, read_ids, score_ids};
pub use ngram::ByteNgram;
pub use random::random;
pub use tasks::{
    ItemDetail, ItemReport, Metric, TASKS, Task, TaskFile, TaskKind, TaskOptions, TaskReport,
    TaskRun, read_task_file, run_task, run_task_items, score_answer, table, task,
};
pub use text::{EvalDocument, TextOptions, TextScore, evaluate_text};
