//! Hugging Face `tokenizer.json` files through the `tokenizers` library.

mod ends;
mod split;

use std::path::Path;
use std::sync::OnceLock;

use rayon::prelude::*;
use serde::de::IgnoredAny;
use tokenizers::DecoderWrapper;

use self::ends::Ends;
use crate::Kind;
use crate::encode::unknown_id;
use crate::error::{Result, TokenizerError};
use crate::stream::{DecodeStream, DecodeWhole, InvalidBytes, Piece, Pieces, Prefix, Rules};
use crate::tokenizer::{Ends as Stated, Engine};

/// A long text is encoded in blocks of about this many bytes, in parallel, where that is exact.
const BLOCK: usize = 1 << 18;

/// A `tokenizer.json`.
#[derive(Debug)]
pub(crate) struct HuggingFace {
    /// Takes special tokens in text for text.
    plain: tokenizers::Tokenizer,
    /// Takes them for special; made when it is first needed.
    special: OnceLock<Box<tokenizers::Tokenizer>>,
    entries: Vec<Option<Entry>>,
    ends: Ends,
    /// All tokens are bytes in GPT-2's alphabet, so that decoding is a table.
    byte_level: bool,
    splits: bool,
}

/// How a token is shown.
#[derive(Debug)]
enum Entry {
    Bytes(Vec<u8>),
    Special,
}

impl HuggingFace {
    /// Reads a file.
    pub(crate) fn new(bytes: &[u8], path: &Path, ends: Stated<'_>) -> Result<Self> {
        let mut plain = parse(bytes, path)?;
        plain.set_encode_special_tokens(true);
        // A file may ask for both, but ids of a text are all its ids and no others.
        plain.with_padding(None);
        plain.with_truncation(None).map_err(engine)?;
        let ends = match ends {
            Stated::ByName => Ends::of(&plain, None)?,
            Stated::Beside(folder) => Ends::of(&plain, Some(folder))?,
            Stated::Stated { bos, eos } => Ends { bos, eos },
        };
        let byte_level = matches!(plain.get_decoder(), Some(DecoderWrapper::ByteLevel(_)));
        Ok(Self {
            entries: entries(&plain),
            ends,
            byte_level,
            splits: split::is_exact(&plain),
            special: OnceLock::new(),
            plain,
        })
    }

    fn check(&self, ids: &[u32]) -> Result<()> {
        let missing = |id: &u32| self.piece(*id).is_none();
        match ids.iter().position(missing) {
            Some(position) => Err(unknown_id(ids[position], position, self.entries.len())),
            None => Ok(()),
        }
    }
}

/// Parses the JSON, so that what is wrong with it is told before the library reads it.
fn parse(bytes: &[u8], path: &Path) -> Result<tokenizers::Tokenizer> {
    let kind = Kind::HuggingFace.noun();
    let malformed = |reason| TokenizerError::Malformed { path: path.to_owned(), kind, reason };
    serde_json::from_slice::<IgnoredAny>(bytes).map_err(|e| {
        if e.is_eof() {
            let reason = format!("the JSON is not closed at line {}", e.line());
            TokenizerError::Truncated { path: path.to_owned(), kind, len: bytes.len(), reason }
        } else {
            malformed(e.to_string())
        }
    })?;
    let fields: std::collections::HashMap<String, IgnoredAny> =
        serde_json::from_slice(bytes).map_err(|e| malformed(e.to_string()))?;
    if !fields.contains_key("model") {
        return Err(TokenizerError::NotATokenizer {
            path: path.to_owned(),
            found: "JSON without a `model`",
            help: "give the file called `tokenizer.json`, not a configuration beside it",
        });
    }
    tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| malformed(e.to_string()))
}

fn entries(tokenizer: &tokenizers::Tokenizer) -> Vec<Option<Entry>> {
    let byte_of = byte_of();
    let added = tokenizer.get_added_vocabulary();
    let vocab = tokenizer.get_vocab(true);
    let n = vocab.values().max().map_or(0, |max| *max as usize + 1);
    let mut entries: Vec<Option<Entry>> = std::iter::repeat_with(|| None).take(n).collect();
    for (name, id) in vocab {
        entries[id as usize] = Some(if added.is_special_token(&name) {
            Entry::Special
        } else {
            let bytes: Option<Vec<u8>> =
                name.chars().map(|c| byte_of.get(c as usize).copied().flatten()).collect();
            Entry::Bytes(bytes.unwrap_or_else(|| name.into_bytes()))
        });
    }
    entries
}

/// GPT-2's alphabet: the byte that each character stands for.
///
/// # Reference
/// `bytes_to_unicode` of GPT-2's `encoder.py`: printable bytes are themselves, the others follow
/// from U+0100 on.
fn byte_of() -> Vec<Option<u8>> {
    let mut table = vec![None; 256];
    for byte in 0..=255_u8 {
        if matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF) {
            table[usize::from(byte)] = Some(byte);
        } else {
            table.push(Some(byte));
        }
    }
    table
}

fn engine(source: tokenizers::Error) -> TokenizerError {
    TokenizerError::Engine { engine: "tokenizers", source }
}

fn call(tokenizer: &tokenizers::Tokenizer, text: &str) -> Result<Vec<u32>> {
    let encoding = tokenizer.encode_fast(text, false).map_err(engine)?;
    Ok(encoding.get_ids().to_vec())
}

impl Engine for HuggingFace {
    fn vocab_size(&self) -> usize {
        self.entries.len()
    }

    fn bos_id(&self) -> Option<u32> {
        self.ends.bos
    }

    fn eos_id(&self) -> Option<u32> {
        self.ends.eos
    }

    /// What the post-processor puts before a text.
    fn adds_bos(&self) -> Result<bool> {
        let empty = self.plain.encode_fast("", true).map_err(engine)?;
        Ok(self.ends.bos.is_some() && empty.get_ids().first().copied() == self.ends.bos)
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        if !self.splits || text.len() <= BLOCK {
            return call(&self.plain, text);
        }
        let blocks: Vec<&str> = split::blocks(text, BLOCK).collect();
        let done: Vec<Result<Vec<u32>>> =
            blocks.into_par_iter().map(|block| call(&self.plain, block)).collect();
        let mut out = Vec::new();
        for ids in done {
            out.extend(ids?);
        }
        Ok(out)
    }

    fn encode_batch(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>> {
        let done: Vec<Result<Vec<u32>>> =
            texts.par_iter().map(|text| Engine::encode(self, text)).collect();
        done.into_iter().collect()
    }

    fn encode_with_special(&self, text: &str) -> Result<Vec<u32>> {
        let special = self.special.get_or_init(|| {
            let mut special = self.plain.clone();
            special.set_encode_special_tokens(false);
            Box::new(special)
        });
        call(special, text)
    }

    fn decode_stream(&self) -> DecodeStream<'_> {
        if self.byte_level {
            let rules = Rules { invalid: InvalidBytes::Maximal, prefix: Prefix::Keep };
            DecodeStream::of_pieces(self, rules)
        } else {
            DecodeStream::of_whole(self)
        }
    }

    fn token(&self, id: u32) -> Option<String> {
        self.plain.id_to_token(id)
    }

    fn id_of(&self, token: &str) -> Option<u32> {
        self.plain.token_to_id(token)
    }

    fn config_json(&self) -> Option<String> {
        self.ends.config_json(&self.plain)
    }
}

impl Pieces for HuggingFace {
    fn n_ids(&self) -> usize {
        self.entries.len()
    }

    fn piece(&self, id: u32) -> Option<Piece<'_>> {
        Some(match self.entries.get(id as usize)?.as_ref()? {
            Entry::Bytes(bytes) => Piece::Bytes(bytes),
            Entry::Special => Piece::Silent,
        })
    }
}

impl DecodeWhole for HuggingFace {
    fn decode_whole(&self, ids: &[u32]) -> Result<String> {
        self.check(ids)?;
        self.plain.decode(ids, true).map_err(engine)
    }
}
