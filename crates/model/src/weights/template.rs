//! What a model's files say about conversations: its chat template and the ids that end a text.

use std::path::Path;

use caravan_gguf::Header;
use serde_json::Value;

use super::gguf;
use super::read::read_text;
use crate::ModelError;

/// All ids that end a text, the first of them EOS: a chat model often has one more for the end of a turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndIds(pub Vec<u32>);

/// The chat template of a model, a Jinja text: of a GGUF file its metadata, of a folder `chat_template.jinja` or what
/// `tokenizer_config.json` says (of several the one called `default`).
///
/// # Errors
/// A file that is there cannot be read or understood.
pub fn chat_template(path: &Path) -> Result<Option<String>, ModelError> {
    if path.is_file() {
        return if Header::is_gguf(path) { gguf::template(path) } else { Ok(None) };
    }
    let alone = path.join("chat_template.jinja");
    if alone.is_file() {
        return read_text(&alone).map(Some);
    }
    let config = path.join("tokenizer_config.json");
    if !config.is_file() {
        return Ok(None);
    }
    let value = json(&config)?;
    match value.get("chat_template") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Array(named)) => {
            let default = named.iter().find(|entry| entry["name"] == "default");
            let text = default.and_then(|entry| entry["template"].as_str());
            text.map(|text| Some(text.to_owned()))
                .ok_or_else(|| wrong(&config, "a list without an entry `default`"))
        }
        Some(_) => Err(wrong(&config, "neither a text nor a list")),
    }
}

fn wrong(path: &Path, found: &str) -> ModelError {
    ModelError::Key {
        path: path.to_owned(),
        key: "chat_template".into(),
        found: found.into(),
        expected: "a Jinja text, or a list of texts by name".into(),
        help: "copy the file again from where the model came".into(),
    }
}

fn json(path: &Path) -> Result<Value, ModelError> {
    serde_json::from_str(&read_text(path)?)
        .map_err(|source| ModelError::Json { path: path.to_owned(), source })
}

impl EndIds {
    /// Those of `config.json` and of `generation_config.json`, in this order.
    pub(super) fn of_folder(dir: &Path) -> Result<Self, ModelError> {
        let mut ids = Vec::new();
        for name in ["config.json", "generation_config.json"] {
            let path = dir.join(name);
            if !path.is_file() {
                continue;
            }
            let value = json(&path)?;
            let found = match value.get("eos_token_id") {
                Some(Value::Array(found)) => found.clone(),
                Some(one) => vec![one.clone()],
                None => Vec::new(),
            };
            for id in found.iter().filter_map(Value::as_u64).filter_map(|id| u32::try_from(id).ok())
            {
                if !ids.contains(&id) {
                    ids.push(id);
                }
            }
        }
        Ok(Self(ids))
    }
}
