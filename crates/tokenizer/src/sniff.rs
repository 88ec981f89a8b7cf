//! Which kind of tokenizer a file is, told by its content and not by its name.

use std::path::Path;

use crate::error::{Result, TokenizerError};

/// The kinds of tokenizer files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A SentencePiece `.model`, as of LLaMA 1 and 2 and of `train_bpe`.
    SentencePiece,
    /// A Hugging Face `tokenizer.json`, as of LLaMA 3.
    HuggingFace,
}

impl Kind {
    /// What messages call a file of this kind.
    #[must_use]
    pub fn noun(self) -> &'static str {
        match self {
            Self::SentencePiece => "SentencePiece model",
            Self::HuggingFace => "Hugging Face tokenizer",
        }
    }

    /// The name such a file has in a model's folder.
    #[must_use]
    pub fn file_name(self) -> &'static str {
        match self {
            Self::SentencePiece => "tokenizer.model",
            Self::HuggingFace => "tokenizer.json",
        }
    }

    /// The cargo feature that reads it.
    #[cfg(not(all(feature = "sentencepiece", feature = "huggingface")))]
    pub(crate) fn feature(self) -> &'static str {
        match self {
            Self::SentencePiece => "sentencepiece",
            Self::HuggingFace => "huggingface",
        }
    }
}

/// The kind of a file, from its first bytes.
pub(crate) fn kind_of(bytes: &[u8], path: &Path) -> Result<Kind> {
    if bytes.is_empty() {
        return Err(TokenizerError::Empty { path: path.to_owned() });
    }
    // Scores are floats, so that a model has NULs; JSON never has one.
    let head = &bytes[..bytes.len().min(4096)];
    if head.trim_ascii_start().first() == Some(&b'{') && !head.contains(&0) {
        return Ok(Kind::HuggingFace);
    }
    if begins_with_piece(bytes) {
        return Ok(Kind::SentencePiece);
    }
    let (found, help) = describe(head);
    Err(TokenizerError::NotATokenizer { path: path.to_owned(), found, help })
}

/// Whether the first field is a message (`pieces`, tag 0x0A) that begins with a string (`piece`).
fn begins_with_piece(bytes: &[u8]) -> bool {
    let Some(rest) = bytes.strip_prefix(&[0x0A]) else { return false };
    let Some(len) = rest.iter().take(5).position(|b| b & 0x80 == 0) else { return false };
    rest.get(len + 1).is_some_and(|b| *b == 0x0A)
}

/// What a file looks like that is no tokenizer, and what helps.
fn describe(head: &[u8]) -> (&'static str, &'static str) {
    const OTHER: &str = "give the `tokenizer.model` or `tokenizer.json` of the model";
    const UNPACK: &str = "unpack it first";
    let text = head.trim_ascii_start();
    if head.starts_with(b"version https://git-lfs") {
        ("a Git LFS pointer", "fetch the content with `git lfs pull`")
    } else if text.starts_with(b"<") {
        ("an HTML or XML page", "download the raw file, not the page around it")
    } else if is_tiktoken(head) {
        ("a tiktoken vocabulary", "give the `tokenizer.json` of the same model")
    } else if head.starts_with(&[0x1F, 0x8B]) || head.starts_with(b"PK\x03\x04") {
        ("an archive", UNPACK)
    } else if head.starts_with(&[0x28, 0xB5, 0x2F, 0xFD]) {
        ("zstd-compressed", UNPACK)
    } else if text.starts_with(b"[") {
        ("a JSON list", OTHER)
    } else if std::str::from_utf8(head).is_ok() {
        ("text", OTHER)
    } else {
        ("binary data of an unknown kind", OTHER)
    }
}

/// Lines of `BASE64 RANK`, as the file called `tokenizer.model` of Meta's LLaMA 3 has.
fn is_tiktoken(head: &[u8]) -> bool {
    let mut fields = head.split(|b| *b == b'\n').next().unwrap_or_default().split(|b| *b == b' ');
    let (Some(token), Some(rank), None) = (fields.next(), fields.next(), fields.next()) else {
        return false;
    };
    let base64 = |b: &u8| b.is_ascii_alphanumeric() || b"+/=".contains(b);
    token.len() >= 4 && token.len() % 4 == 0 && token.iter().all(base64) && rank == b"0"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(bytes: &[u8]) -> String {
        kind_of(bytes, Path::new("x")).unwrap_err().to_string()
    }

    #[test]
    fn kinds_are_told_by_content() {
        let kind = |bytes: &[u8]| kind_of(bytes, Path::new("x")).unwrap();
        assert_eq!(kind(b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02"), Kind::SentencePiece);
        assert_eq!(kind(b" \n{\"version\": \"1.0\"}"), Kind::HuggingFace);
        assert_eq!(kind(b"\n{\n\"a\": 1}"), Kind::HuggingFace);
    }

    #[test]
    fn other_content_is_named() {
        assert!(found(b"").contains("is empty"));
        assert!(found(b"version https://git-lfs.github.com/spec/v1\n").contains("Git LFS pointer"));
        assert!(found(b"<!DOCTYPE html>").contains("HTML"));
        assert!(found(b"IQ== 0\nIg== 1\n").contains("tiktoken"));
        assert!(found(b"PK\x03\x04abc").contains("an archive"));
        assert!(found(b"[1, 2]").contains("a JSON list"));
        assert!(found(b"Once upon a time").contains("it is text"));
        assert!(found(&[0, 159, 146, 150]).contains("binary data"));
        assert!(found(b"\n").contains("it is text"));
    }
}
