//! What can go wrong while evaluating.

use std::path::PathBuf;

use caravan_tokenizer::TokenizerError;

/// Errors of this crate. The last line of each message says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// A file could not be read.
    #[error("cannot read {}: {source}\nhelp: check the path and its permissions", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A row of a task's file, or an `--ids` file, is not what it should be.
    #[error("{}:{place}: {reason}\nhelp: {help}", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// Its line, from 1, or where it stands in a nested file.
        place: String,
        /// What is wrong with it.
        reason: String,
        /// What a good one looks like.
        help: String,
    },
    /// A file that describes a task is not what it should be.
    #[error("task file {}: {reason}\nhelp: {help}", path.display())]
    TaskFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What a good one looks like.
        help: String,
    },
    /// A file without rows.
    #[error("{} holds no rows\nhelp: a file has one JSON object per line, or is CSV or TSV with a header", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// No such task.
    #[error("unknown task \"{name}\"\nhelp: {}known tasks are {known}", nearest.as_ref().map(|n| format!("did you mean \"{n}\"? ")).unwrap_or_default())]
    UnknownTask {
        /// The name given.
        name: String,
        /// The most similar name, if one is.
        nearest: Option<String>,
        /// All names.
        known: String,
    },
    /// A task cannot be run as asked.
    #[error("task {task}: {reason}\nhelp: {help}")]
    Options {
        /// Its name.
        task: String,
        /// What is wrong.
        reason: &'static str,
        /// What to do.
        help: &'static str,
    },
    /// More worked examples than the file has other rows.
    #[error(
        "{shots} shots need {shots} rows beside the one asked, {} has {n_rows} others{}\nhelp: use fewer shots",
        path.display(), group.as_ref().map(|group| format!(" about {group}")).unwrap_or_default()
    )]
    Shots {
        /// Shots asked for.
        shots: usize,
        /// The file.
        path: PathBuf,
        /// Its number of rows to choose from.
        n_rows: usize,
        /// The subject they must share.
        group: Option<String>,
    },
    /// A continuation alone is longer than the context.
    #[error(
        "{}:{place}: the continuation has {found} tokens, the model's context holds {limit}\nhelp: remove the row, or use a model with a larger max_seq_len", path.display()
    )]
    ContinuationTooLong {
        /// The file.
        path: PathBuf,
        /// Its line, from 1, or where it stands in a nested file.
        place: String,
        /// Tokens of the continuation.
        found: usize,
        /// The model's `max_seq_len`.
        limit: usize,
    },
    /// Windows cannot be cut as asked.
    #[error(
        "seq_len is {seq_len}, stride {stride} and rows {rows}, the model's max_seq_len {limit}\nhelp: 1 <= stride <= seq_len <= max_seq_len and rows >= 1 must hold"
    )]
    Windows {
        /// Tokens per window.
        seq_len: usize,
        /// Tokens from one window's start to the next.
        stride: usize,
        /// Rows per forward pass.
        rows: usize,
        /// The model's `max_seq_len`.
        limit: usize,
    },
    /// A document without BOS and EOS.
    #[error(
        "document {index} has {found} tokens\nhelp: a document to be scored begins with BOS and ends with EOS, so it has at least two"
    )]
    Document {
        /// Which document, from 0.
        index: u64,
        /// Its number of tokens.
        found: usize,
    },
    /// The text to be scored has no token or no byte.
    #[error("there is no text to score\nhelp: give a file or folder with text in it")]
    NoText,
    /// The tokenizer has no BOS or EOS.
    #[error(
        "the tokenizer has no {which} token, which every scored document needs\nhelp: use the tokenizer the model was trained with"
    )]
    NoSpecialToken {
        /// "BOS" or "EOS".
        which: &'static str,
    },
    /// A sequence of ids is longer than the context.
    #[error(
        "sequence {index} has {found} tokens, the model's context holds {limit}\nhelp: cut it into shorter sequences"
    )]
    SequenceTooLong {
        /// Which sequence, from 0.
        index: usize,
        /// Its length.
        found: usize,
        /// The model's `max_seq_len`.
        limit: usize,
    },
    /// A token id that the model does not know.
    #[error(
        "token id {id} (sequence {index}, position {position}) is not below the model's vocab_size {vocab_size}\nhelp: use the tokenizer the model was trained with"
    )]
    UnknownId {
        /// The id.
        id: u32,
        /// Which sequence, document or request, from 0.
        index: usize,
        /// Position in it, from 0.
        position: usize,
        /// `vocab_size` of the model.
        vocab_size: usize,
    },
    /// The model could not write.
    #[error(transparent)]
    Generate(#[from] caravan_generate::GenerateError),
    /// The tokenizer could not encode.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}
