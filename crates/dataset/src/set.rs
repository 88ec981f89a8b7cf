//! A set of shards, open for reading: its two sides and their documents.

use std::ops::Range;
use std::path::{Path, PathBuf};

use caravan_tokenizer::{Encode, TokenizerHash};
use rayon::prelude::*;

use crate::manifest::{MANIFEST, Manifest};
use crate::shard::{Shard, TokenSlice};
use crate::{DatasetError, DocumentCounts, Side};

/// An open set of shards.
#[derive(Debug)]
pub struct ShardSet {
    dir: PathBuf,
    manifest: Manifest,
    train: Split,
    val: Split,
}

/// What [`ShardSet::verify`] has checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Shard files.
    pub shards: usize,
    /// Their bytes.
    pub file_bytes: u64,
    /// The training side.
    pub train: DocumentCounts,
    /// The validation side.
    pub val: DocumentCounts,
}

impl ShardSet {
    /// Opens the set in the folder `dir`. Reads headers and ends of documents, but not tokens and
    /// text: those are checked by [`ShardSet::verify`], and where they are used.
    ///
    /// # Errors
    /// No manifest, or one that was changed; a shard that is missing, has another length, is
    /// malformed or does not fit the manifest.
    pub fn open(dir: &Path) -> Result<Self, DatasetError> {
        let manifest = Manifest::read(dir)?;
        let train = Split::open(dir, &manifest, Side::Train)?;
        let val = Split::open(dir, &manifest, Side::Val)?;
        Ok(Self { dir: dir.to_owned(), manifest, train, val })
    }

    /// Opens the set and checks every byte of it: file hashes, content hashes, token ids, BOS and
    /// EOS, UTF-8.
    ///
    /// # Errors
    /// Those of [`ShardSet::open`], and the first damage found, with file and offset.
    pub fn verify(dir: &Path) -> Result<VerifyReport, DatasetError> {
        let set = Self::open(dir)?;
        let shards = set.train.shards.iter().chain(&set.val.shards);
        for (shard, entry) in shards.zip(&set.manifest.shards) {
            shard.verify()?;
            let mut hasher = blake3::Hasher::new();
            hasher.update_rayon(shard.bytes());
            let found = hasher.finalize().to_hex().to_string();
            if found != entry.blake3 {
                let field = format!("the BLAKE3 of {}", entry.file);
                return Err(DatasetError::Manifest {
                    path: dir.join(MANIFEST),
                    field,
                    expected: found,
                    found: entry.blake3.clone(),
                });
            }
            shard.release();
        }
        Ok(VerifyReport {
            shards: set.manifest.shards.len(),
            file_bytes: set.manifest.shards.iter().map(|s| s.file_bytes).sum(),
            train: set.train.counts,
            val: set.val.counts,
        })
    }

    /// Refuses a tokenizer that did not make these shards.
    ///
    /// # Errors
    /// [`DatasetError::TokenizerMismatch`].
    pub fn check_tokenizer(&self, tokenizer: &dyn Encode) -> Result<(), DatasetError> {
        let (expected, found) = (self.tokenizer_hash(), tokenizer.hash());
        if expected == found {
            return Ok(());
        }
        Err(DatasetError::TokenizerMismatch { path: self.dir.clone(), expected, found })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What was built, from which sources.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// [`crate::content_hash`] of the text these shards were made from.
    pub fn content_hash(&self) -> &str {
        &self.manifest.content_hash
    }

    /// Hash of the tokenizer that made the ids.
    pub fn tokenizer_hash(&self) -> TokenizerHash {
        self.manifest.tokenizer_hash
    }

    /// Its vocabulary size.
    pub fn vocab_size(&self) -> usize {
        self.manifest.vocab_size
    }

    /// How many sources there are.
    pub fn n_sources(&self) -> usize {
        self.manifest.sources.len()
    }

    /// The training side.
    pub fn train(&self) -> &Split {
        &self.train
    }

    /// The validation side.
    pub fn val(&self) -> &Split {
        &self.val
    }

    /// One of the sides.
    pub fn split(&self, side: Side) -> &Split {
        match side {
            Side::Train => &self.train,
            Side::Val => &self.val,
        }
    }
}

/// One side of a set: its documents in the order of the sources.
#[derive(Debug)]
pub struct Split {
    shards: Vec<Shard>,
    /// First document of each shard, and one past the last.
    first: Vec<usize>,
    /// The same of tokens.
    first_token: Vec<u64>,
    counts: DocumentCounts,
}

/// A document of a set.
#[derive(Debug, Clone, Copy)]
pub struct DocumentRef<'a> {
    tokens: TokenSlice<'a>,
    /// The text it was encoded from.
    pub text: &'a str,
    /// Index of its source.
    pub source: usize,
}

impl DocumentRef<'_> {
    /// Its token ids, from BOS to EOS.
    pub fn tokens(&self) -> Vec<u32> {
        let mut ids = vec![0; self.tokens.len()];
        self.tokens.copy_to(&mut ids);
        ids
    }

    /// How many token ids, with BOS and EOS.
    pub fn n_tokens(&self) -> usize {
        self.tokens.len()
    }

    /// UTF-8 bytes of its text.
    pub fn n_bytes(&self) -> usize {
        self.text.len()
    }
}

impl Split {
    /// How many documents.
    pub fn n_documents(&self) -> usize {
        self.counts.documents as usize
    }

    /// How many tokens, with BOS and EOS.
    pub fn n_tokens(&self) -> u64 {
        self.counts.tokens
    }

    /// How many tokens, without BOS and EOS: those that bits per byte scores.
    pub fn n_text_tokens(&self) -> u64 {
        self.counts.tokens - 2 * self.counts.documents
    }

    /// Bytes of text.
    pub fn n_source_bytes(&self) -> u64 {
        self.counts.text_bytes
    }

    /// Document `i`.
    ///
    /// # Errors
    /// Damage in this document: an id outside the vocabulary, no BOS or EOS, text that is not
    /// UTF-8.
    ///
    /// # Panics
    /// If `i` is not below [`Split::n_documents`].
    pub fn document(&self, i: usize) -> Result<DocumentRef<'_>, DatasetError> {
        assert!(i < self.n_documents(), "document {i} of {}", self.n_documents());
        let (shard, local) = self.locate(i);
        shard.check_document(local)?;
        let text = std::str::from_utf8(shard.text(local)).expect("the document was checked");
        let (start, end) = shard.document(local);
        let source = shard.source(local) as usize;
        Ok(DocumentRef { tokens: shard.tokens(start, end), text, source })
    }

    /// All documents, in order.
    pub fn documents(&self) -> impl Iterator<Item = Result<DocumentRef<'_>, DatasetError>> {
        (0..self.n_documents()).map(|i| self.document(i))
    }

    /// Tokens of document `i`, with BOS and EOS.
    pub fn document_len(&self, i: usize) -> u64 {
        let (shard, local) = self.locate(i);
        let (start, end) = shard.document(local);
        end - start
    }

    /// Documents of `source`, which lie together.
    pub fn documents_of(&self, source: usize) -> Range<usize> {
        let before = |source: usize| -> usize {
            self.shards.iter().map(|shard| shard.documents_before_source(source as u32)).sum()
        };
        before(source)..before(source + 1)
    }

    /// The shard that holds document `i`, and its index there.
    fn locate(&self, i: usize) -> (&Shard, usize) {
        let k = self.first.partition_point(|&first| first <= i) - 1;
        (&self.shards[k], i - self.first[k])
    }

    /// Copies tokens of one document; `start` counts over all documents, in order.
    pub(crate) fn read_tokens(&self, start: u64, into: &mut [u32]) -> Result<(), DatasetError> {
        let k = self.first_token.partition_point(|&first| first <= start) - 1;
        self.shards[k].read_tokens(start - self.first_token[k], into)
    }

    /// Where the tokens of each document of a range begin, counted over all documents, and at last
    /// where they end.
    pub(crate) fn token_bounds(&self, documents: Range<usize>) -> Vec<u64> {
        let mut bounds = Vec::with_capacity(documents.len() + 1);
        for ((shard, &first), &first_token) in
            self.shards.iter().zip(&self.first).zip(&self.first_token)
        {
            let local = documents.start.saturating_sub(first)
                ..documents.end.saturating_sub(first).min(shard.n_documents());
            if !local.is_empty() {
                if bounds.is_empty() {
                    bounds.push(first_token + shard.document(local.start).0);
                }
                let ends = shard.document_ends().skip(local.start).take(local.len());
                bounds.extend(ends.map(|end| first_token + end));
            }
        }
        bounds
    }

    fn open(dir: &Path, manifest: &Manifest, side: Side) -> Result<Self, DatasetError> {
        let entries: Vec<_> = manifest.shards.iter().filter(|s| s.side == side).collect();
        let n_sources = manifest.sources.len();
        let shards: Vec<Shard> = entries
            .par_iter()
            .map(|entry| Shard::open(&dir.join(&entry.file), n_sources))
            .collect::<Result<_, _>>()?;
        let counts = DocumentCounts::default();
        let mut split = Self { shards, first: vec![0], first_token: vec![0], counts };
        let mut last_source = 0;
        for (shard, entry) in split.shards.iter().zip(entries) {
            let header = &shard.header;
            let counts = DocumentCounts {
                documents: header.n_documents,
                tokens: header.n_tokens,
                text_bytes: header.n_text_bytes,
            };
            let fields: [(&'static str, u64, String, String); 8] = [
                ("the side", 20, side.to_string(), header.side.to_string()),
                (
                    "the vocabulary size",
                    24,
                    manifest.vocab_size.to_string(),
                    header.vocab_size.to_string(),
                ),
                (
                    "the tokenizer hash",
                    32,
                    manifest.tokenizer_hash.to_string(),
                    header.tokenizer_hash.to_string(),
                ),
                ("the id of BOS", 64, manifest.bos_id.to_string(), header.bos.to_string()),
                ("the id of EOS", 68, manifest.eos_id.to_string(), header.eos.to_string()),
                ("the counts", 72, format!("{:?}", entry.counts), format!("{counts:?}")),
                (
                    "the file length",
                    136,
                    entry.file_bytes.to_string(),
                    shard.layout.file_len.to_string(),
                ),
                (
                    "the first source",
                    shard.layout.sources.0,
                    "not below that of the shard before".to_owned(),
                    {
                        let first = shard.source(0);
                        if first >= last_source {
                            "not below that of the shard before".to_owned()
                        } else {
                            first.to_string()
                        }
                    },
                ),
            ];
            for (field, offset, expected, found) in fields {
                if expected != found {
                    return Err(shard.wrong(field, offset, expected, found));
                }
            }
            last_source = shard.source(shard.n_documents() - 1);
            split.counts += counts;
            split.first.push(split.counts.documents as usize);
            split.first_token.push(split.counts.tokens);
        }
        Ok(split)
    }
}
