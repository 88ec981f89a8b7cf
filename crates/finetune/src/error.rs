//! What can go wrong while fine-tuning.

use std::path::PathBuf;

/// Errors of this crate. The last line of each message says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FinetuneError {
    /// A file cannot be read or written.
    #[error("cannot {action} `{}`: {source}\nhelp: check the path and its permissions", path.display())]
    Io {
        /// `read`, `write`, ...
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A row of a file is not what was expected.
    #[error("`{}` line {line}: {problem}\nhelp: {help}", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// Its line, counted from 1.
        line: usize,
        /// What is wrong.
        problem: String,
        /// What to do.
        help: String,
    },
    /// A file as a whole is not what was expected.
    #[error("`{}`: {problem}\nhelp: {help}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
        /// What to do.
        help: String,
    },
    /// A setting makes no sense.
    #[error("{key} = {found}: {problem}\nhelp: {help}")]
    Setting {
        /// The key.
        key: String,
        /// Its value.
        found: String,
        /// What is wrong.
        problem: String,
        /// What to do.
        help: String,
    },
    /// The loss or a gradient is no number.
    #[error("step {step}: {what} is not finite ({value})\nhelp: lower peak_lr, or raise warmup")]
    NotFinite {
        /// The update.
        step: u64,
        /// Which number.
        what: String,
        /// Its value.
        value: f64,
    },
    /// The model.
    #[error(transparent)]
    Model(#[from] caravan_model::ModelError),
    /// The optimizer or its schedule.
    #[error(transparent)]
    Optim(#[from] caravan_optim::OptimError),
    /// Ranks, checkpoints or the layout.
    #[error(transparent)]
    Train(Box<caravan_train::TrainError>),
    /// The chat template.
    #[error(transparent)]
    Template(Box<caravan_generate::GenerateError>),
    /// The tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] caravan_tokenizer::TokenizerError),
}

// Boxed: these are by far the largest.
impl From<caravan_train::TrainError> for FinetuneError {
    fn from(error: caravan_train::TrainError) -> Self {
        Self::Train(Box::new(error))
    }
}

impl From<caravan_generate::GenerateError> for FinetuneError {
    fn from(error: caravan_generate::GenerateError) -> Self {
        Self::Template(Box::new(error))
    }
}

pub(crate) type Result<T> = std::result::Result<T, FinetuneError>;

/// The text of a file, without a byte order mark.
///
/// # Errors
/// It cannot be read, or is no UTF-8.
pub(crate) fn read_text(path: &std::path::Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(io("read", path))?;
    let text = String::from_utf8(bytes).map_err(|e| FinetuneError::File {
        path: path.to_owned(),
        problem: format!("no UTF-8 at byte {}", e.utf8_error().valid_up_to()),
        help: "convert it, for example with `iconv -t UTF-8`".to_owned(),
    })?;
    match text.strip_prefix('\u{feff}') {
        Some(rest) => Ok(rest.to_owned()),
        None => Ok(text),
    }
}

pub(crate) fn io(
    action: &'static str,
    path: &std::path::Path,
) -> impl FnOnce(std::io::Error) -> FinetuneError {
    let path = path.to_owned();
    move |source| FinetuneError::Io { action, path, source }
}
