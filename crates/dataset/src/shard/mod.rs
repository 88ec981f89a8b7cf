//! The shard file, format 1: some documents of one side as token ids, with the text they came from.
//!
//! All numbers are little endian. Sections begin at multiples of 64, gaps are zero, and the counts
//! fix every offset: a file has one valid layout, and the reader recomputes it rather than trust
//! the offsets.
//!
//! | bytes | header field |
//! |---|---|
//! | 0..8 | magic `CARAVAN\0` |
//! | 8..12 | version, 1 |
//! | 12..16 | header length, 256 |
//! | 16..20 | bytes per token: 2 if the vocabulary has at most 65,536 tokens, else 4 |
//! | 20..24 | side: 0 training, 1 validation |
//! | 24..32 | vocabulary size |
//! | 32..64 | tokenizer hash |
//! | 64..68, 68..72 | BOS, EOS |
//! | 72..80, 80..88, 88..96 | documents, tokens, bytes of text |
//! | 96..136 | offsets of the five sections below |
//! | 136..144 | file length |
//! | 144..176 | BLAKE3 of bytes 256 to the end |
//! | 176..224 | zero |
//! | 224..256 | BLAKE3 of bytes 0..224 |
//!
//! | section | holds |
//! |---|---|
//! | tokens | u16 or u32 per token; each document begins with BOS and ends with EOS |
//! | document ends | u64 per document: tokens of this file up to its end |
//! | text ends | u64 per document: bytes of text up to its end |
//! | source | u32 per document: which source it came from, never falling |
//! | text | UTF-8 of all documents |

mod header;
mod read;
mod verify;
mod write;

pub(crate) use header::Header;
pub(crate) use read::{Shard, TokenSlice};
pub(crate) use write::ShardWriter;

/// Version of the shard format and of the manifest.
pub const VERSION: u32 = 1;

/// Extension of shard files.
pub(crate) const EXTENSION: &str = "shard";
