//! How good a language model is: perplexity, bits per byte, multiple choice, continuation, a byte n-gram to compare with.
//!
//! ```text
//! documents -> windows -> Forward::token_losses -> TextScore { nats, tokens, bytes } -> bits per byte, perplexity
//! task file -> prompts -> Forward::logits       -> TaskReport { acc, .. }            -> table, JSON
//! ids       ----------->  Forward::token_losses -> IdScores
//! ```
//!
//! [`evaluate_text`] scores text, [`run_task`] runs an entry of [`TASKS`], [`score_ids`] gives the raw numbers for ids.
//! Sums travel: [`TextScore`] divides only when it is asked for a mean. `examples/bits_per_byte.rs` shows it.

mod error;
mod ids;
mod ngram;
mod requests;
mod tasks;
mod text;
mod windows;

pub use error::EvalError;
pub use ids::{IdScores, read_ids, score_ids};
pub use ngram::ByteNgram;
pub use tasks::{
    Item, Metric, TASKS, Task, TaskKind, TaskOptions, TaskReport, run_task, table, task,
};
pub use text::{EvalDocument, TextOptions, TextScore, evaluate_text};
