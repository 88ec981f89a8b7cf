//! `dataset.json`: what a set of shards holds, and how it was made.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use caravan_tokenizer::TokenizerHash;
use serde::{Deserialize, Serialize};

use crate::shard::VERSION;
use crate::{DatasetError, Side, SourceReport};

/// Name of the manifest in the folder of a set.
pub const MANIFEST: &str = "dataset.json";

/// Counts of a file, a source or a side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DocumentCounts {
    /// Documents.
    pub documents: u64,
    /// Token ids, with BOS and EOS of each document.
    pub tokens: u64,
    /// UTF-8 bytes of text.
    pub text_bytes: u64,
}

impl std::ops::AddAssign for DocumentCounts {
    fn add_assign(&mut self, other: Self) {
        self.documents += other.documents;
        self.tokens += other.tokens;
        self.text_bytes += other.text_bytes;
    }
}

/// The manifest of a set of shards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Always `caravan-dataset`.
    pub format: String,
    /// Version of this file and of the shards.
    pub version: u32,
    /// Hash of the tokenizer.
    pub tokenizer_hash: TokenizerHash,
    /// Its vocabulary size.
    pub vocab_size: usize,
    /// The token before each document.
    pub bos_id: u32,
    /// The token after each document.
    pub eos_id: u32,
    /// [`crate::content_hash`] of what was built.
    pub content_hash: String,
    /// Share of the text that was to be kept for validation.
    pub val_fraction: f64,
    /// Size at which a shard was closed.
    pub shard_bytes: u64,
    /// The sources, in order.
    pub sources: Vec<SourceEntry>,
    /// The shards: training first, each side in order.
    pub shards: Vec<ShardEntry>,
    /// BLAKE3 of this file as it is written with an empty checksum.
    pub checksum: String,
}

/// A source in the manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceEntry {
    /// Its paths as given.
    pub paths: Vec<String>,
    /// Field or column of the text.
    pub text_field: String,
    /// Text between documents.
    pub document_separator: Option<String>,
    /// What reading it found.
    pub report: SourceReport,
    /// Tokens for training.
    pub train_tokens: u64,
    /// Tokens for validation.
    pub val_tokens: u64,
}

/// A shard in the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardEntry {
    /// File name in the folder.
    pub file: String,
    /// Its side.
    pub side: Side,
    /// What it holds.
    pub counts: DocumentCounts,
    /// Its length.
    pub file_bytes: u64,
    /// BLAKE3 of the whole file, as `b3sum` prints it.
    pub blake3: String,
}

impl Manifest {
    /// Reads and checks the manifest of the folder `dir`.
    ///
    /// # Errors
    /// No manifest, not JSON, unknown or missing fields, another format or version, a wrong
    /// checksum, names that leave the folder.
    pub fn read(dir: &Path) -> Result<Self, DatasetError> {
        let path = dir.join(MANIFEST);
        let json = match fs::read(&path) {
            Ok(json) => json,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(match dir.exists() {
                    true => DatasetError::NotADataset { path: dir.to_owned() },
                    false => DatasetError::missing(dir),
                });
            }
            Err(error) => return Err(DatasetError::io("read", path)(error)),
        };
        let manifest: Self = serde_json::from_slice(&json)
            .map_err(|source| DatasetError::ManifestJson { path: path.clone(), source })?;
        manifest.check(&path)?;
        Ok(manifest)
    }

    /// Counts of one side.
    pub fn totals(&self, side: Side) -> DocumentCounts {
        let mut totals = DocumentCounts::default();
        self.shards.iter().filter(|s| s.side == side).for_each(|s| totals += s.counts);
        totals
    }

    /// Writes the manifest, durable, with its checksum.
    pub(crate) fn write(&mut self, dir: &Path) -> Result<PathBuf, DatasetError> {
        let path = dir.join(MANIFEST);
        self.checksum = self.compute_checksum();
        let mut json = to_json(self);
        json.push('\n');
        let mut file = File::create_new(&path).map_err(DatasetError::io("create", &path))?;
        file.write_all(json.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(DatasetError::io("write", &path))?;
        Ok(path)
    }

    fn compute_checksum(&self) -> String {
        let bare = Self { checksum: String::new(), ..self.clone() };
        blake3::hash(to_json(&bare).as_bytes()).to_hex().to_string()
    }

    fn check(&self, path: &Path) -> Result<(), DatasetError> {
        let equal = |field: &str, expected: &dyn ToString, found: &dyn ToString| {
            let (expected, found) = (expected.to_string(), found.to_string());
            if expected == found {
                return Ok(());
            }
            Err(DatasetError::Manifest {
                path: path.to_owned(),
                field: field.to_owned(),
                expected,
                found,
            })
        };
        equal("`format`", &"caravan-dataset", &self.format)?;
        equal("`version`", &VERSION, &self.version)?;
        equal("`checksum`", &self.compute_checksum(), &self.checksum)?;
        for shard in &self.shards {
            let file = Path::new(&shard.file);
            let plain = file.file_name().is_some_and(|name| name == file.as_os_str());
            equal(
                "a shard's `file`",
                &"a plain file name",
                &if plain { "a plain file name" } else { &shard.file },
            )?;
        }
        if !self.shards.is_sorted_by_key(|shard| shard.side) {
            equal("`shards`", &"training before validation", &"mixed")?;
        }
        Ok(())
    }
}

fn to_json(manifest: &Manifest) -> String {
    serde_json::to_string_pretty(manifest)
        .expect("a manifest has string keys and finite numbers only")
}
