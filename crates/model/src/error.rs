//! The one error of this crate: what was wrong, where, and what to do.

use std::path::PathBuf;

/// Why a configuration, a device name or a model directory was refused.
///
/// The last line of every message starts with `help:` and says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A field of a [`LlamaConfig`](crate::LlamaConfig) makes no sense by itself or beside another.
    #[error("model configuration: {field} is {found}, but {expected}\nhelp: {help}")]
    Config {
        /// The field that is wrong.
        field: &'static str,
        /// Its value.
        found: String,
        /// The rule that it breaks.
        expected: String,
        /// What to change.
        help: String,
    },
    /// No preset has this name.
    #[error("unknown preset `{name}`\nhelp: {}known presets are {}", nearest(nearest_name), known.join(", "))]
    UnknownPreset {
        /// The name asked for.
        name: String,
        /// The most similar known name, if any is close.
        nearest_name: Option<&'static str>,
        /// All known names.
        known: Vec<&'static str>,
    },
    /// No device has this name.
    #[error("unknown device `{name}`\nhelp: known devices are {}", known.join(", "))]
    UnknownDevice {
        /// The name asked for.
        name: String,
        /// The forms that are understood.
        known: Vec<&'static str>,
    },
    /// The device is known, but its backend was not compiled in.
    #[error(
        "device `{name}` needs a backend that is not compiled in\nhelp: build with `--features {feature}`; compiled in are {}",
        if available.is_empty() { "none".to_owned() } else { available.join(", ") }
    )]
    MissingBackend {
        /// The device asked for.
        name: String,
        /// The cargo feature that brings its backend.
        feature: &'static str,
        /// The devices that this program does have.
        available: Vec<&'static str>,
    },
    /// A GGUF file is damaged or not what is read here.
    #[error(transparent)]
    Gguf(Box<caravan_gguf::GgufError>),
    /// A file or folder could not be read or written.
    #[error("cannot {action} `{path}`: {source}\nhelp: {help}")]
    Io {
        /// What was tried: `read`, `write`, `rename`, ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What to do.
        help: String,
        /// The operating system's reason.
        #[source]
        source: std::io::Error,
    },
    /// A folder holds no model in Hugging Face form.
    #[error(
        "`{path}` holds no model: there is no {missing}\nhelp: give a folder with config.json and model.safetensors, as `save_pretrained` of transformers writes it"
    )]
    NoModel {
        /// The folder.
        path: PathBuf,
        /// What was looked for.
        missing: &'static str,
    },
    /// A JSON file is not what it should be.
    #[error(
        "cannot understand `{path}`: {source}\nhelp: copy the file again from where it came; it must be JSON"
    )]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's reason, with line and column.
        #[source]
        source: serde_json::Error,
    },
    /// A key of a JSON file is missing or has the wrong type or value.
    #[error("`{path}`: `{key}` is {found}, but must be {expected}\nhelp: {help}")]
    Key {
        /// The file.
        path: PathBuf,
        /// The key, dotted when nested.
        key: String,
        /// What is there.
        found: String,
        /// What would be understood.
        expected: String,
        /// What to do.
        help: String,
    },
    /// A safetensors file is damaged.
    #[error(
        "`{path}` is no valid safetensors file: {source}\nhelp: copy or download the file again; it is damaged or cut short"
    )]
    SafeTensors {
        /// The file.
        path: PathBuf,
        /// The reader's reason.
        #[source]
        source: safetensors::SafeTensorError,
    },
    /// Tensors that the configuration asks for are not in the files.
    #[error("`{path}` lacks {} of the model's tensors: {}\nhelp: config.json must describe the weights beside it; check num_hidden_layers and tie_word_embeddings, or that every shard is there", names.len(), first(names))]
    MissingTensors {
        /// The folder.
        path: PathBuf,
        /// Every missing name.
        names: Vec<String>,
    },
    /// A tensor has another shape than the configuration asks for.
    #[error(
        "`{path}`: tensor `{name}` has shape {found:?}, but the configuration asks for {expected:?}\nhelp: config.json and the weights belong to different models; take both from the same place"
    )]
    ShapeMismatch {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The shape from the configuration, as the file would store it.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A tensor is stored in a number format that is not read.
    #[error(
        "`{path}`: tensor `{name}` is stored as {found}\nhelp: convert the model to F32, BF16 or F16 first"
    )]
    Dtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its number format.
        found: String,
    },
    /// The same tensor is in two files of a sharded model.
    #[error(
        "tensor `{name}` is in both `{first}` and `{second}`\nhelp: remove the file that does not belong to this model"
    )]
    DuplicateTensor {
        /// The tensor.
        name: String,
        /// One file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A weight is too large for the number format asked for.
    #[error(
        "parameter `{path}` holds {value:e}, which {dtype} cannot hold\nhelp: export as f32 or bf16"
    )]
    Overflow {
        /// The parameter.
        path: String,
        /// The value.
        value: f32,
        /// The number format.
        dtype: &'static str,
    },
}

impl From<caravan_gguf::GgufError> for ModelError {
    fn from(error: caravan_gguf::GgufError) -> Self {
        Self::Gguf(Box::new(error))
    }
}

fn nearest(name: &Option<&'static str>) -> String {
    name.map(|name| format!("did you mean `{name}`? ")).unwrap_or_default()
}

/// The first few names, and how many more there are.
fn first(names: &[String]) -> String {
    const SHOWN: usize = 6;
    let mut text = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}
