//! The one error of this crate: what does not fit the ranks, and what to change.

/// The crate's result.
pub type Result<T> = std::result::Result<T, ParallelError>;

/// Why a run cannot be split as asked.
///
/// The last line of every message starts with `help:` and says what to do.
#[derive(Debug, thiserror::Error)]
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
    /// Matrices that cannot be cut over the ranks of the tensor axis.
    #[error(transparent)]
    Tensor(#[from] crate::tensor::TensorError),
    /// Sequences cannot be cut evenly over the ranks of the context axis.
    #[error(
        "seq_len is {seq_len}, but context_parallel={ranks} needs a multiple of {} (two equal chunks per rank)\nhelp: {}",
        2 * ranks, nearest(*seq_len, 2 * ranks)
    )]
    SequenceSplit {
        /// The length of the whole sequences.
        seq_len: usize,
        /// The number of ranks that share one.
        ranks: usize,
    },
}

/// The multiples of `unit` around `seq_len`.
fn nearest(seq_len: usize, unit: usize) -> String {
    let (below, above) = (seq_len / unit * unit, seq_len.next_multiple_of(unit));
    if below == 0 {
        format!("set seq_len={above}, or lower context_parallel")
    } else {
        format!("set seq_len={below} or seq_len={above}, or change context_parallel")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_lengths_that_fit() {
        let error = |seq_len, ranks| ParallelError::SequenceSplit { seq_len, ranks }.to_string();
        assert_eq!(
            error(1025, 4),
            "seq_len is 1025, but context_parallel=4 needs a multiple of 8 (two equal chunks per rank)\nhelp: set seq_len=1024 or seq_len=1032, or change context_parallel"
        );
        assert!(error(3, 2).ends_with("help: set seq_len=4, or lower context_parallel"));
    }
}
