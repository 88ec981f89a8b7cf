//! What can go wrong before ranks start to work together.

use thiserror::Error;

/// The crate's result.
pub type Result<T> = std::result::Result<T, ParallelError>;

/// A layout that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ParallelError {
    /// Degrees that do not fit the model, the batch or the number of ranks.
    #[error("{problem}\nhelp: {help}")]
    Layout {
        /// What does not fit what.
        problem: String,
        /// What to change.
        help: String,
    },
}
