//! What must hold before a model is handed to the C++ library, which trusts its input: a damaged
//! file gives an error here that says what is wrong, not a crash there.

use std::collections::HashSet;
use std::path::Path;

use prost::Message;

use super::charsmap;
use super::proto::{BPE, ModelProto, PieceType};
use crate::Kind;
use crate::error::{Result, TokenizerError};

/// Parses a model file and checks it.
pub(super) fn model(bytes: &[u8], path: &Path) -> Result<ModelProto> {
    let kind = Kind::SentencePiece.noun();
    let malformed = |reason| TokenizerError::Malformed { path: path.to_owned(), kind, reason };
    let truncated = |reason: &str| TokenizerError::Truncated {
        path: path.to_owned(),
        kind,
        len: bytes.len(),
        reason: reason.to_owned(),
    };
    if let Some(missing) = overrun(bytes) {
        return Err(truncated(&format!("a field lacks {missing} bytes")));
    }
    let model = ModelProto::decode(bytes).map_err(|e| malformed(e.to_string()))?;
    // These follow the pieces, so that they are what a cut between two fields takes away.
    if model.trainer_spec.is_none() {
        return Err(truncated("the trainer settings after the pieces are missing"));
    }
    if model.normalizer_spec.is_none() {
        return Err(truncated("the normaliser settings at the end are missing"));
    }
    pieces(&model).map_err(malformed)?;
    for spec in model.normalizer_spec.iter().chain(&model.denormalizer_spec) {
        charsmap::check(spec.charsmap())
            .map_err(|e| malformed(format!("its table of characters: {e}")))?;
    }
    Ok(model)
}

/// How many bytes the last top-level field lacks, if the file ends inside one.
fn overrun(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        let len = match tag & 7 {
            0 => {
                varint(&mut rest)?;
                0
            }
            1 => 8,
            2 => varint(&mut rest)?,
            5 => 4,
            _ => return None,
        };
        let len = usize::try_from(len).ok()?;
        if len > rest.len() {
            return Some(len - rest.len());
        }
        rest = &rest[len..];
    }
    None
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn pieces(model: &ModelProto) -> std::result::Result<(), String> {
    let mut seen = HashSet::with_capacity(model.pieces.len());
    let mut n_unknown = 0;
    let mut bytes_seen = [false; 256];
    for (id, piece) in model.pieces.iter().enumerate() {
        let text = piece.text();
        if text.is_empty() {
            return Err(format!("token {id} has no text"));
        }
        if !seen.insert(text) {
            return Err(format!("token {id} `{text}` occurs twice"));
        }
        if !piece.score.unwrap_or(0.0).is_finite() {
            return Err(format!("the score of token {id} `{text}` is not finite"));
        }
        if piece.r#type.is_some_and(|t| PieceType::try_from(t).is_err()) {
            return Err(format!("token {id} `{text}` is of an unknown type"));
        }
        match piece.kind() {
            PieceType::Unknown => n_unknown += 1,
            PieceType::Byte => {
                let byte = piece.byte().ok_or_else(|| {
                    format!("token {id} `{text}` is a byte, expected a name like `<0x0A>`")
                })?;
                bytes_seen[usize::from(byte)] = true;
            }
            _ => {}
        }
    }
    if n_unknown != 1 {
        return Err(format!("{n_unknown} tokens of type unknown, expected 1"));
    }
    let trainer = model.trainer();
    if trainer.byte_fallback == Some(true) && bytes_seen.contains(&false) {
        return Err("byte fallback without all 256 byte tokens".to_owned());
    }
    if !(1..=4).contains(&trainer.model_type.unwrap_or(BPE)) {
        return Err(format!("unknown model type {}", trainer.model_type.unwrap_or(BPE)));
    }
    Ok(())
}
