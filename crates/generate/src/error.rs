//! What can go wrong while generating.

use caravan_tokenizer::TokenizerError;

/// Errors of this crate. The last line of each message says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// The temperature is negative or not a number.
    #[error(
        "temperature must be a finite number of at least 0, found {found}\nhelp: 0 always takes the likeliest token, 1 samples the model's own distribution"
    )]
    Temperature {
        /// The value given.
        found: f64,
    },
    /// `top_p` lies outside `(0, 1]`.
    #[error(
        "top_p must be above 0 and at most 1, found {found}\nhelp: 1 or no top_p at all keeps every token; 0.9 is a common choice"
    )]
    TopP {
        /// The value given.
        found: f64,
    },
    /// `top_k` is 0.
    #[error(
        "top_k must be at least 1, found 0\nhelp: leave top_k out to keep every token; 1 always takes the likeliest"
    )]
    TopK,
    /// The prompt leaves no room for a new token.
    #[error(
        "the prompt has {found} tokens (its start token included), the model's context holds {limit} and at least one new token must fit\nhelp: shorten the prompt, or use a model with a larger max_seq_len"
    )]
    PromptTooLong {
        /// Tokens of the prompt, BOS included.
        found: usize,
        /// The model's `max_seq_len`.
        limit: usize,
    },
    /// There is nothing to continue.
    #[error(
        "the prompt is empty and the tokenizer has no start token (BOS)\nhelp: give a prompt of at least one character"
    )]
    EmptyPrompt,
    /// The tokenizer has ids the model does not know.
    #[error(
        "the tokenizer has {tokenizer} ids, the model only {model}\nhelp: use the tokenizer the model was trained with"
    )]
    Vocabulary {
        /// Number of ids of the tokenizer.
        tokenizer: usize,
        /// `vocab_size` of the model.
        model: usize,
    },
    /// A token id that the model does not know.
    #[error(
        "token id {id} at position {position} is not below the model's vocab_size {vocab_size}\nhelp: use the tokenizer the model was trained with"
    )]
    UnknownId {
        /// The id.
        id: u32,
        /// Its index in the prompt.
        position: usize,
        /// `vocab_size` of the model.
        vocab_size: usize,
    },
    /// The model returned NaN or infinity.
    #[error(
        "the logit of token {id} at position {position} is {found}\nhelp: the weights are damaged or training diverged; use an earlier checkpoint"
    )]
    NotFinite {
        /// Token id of the first such logit.
        id: usize,
        /// Position in the sequence of the token to be chosen.
        position: usize,
        /// The value.
        found: f32,
    },
    /// The tokenizer could not encode or decode.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}
