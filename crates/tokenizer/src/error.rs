//! The one error type of this crate.

use std::path::PathBuf;

/// Why a tokenizer could not be read, used or trained.
///
/// The text is one lower-case message and a last line `help: ...` that says what to do.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A file or folder cannot be read or written.
    #[error("{doing} `{}`: {source}\nhelp: check the path and its permissions", path.display())]
    Io {
        /// What was tried, such as `reading`.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Nothing lies at the path.
    #[error("`{}`: no such file or folder\nhelp: give a `tokenizer.model`, a `tokenizer.json` or a folder that holds one", path.display())]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// A folder without a tokenizer.
    #[error("folder `{}` holds neither `tokenizer.model` nor `tokenizer.json`\nhelp: give the file itself, or copy it into the folder under one of these names", path.display())]
    NoTokenizerInFolder {
        /// The folder.
        path: PathBuf,
    },
    /// A GGUF file that is damaged, or holds no tokenizer that is known here.
    #[error(transparent)]
    Gguf(Box<caravan_gguf::GgufError>),
    /// A file of no bytes.
    #[error("tokenizer `{}` is empty\nhelp: copy or download the file again", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A file that is something else.
    #[error("`{}` is no tokenizer: it is {found}, expected a SentencePiece model or a Hugging Face tokenizer.json\nhelp: {help}", path.display())]
    NotATokenizer {
        /// The file.
        path: PathBuf,
        /// What its content looks like.
        found: &'static str,
        /// What to do about that.
        help: &'static str,
    },
    /// A file that ends too early.
    #[error("{kind} `{}` is cut off: {reason}, the file ends at byte {len}\nhelp: copy or download the file again", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Which kind of tokenizer it is.
        kind: &'static str,
        /// Its length in bytes.
        len: usize,
        /// What is missing.
        reason: String,
    },
    /// A file of the right kind with wrong content.
    #[error("{kind} `{}` is damaged: {reason}\nhelp: copy or download the file again, or make it anew with the tool that wrote it", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Which kind of tokenizer it is.
        kind: &'static str,
        /// What is wrong, and where.
        reason: String,
    },
    /// The file is fine but its reader is not in this program.
    #[error("`{}` is a {kind}, which this build cannot read\nhelp: build caravan-tokenizer with the feature `{feature}`", path.display())]
    FeatureMissing {
        /// The file.
        path: PathBuf,
        /// Which kind of tokenizer it is.
        kind: &'static str,
        /// The cargo feature that reads it.
        feature: &'static str,
    },
    /// An id that names no token.
    #[error(
        "token id {id} at position {position} names no token, the vocabulary has {vocab_size}\nhelp: decode with the tokenizer that made the ids"
    )]
    UnknownId {
        /// The id.
        id: u32,
        /// Its index among the ids.
        position: usize,
        /// Ids are below this.
        vocab_size: usize,
    },
    /// One stretch of text that the engine cannot take in one call.
    #[error(
        "a text of {len} bytes is too long to encode in one call, the limit is {limit}\nhelp: split it into documents or lines first"
    )]
    TextTooLong {
        /// Bytes of the stretch.
        len: usize,
        /// The largest that is taken.
        limit: usize,
    },
    /// The library that encodes or decodes refused.
    #[error(
        "{engine} failed: {source}\nhelp: the tokenizer file and this text do not go together, check the file with `caravan tokenizer info`"
    )]
    Engine {
        /// Which library.
        engine: &'static str,
        /// What it said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A text that is no tokenizer hash.
    #[error(
        "`{found}` is no tokenizer hash, expected 64 hexadecimal digits\nhelp: take it from `caravan tokenizer info`"
    )]
    BadHash {
        /// The text.
        found: String,
    },
    /// A setting of the training is out of its range.
    #[error("{name} is {found}, expected {expected}\nhelp: change {name}")]
    BadSetting {
        /// The setting.
        name: &'static str,
        /// Its value.
        found: String,
        /// Which values it may have.
        expected: &'static str,
    },
    /// The iterator of training texts failed.
    #[error("{0}")]
    Source(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// There is nothing to train on.
    #[error(
        "the training text is empty: {documents} documents without a character to learn from\nhelp: give text, see `text` in the configuration"
    )]
    NoText {
        /// How many documents were read.
        documents: u64,
    },
    /// The vocabulary cannot hold what it must.
    #[error(
        "vocab_size {vocab_size} is too small: 3 special tokens, 256 bytes and {n_characters} characters of the text need {minimum}\nhelp: set vocab_size to at least {minimum}, or lower character_coverage"
    )]
    VocabTooSmall {
        /// What was asked for.
        vocab_size: usize,
        /// The smallest that works for this text and coverage.
        minimum: usize,
        /// Characters that must be pieces.
        n_characters: usize,
    },
    /// The text has fewer pieces than asked for.
    #[error(
        "vocab_size {vocab_size} is larger than the text supports: it yields at most {maximum}\nhelp: set vocab_size to {maximum} or less, or give more text"
    )]
    VocabTooLarge {
        /// What was asked for.
        vocab_size: usize,
        /// The largest that works for this text.
        maximum: usize,
    },
    /// A pair occurs more often than the trainer can count.
    #[error(
        "the pair `{pair}` occurs {count} times in the training text, the trainer counts to {limit}\nhelp: train the tokenizer on a part of the text"
    )]
    TooMuchText {
        /// The two characters.
        pair: String,
        /// How often they stand beside each other.
        count: u64,
        /// The largest count.
        limit: u64,
    },
}

impl From<caravan_gguf::GgufError> for TokenizerError {
    fn from(error: caravan_gguf::GgufError) -> Self {
        Self::Gguf(Box::new(error))
    }
}

/// Results of this crate.
pub(crate) type Result<T> = std::result::Result<T, TokenizerError>;
