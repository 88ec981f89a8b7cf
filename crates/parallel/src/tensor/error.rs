//! What a user can ask of tensor parallelism that cannot be.

use caravan_model::ModelError;

/// Why a model or a sequence cannot be split over the ranks of the tensor axis.
///
/// The last line of every message starts with `help:` and says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TensorError {
    /// Something that is cut into equal parts does not divide by the degree.
    #[error("tensor_parallel = {degree} does not divide {key} = {found}\nhelp: {help}")]
    Indivisible {
        /// The degree of tensor parallelism.
        degree: usize,
        /// The key that does not divide.
        key: &'static str,
        /// Its value.
        found: usize,
        /// What to change.
        help: String,
    },
    /// Some rank would hold no token.
    #[error(
        "tensor_parallel = {degree} splits a vocabulary of {vocab_size} tokens\nhelp: set tensor_parallel to {vocab_size} or less"
    )]
    Vocabulary {
        /// The degree of tensor parallelism.
        degree: usize,
        /// Tokens in the vocabulary.
        vocab_size: usize,
    },
    /// Sequence parallelism cuts sequences into equal parts.
    #[error(
        "sequence_parallel needs seq_len to be a multiple of tensor_parallel = {degree}, but it is {seq_len}\nhelp: set seq_len to {}, or sequence_parallel to false",
        multiples(*seq_len, *degree)
    )]
    Sequence {
        /// The degree of tensor parallelism.
        degree: usize,
        /// Positions of a sequence.
        seq_len: usize,
    },
    /// The model itself is not possible.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// The multiples of `degree` around `seq_len`.
fn multiples(seq_len: usize, degree: usize) -> String {
    let below = seq_len / degree * degree;
    match below {
        0 => degree.to_string(),
        _ => format!("{below} or {}", below + degree),
    }
}
