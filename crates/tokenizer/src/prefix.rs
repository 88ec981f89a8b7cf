//! Whether a model expects BOS before a text: what the files beside its tokenizer say.

use std::io::ErrorKind;
use std::path::Path;

use serde_json::Value;

use crate::error::{Result, TokenizerError};

/// Whether the tokenizer in a model's folder puts BOS before every text by itself, and so whether its model was trained so.
///
/// `add_bos_token` of `tokenizer_config.json` says it; without that the template of `tokenizer.json` does, which begins with
/// a special token or not. SentencePiece's `tokenizer.model` alone says nothing, and models that come with it expect BOS.
///
/// # Errors
/// A file that cannot be read or is no JSON.
pub fn expects_bos(folder: &Path) -> Result<bool> {
    let stated = json(&folder.join("tokenizer_config.json"))?;
    if let Some(stated) = stated.as_ref().and_then(|config| config.get("add_bos_token")?.as_bool())
    {
        return Ok(stated);
    }
    match json(&folder.join("tokenizer.json"))? {
        Some(tokenizer) => Ok(tokenizer.get("post_processor").is_some_and(begins_special)),
        None => Ok(true),
    }
}

/// Whether a post-processor, or one of a sequence of them, puts a special token before a single text.
fn begins_special(processor: &Value) -> bool {
    let parts = processor.get("processors").and_then(Value::as_array);
    let first = processor.get("single").and_then(|single| single.get(0));
    first.is_some_and(|first| first.get("SpecialToken").is_some())
        || parts.is_some_and(|parts| parts.iter().any(begins_special))
}

fn json(file: &Path) -> Result<Option<Value>> {
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(source) => {
            return Err(TokenizerError::Io { doing: "reading", path: file.to_owned(), source });
        }
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| TokenizerError::Malformed {
        path: file.to_owned(),
        kind: "configuration",
        reason: e.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_say_it() {
        let template = r#"{"type": "Sequence", "processors": [{"type": "ByteLevel"}, {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}]}]}"#;
        for (config, tokenizer, expected) in [
            (None, None, true),
            (None, Some("null"), false),
            (None, Some(r#"{"type": "ByteLevel"}"#), false),
            (None, Some(template), true),
            (Some(r#"{"add_bos_token": false}"#), Some(template), false),
            (Some(r#"{"add_bos_token": true}"#), Some("null"), true),
            (Some(r#"{"bos_token": "<s>"}"#), Some(template), true),
            (Some(r#"{"add_bos_token": false}"#), None, false),
        ] {
            let dir = tempfile::tempdir().unwrap();
            if let Some(config) = config {
                std::fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
            }
            if let Some(tokenizer) = tokenizer {
                let text = format!("{{\"post_processor\": {tokenizer}}}");
                std::fs::write(dir.path().join("tokenizer.json"), text).unwrap();
            }
            assert_eq!(expects_bos(dir.path()).unwrap(), expected, "{config:?} {tokenizer:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), "no").unwrap();
        assert!(expects_bos(dir.path()).is_err());
    }
}
