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
    /// `top_p` or `min_p` lies outside `(0, 1]`.
    #[error(
        "{name} must be above 0 and at most 1, found {found}\nhelp: leave it out to keep every token; top_p 0.9 and min_p 0.05 are common choices"
    )]
    Share {
        /// Which of them.
        name: &'static str,
        /// The value given.
        found: f64,
    },
    /// A penalty is out of range.
    #[error(
        "{name} must be a finite number{}, found {found}\nhelp: {} is no penalty",
        if *name == "repetition_penalty" { " above 0" } else { "" },
        if *name == "repetition_penalty" { 1 } else { 0 }
    )]
    Penalty {
        /// Which of them.
        name: &'static str,
        /// The value given.
        found: f64,
    },
    /// A chat template is no Jinja text that is understood, or refuses a conversation.
    #[error("the chat template {problem}\nhelp: {help}")]
    Template {
        /// What the template engine or the template itself says.
        problem: String,
        /// What to do.
        help: &'static str,
    },
    /// `top_k` is 0.
    #[error(
        "top_k must be at least 1, found 0\nhelp: leave top_k out to keep every token; 1 always takes the likeliest"
    )]
    TopK,
    /// The prompt leaves no room for a new token.
    #[error(
        "the prompt has {found} tokens (its start token included), the model's context holds {limit} and at least one new token must fit\nhelp: shorten the prompt, take a model with a larger max_seq_len, or keep only the end of the prompt (--window)"
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
