//! The 256 bytes at the beginning of a shard: written by one function, read by one that trusts
//! nothing.

use std::path::Path;

use caravan_tokenizer::TokenizerHash;

use super::VERSION;
use crate::{DatasetError, Side};

/// First bytes of a shard.
const MAGIC: &[u8; 8] = b"CARAVAN\0";

/// Length of the header.
pub(crate) const LEN: usize = 256;

/// Where the header's own hash lies.
const HASH_AT: usize = 224;

/// Sections begin at multiples of this.
const ALIGN: u64 = 64;

/// More documents than this cannot be counted in a file of at most 2^63 bytes.
const MAX_DOCUMENT_COUNT: u64 = 1 << 58;

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) side: Side,
    pub(crate) vocab_size: u64,
    pub(crate) tokenizer_hash: TokenizerHash,
    pub(crate) bos: u32,
    pub(crate) eos: u32,
    pub(crate) n_documents: u64,
    pub(crate) n_tokens: u64,
    pub(crate) n_text_bytes: u64,
    pub(crate) payload_hash: [u8; 32],
}

/// Where the sections lie: `(offset, bytes)` each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) tokens: (u64, u64),
    pub(crate) document_ends: (u64, u64),
    pub(crate) text_ends: (u64, u64),
    pub(crate) sources: (u64, u64),
    pub(crate) text: (u64, u64),
    pub(crate) file_len: u64,
}

impl Layout {
    /// In file order, with names.
    pub(crate) fn sections(&self) -> [(&'static str, (u64, u64)); 5] {
        [
            ("tokens", self.tokens),
            ("document ends", self.document_ends),
            ("text ends", self.text_ends),
            ("sources", self.sources),
            ("text", self.text),
        ]
    }
}

impl Header {
    /// Bytes per token.
    pub(crate) fn token_bytes(&self) -> u64 {
        if self.vocab_size <= 1 << 16 { 2 } else { 4 }
    }

    /// The layout that the counts ask for; `None` if it would not fit in 63 bits.
    pub(crate) fn layout(&self) -> Option<Layout> {
        let mut end = LEN as u64;
        let mut place = |count: u64, size: u64| -> Option<(u64, u64)> {
            let start = end.checked_next_multiple_of(ALIGN)?;
            let bytes = count.checked_mul(size)?;
            end = start.checked_add(bytes)?;
            Some((start, bytes))
        };
        let tokens = place(self.n_tokens, self.token_bytes())?;
        let document_ends = place(self.n_documents, 8)?;
        let text_ends = place(self.n_documents, 8)?;
        let sources = place(self.n_documents, 4)?;
        let text = place(self.n_text_bytes, 1)?;
        let file_len = end;
        (file_len < 1 << 63).then_some(Layout {
            tokens,
            document_ends,
            text_ends,
            sources,
            text,
            file_len,
        })
    }

    /// The header's bytes.
    pub(crate) fn to_bytes(&self, layout: &Layout) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(12, &(LEN as u32).to_le_bytes());
        put(16, &(self.token_bytes() as u32).to_le_bytes());
        put(20, &u32::from(self.side == Side::Val).to_le_bytes());
        put(24, &self.vocab_size.to_le_bytes());
        put(32, &self.tokenizer_hash.0);
        put(64, &self.bos.to_le_bytes());
        put(68, &self.eos.to_le_bytes());
        put(72, &self.n_documents.to_le_bytes());
        put(80, &self.n_tokens.to_le_bytes());
        put(88, &self.n_text_bytes.to_le_bytes());
        for (i, (_, (offset, _))) in layout.sections().into_iter().enumerate() {
            put(96 + 8 * i, &offset.to_le_bytes());
        }
        put(136, &layout.file_len.to_le_bytes());
        put(144, &self.payload_hash);
        let hash = blake3::hash(&bytes[..HASH_AT]);
        bytes[HASH_AT..].copy_from_slice(hash.as_bytes());
        bytes
    }

    /// Reads and checks the header of a file of `file_len` bytes that begins with `bytes`.
    pub(crate) fn from_bytes(
        path: &Path,
        bytes: &[u8],
        file_len: u64,
    ) -> Result<(Self, Layout), DatasetError> {
        let check = Check { path, bytes };
        if bytes.len() < LEN {
            return Err(check.wrong(
                "the length of the file",
                0,
                format!("at least {LEN}"),
                bytes.len(),
            ));
        }
        if &bytes[..8] != MAGIC {
            let found = bytes[..8].escape_ascii();
            return Err(check.wrong("the magic", 0, "`CARAVAN\\x00`", format!("`{found}`")));
        }
        check.equal("the format version", 8, u64::from(VERSION), 4)?;
        let hash = blake3::hash(&bytes[..HASH_AT]);
        if hash.as_bytes()[..] != bytes[HASH_AT..LEN] {
            let found = hex(&bytes[HASH_AT..LEN]);
            return Err(check.wrong(
                "the hash of the header",
                HASH_AT as u64,
                hash.to_hex(),
                found,
            ));
        }
        check.equal("the header length", 12, LEN as u64, 4)?;
        let side = match check.number(20, 4) {
            0 => Side::Train,
            1 => Side::Val,
            found => return Err(check.wrong("the side", 20, "0 or 1", found)),
        };
        let header = Self {
            side,
            vocab_size: check.at_most("the vocabulary size", 24, 8, 1, i32::MAX as u64)?,
            tokenizer_hash: TokenizerHash(check.array(32)),
            bos: check.number(64, 4) as u32,
            eos: check.number(68, 4) as u32,
            n_documents: check.at_most("the document count", 72, 8, 1, MAX_DOCUMENT_COUNT)?,
            n_tokens: check.number(80, 8),
            n_text_bytes: check.number(88, 8),
            payload_hash: check.array(144),
        };
        check.at_most("the id of BOS", 64, 4, 0, header.vocab_size - 1)?;
        check.at_most("the id of EOS", 68, 4, 0, header.vocab_size - 1)?;
        check.equal("bytes per token", 16, header.token_bytes(), 4)?;
        let layout = header.layout().ok_or_else(|| {
            let found = format!(
                "{} documents, {} tokens, {} bytes",
                header.n_documents, header.n_tokens, header.n_text_bytes
            );
            check.wrong("the counts", 72, "a file of less than 2^63 bytes", found)
        })?;
        let names = ["tokens", "document ends", "text ends", "sources", "text"];
        for (i, (name, (_, (offset, _)))) in names.into_iter().zip(layout.sections()).enumerate() {
            check.equal(offset_name(name), 96 + 8 * i, offset, 8)?;
        }
        check.equal("the file length", 136, layout.file_len, 8)?;
        if file_len != layout.file_len {
            let expected = format!("{file_len}, the length of the file");
            return Err(check.wrong("the file length", 136, expected, layout.file_len));
        }
        if let Some(at) = bytes[176..HASH_AT].iter().position(|&b| b != 0) {
            return Err(check.wrong("the reserved byte", 176 + at as u64, 0, bytes[176 + at]));
        }
        Ok((header, layout))
    }
}

fn offset_name(section: &str) -> &'static str {
    match section {
        "tokens" => "the offset of the tokens",
        "document ends" => "the offset of the document ends",
        "text ends" => "the offset of the text ends",
        "sources" => "the offset of the sources",
        _ => "the offset of the text",
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Reads fields and makes errors.
struct Check<'a> {
    path: &'a Path,
    bytes: &'a [u8],
}

impl Check<'_> {
    fn number(&self, at: usize, len: usize) -> u64 {
        let mut number = [0; 8];
        number[..len].copy_from_slice(&self.bytes[at..at + len]);
        u64::from_le_bytes(number)
    }

    fn array(&self, at: usize) -> [u8; 32] {
        let mut array = [0; 32];
        array.copy_from_slice(&self.bytes[at..at + 32]);
        array
    }

    fn equal(
        &self,
        field: &'static str,
        at: usize,
        expected: u64,
        len: usize,
    ) -> Result<(), DatasetError> {
        let found = self.number(at, len);
        if found == expected { Ok(()) } else { Err(self.wrong(field, at as u64, expected, found)) }
    }

    fn at_most(
        &self,
        field: &'static str,
        at: usize,
        len: usize,
        low: u64,
        high: u64,
    ) -> Result<u64, DatasetError> {
        let found = self.number(at, len);
        if (low..=high).contains(&found) {
            Ok(found)
        } else {
            Err(self.wrong(field, at as u64, format!("{low} to {high}"), found))
        }
    }

    #[allow(clippy::needless_pass_by_value)] // So that callers may pass literals and sums.
    fn wrong(
        &self,
        field: &'static str,
        offset: u64,
        expected: impl ToString,
        found: impl ToString,
    ) -> DatasetError {
        DatasetError::Shard {
            path: self.path.to_owned(),
            field,
            offset,
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }
}
