//! What a build is told: where the text lies and how it is divided. No setting here says anything
//! about the model.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{DatasetError, Unit};

/// One source of text: files that belong together, and are mixed with other sources by weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SourceSpec {
    /// Files, folders (searched recursively, see [`crate::find_files`]) and globs, in order.
    pub paths: Vec<String>,
    /// Share of the sequences when sources are mixed by weight; a loader setting, it changes no
    /// shard.
    pub weight: f64,
    /// Field of JSON lines, or column of parquet files, that holds the text. Default `text`.
    pub text_field: String,
    /// Text between documents inside a text file. It belongs to no document. `None`: a file is one
    /// document.
    pub document_separator: Option<String>,
}

impl Default for SourceSpec {
    fn default() -> Self {
        Self {
            paths: Vec::new(),
            weight: 1.0,
            text_field: "text".to_owned(),
            document_separator: None,
        }
    }
}

impl SourceSpec {
    /// A source of the given paths, everything else by default.
    pub fn of<P: Into<String>>(paths: impl IntoIterator<Item = P>) -> Self {
        Self { paths: paths.into_iter().map(Into::into).collect(), ..Self::default() }
    }
}

/// Everything that decides what is in the shards, except the tokenizer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BuildConfig {
    /// The sources, in order: a document's source is an index into this list.
    pub sources: Vec<SourceSpec>,
    /// Share of the text kept for validation, `0 <= x < 1`. Default 0.05. See
    /// [`crate::split_documents`].
    pub val_fraction: f64,
    /// What stands by itself in the shards. Which side a text falls on is decided for documents, before they are cut.
    pub unit: Unit,
    /// A shard file is closed when its tokens take this many bytes or more. Default 256 MiB.
    pub shard_bytes: u64,
}

impl Default for BuildConfig {
    fn default() -> Self {
        Self {
            sources: Vec::new(),
            val_fraction: 0.05,
            unit: Unit::Document,
            shard_bytes: 256 << 20,
        }
    }
}

impl BuildConfig {
    /// Checks everything that can be known without touching a file.
    ///
    /// # Errors
    /// No source, a source without paths, an empty separator, a fraction outside `0 <= x < 1`, a
    /// shard size of 0.
    pub fn validate(&self) -> Result<(), DatasetError> {
        if self.sources.is_empty() {
            return Err(DatasetError::NoSources);
        }
        for (index, source) in self.sources.iter().enumerate() {
            source.validate(index)?;
        }
        if !(0.0..1.0).contains(&self.val_fraction) {
            return Err(DatasetError::ValFraction { found: self.val_fraction });
        }
        if self.shard_bytes == 0 {
            return Err(DatasetError::ShardBytes { found: 0, expected: 1 });
        }
        Ok(())
    }
}

impl SourceSpec {
    pub(crate) fn validate(&self, index: usize) -> Result<(), DatasetError> {
        if self.paths.is_empty() {
            return Err(DatasetError::NoPaths { index });
        }
        if self.document_separator.as_deref() == Some("") {
            return Err(DatasetError::EmptySeparator { index });
        }
        Ok(())
    }
}

/// What a document is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// Seen in training; the tokenizer may learn from it too.
    Train,
    /// Only ever scored.
    Val,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Train => "training",
            Side::Val => "validation",
        })
    }
}
