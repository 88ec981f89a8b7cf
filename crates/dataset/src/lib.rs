//! Text to token batches: readers, memory-mapped shards, document order, packing, a prefetching
//! loader.
//!
//! ```text
//! files, folders, globs --find_files--> paths --read_documents--> Document
//!     --split_documents--> (Side, Document) --build(tokenizer)--> DIR/{dataset.json, *.shard}
//! DIR --ShardSet::open--> Split (documents) --Loader--> TokenBatch (any batch of any epoch at
//! once)
//! ```
//!
//! ```
//! use std::sync::Arc;
//! use caravan_dataset::{BuildConfig, Loader, LoaderConfig, ShardSet, Side, SourceSpec, build};
//! use caravan_tokenizer::ByteTokenizer;
//!
//! let dir = tempfile::tempdir()?;
//! std::fs::write(dir.path().join("text.txt"), "One line.\nAnother line.\n".repeat(100))?;
//! let source = SourceSpec::of([dir.path().join("text.txt").display().to_string()]);
//! let config = BuildConfig { sources: vec![source], ..BuildConfig::default() };
//! let out = dir.path().join("shards");
//! build(&config, &ByteTokenizer::new(), &out, &mut |_| {})?;
//!
//! let set = Arc::new(ShardSet::open(&out)?);
//! let loader = Loader::new(set, Side::Train, LoaderConfig { seq_len: 64, ..Default::default() })?;
//! let batch = loader.batch(1_000_000, 4)?;
//! assert_eq!(batch.inputs().len(), 4 * 64);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What happens to bytes
//! Text is kept byte for byte: CRLF line ends stay, and so does a byte order mark, except at the
//! beginning of a JSON lines file, where it is no part of any document. Bytes that are not UTF-8
//! are refused with their offset, never replaced. White space around a document separator stays.

mod batch;
mod build;
mod config;
mod content;
mod documents;
mod error;
mod files;
mod formats;
mod loader;
mod manifest;
mod order;
mod prefetch;
mod set;
mod shard;
mod split;
mod staging;
mod units;

pub use batch::{IGNORE, TokenBatch};
pub use build::{BuildProgress, BuildReport, build};
pub use config::{BuildConfig, Side, SourceSpec};
pub use content::content_hash;
pub use documents::{Document, Origin, Place, read_documents};
pub use error::DatasetError;
pub use files::{Files, SkipReason, Skipped, find_files};
pub use formats::EXTENSIONS;
pub use loader::{Loader, LoaderConfig, MAX_SEQ_LEN, Packing};
pub use manifest::{DocumentCounts, MANIFEST, Manifest, ShardEntry, SourceEntry};
pub use prefetch::Prefetch;
pub use set::{DocumentRef, ShardSet, Split, VerifyReport};
pub use shard::VERSION as FORMAT_VERSION;
pub use split::{SMALL, SourceReport, SplitDocuments, SplitRule, split_documents};
pub use units::Unit;
