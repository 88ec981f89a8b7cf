//! BOS and EOS of a `tokenizer.json`, which does not state them itself.

use std::path::Path;

use serde_json::{Value, json};

use crate::error::{Result, TokenizerError};

/// Names of tokens that begin a document, the most telling first.
const BOS_NAMES: [&str; 7] = [
    "<|begin_of_text|>",
    "<s>",
    "<bos>",
    "<|startoftext|>",
    "<|begin_of_sentence|>",
    "[BOS]",
    "<|endoftext|>",
];

/// Names of tokens that end a document, the most telling first.
const EOS_NAMES: [&str; 6] =
    ["<|end_of_text|>", "</s>", "<eos>", "<|end_of_sentence|>", "[EOS]", "<|endoftext|>"];

/// The tokens around a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
}

impl Ends {
    /// As the files beside the tokenizer state, or by name.
    pub(super) fn of(tokenizer: &tokenizers::Tokenizer, folder: Option<&Path>) -> Result<Self> {
        Ok(Self {
            bos: end(tokenizer, folder, "bos", &BOS_NAMES)?,
            eos: end(tokenizer, folder, "eos", &EOS_NAMES)?,
        })
    }

    /// A `tokenizer_config.json` that states them.
    pub(super) fn config_json(self, tokenizer: &tokenizers::Tokenizer) -> Option<String> {
        let name = |id: Option<u32>| id.and_then(|id| tokenizer.id_to_token(id));
        let config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": name(self.bos),
            "eos_token": name(self.eos),
        });
        serde_json::to_string_pretty(&config).ok()
    }
}

fn end(
    tokenizer: &tokenizers::Tokenizer,
    folder: Option<&Path>,
    which: &str,
    names: &[&str],
) -> Result<Option<u32>> {
    if let Some(folder) = folder {
        let file = folder.join("tokenizer_config.json");
        if let Some(stated) = field(&file, &format!("{which}_token"))? {
            return by_name(tokenizer, &stated, &file);
        }
        let file = folder.join("config.json");
        if let Some(stated) = field(&file, &format!("{which}_token_id"))? {
            return by_id(tokenizer, &stated, &file);
        }
    }
    let special = tokenizer.get_added_vocabulary();
    let known = names.iter().find(|name| special.is_special_token(name));
    Ok(known.and_then(|name| tokenizer.token_to_id(name)))
}

/// A field of a JSON file; none if there is no such file or field.
fn field(file: &Path, name: &str) -> Result<Option<Value>> {
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(TokenizerError::Io { doing: "reading", path: file.to_owned(), source });
        }
    };
    let mut value: Value = serde_json::from_slice(&bytes).map_err(|e| bad(file, e.to_string()))?;
    Ok(value.get_mut(name).map(Value::take))
}

/// `"<s>"`, `{"content": "<s>", ..}` or `null`.
fn by_name(tokenizer: &tokenizers::Tokenizer, stated: &Value, file: &Path) -> Result<Option<u32>> {
    if stated.is_null() {
        return Ok(None);
    }
    let name = stated.as_str().or_else(|| stated.get("content")?.as_str());
    let id = name.and_then(|name| tokenizer.token_to_id(name));
    id.map(Some).ok_or_else(|| {
        bad(file, format!("it names the token {stated}, which the tokenizer has not"))
    })
}

/// `1`, `[1, 2]` (the first counts) or `null`.
fn by_id(tokenizer: &tokenizers::Tokenizer, stated: &Value, file: &Path) -> Result<Option<u32>> {
    if stated.is_null() {
        return Ok(None);
    }
    let number = stated.as_u64().or_else(|| stated.get(0)?.as_u64());
    let id = number.and_then(|id| u32::try_from(id).ok());
    let id = id.filter(|id| tokenizer.id_to_token(*id).is_some());
    id.map(Some).ok_or_else(|| {
        bad(file, format!("it names the token {stated}, which the tokenizer has not"))
    })
}

fn bad(file: &Path, reason: String) -> TokenizerError {
    TokenizerError::Malformed { path: file.to_owned(), kind: "configuration", reason }
}
