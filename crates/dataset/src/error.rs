//! Every way that reading, building or loading can fail. Each message names the place (path, byte,
//! line or row), what was expected and what was found, and its last line tells what to do.

use std::io;
use std::path::{Path, PathBuf};

use caravan_tokenizer::{TokenizerError, TokenizerHash};

use crate::{Origin, Side};

/// An error of this crate. The `Display` text ends with a line that begins with `help:`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatasetError {
    /// The operating system refused an action on a file or folder.
    #[error("cannot {action} {}: {source}\nhelp: check the path, its permissions and the free space of the disk", path.display())]
    Io {
        /// What was tried, as an infinitive: `read`, `write`, ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },

    // ------------------------------------------------------------------ settings
    /// A build without any source.
    #[error("no source of text is given\nhelp: name at least one file, folder or glob")]
    NoSources,
    /// A source without any path.
    #[error(
        "source {index} names no path\nhelp: give its `paths` at least one file, folder or glob"
    )]
    NoPaths {
        /// Index of the source.
        index: usize,
    },
    /// `val_fraction` outside `0 <= x < 1`.
    #[error(
        "val_fraction is {found}, expected a number from 0 to below 1\nhelp: 0.05 keeps 5% of the text for validation, 0 keeps none"
    )]
    ValFraction {
        /// The value given.
        found: f64,
    },
    /// `document_separator = ""`.
    #[error(
        "the document separator of source {index} is empty\nhelp: leave `document_separator` out to make each file one document, or give the text between documents, such as \"\\n\\n\""
    )]
    EmptySeparator {
        /// Index of the source.
        index: usize,
    },
    /// A shard size that no document fits.
    #[error(
        "shard_bytes is {found}, expected at least {expected}\nhelp: the default is 268435456 (256 MiB of tokens per file)"
    )]
    ShardBytes {
        /// The value given.
        found: u64,
        /// The least one.
        expected: u64,
    },

    // ------------------------------------------------------------------ finding files
    /// A path that does not exist.
    #[error("{} does not exist\nhelp: check the spelling; relative paths start at {}", path.display(), cwd.display())]
    Missing {
        /// The path as given.
        path: PathBuf,
        /// The working folder.
        cwd: PathBuf,
    },
    /// A glob that is not well formed.
    #[error(
        "the pattern `{pattern}` is not a valid glob: {source}\nhelp: use `*`, `?`, `**` and `[abc]`"
    )]
    BadGlob {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        source: glob::PatternError,
    },
    /// A glob that names no file.
    #[error(
        "the pattern `{pattern}` matches no file\nhelp: a glob names files only, hidden ones not; quote it in the shell, or name the folder itself"
    )]
    NoMatch {
        /// The pattern.
        pattern: String,
    },
    /// A pipe, socket or device.
    #[error("{} is neither a regular file nor a folder\nhelp: save the data to a file first: it is read more than once", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// A file of no bytes, named directly.
    #[error("{} is empty\nhelp: name a file that holds text", path.display())]
    EmptyFile {
        /// The path.
        path: PathBuf,
    },
    /// A folder in which no file has a known extension.
    #[error("no text was found in the folder {} ({n_skipped} files were skipped)\nhelp: files are chosen by extension ({}; each also with .gz or .zst); name others directly or by a glob", path.display(), crate::formats::EXTENSIONS.join(" "))]
    NoText {
        /// The folder.
        path: PathBuf,
        /// Files that were seen and not taken.
        n_skipped: usize,
    },
    /// A source whose files hold no document.
    #[error(
        "source {index} ({paths}) holds no document: {n_empty} were empty\nhelp: name files that hold text"
    )]
    NoDocuments {
        /// Index of the source.
        index: usize,
        /// Its paths.
        paths: String,
        /// Documents that held nothing but white space.
        n_empty: u64,
    },

    // ------------------------------------------------------------------ reading text
    /// A byte that is not UTF-8.
    #[error("{}: byte {offset} is not valid UTF-8 (found {found:#04x})\nhelp: {help}", path.display())]
    InvalidUtf8 {
        /// The file.
        path: PathBuf,
        /// Offset in the (decompressed) file, from 0.
        offset: u64,
        /// The byte.
        found: u8,
        /// What to do, by how the file begins.
        help: &'static str,
    },
    /// A NUL byte where text was expected.
    #[error("{} is not text: byte {offset} is zero\nhelp: name text, JSON lines (.jsonl) or parquet files; UTF-16 text is converted by `iconv -f UTF-16 -t UTF-8`", path.display())]
    Binary {
        /// The file.
        path: PathBuf,
        /// Offset of the zero byte, from 0.
        offset: u64,
    },
    /// A file that is named `.gz` or `.zst` and is not.
    #[error("{} is named as {expected}, but its first bytes are {found}\nhelp: rename the file, or compress it again", path.display())]
    NotCompressed {
        /// The file.
        path: PathBuf,
        /// `gzip` or `zstd`.
        expected: &'static str,
        /// The first bytes, in hexadecimal.
        found: String,
    },
    /// Compressed data that ends early or is damaged.
    #[error("{}: the {compression} data {problem} after {offset} bytes of text: {source}\nhelp: download or compress the file again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// `gzip` or `zstd`.
        compression: &'static str,
        /// `is cut short` or `is damaged`.
        problem: &'static str,
        /// Decompressed bytes read before.
        offset: u64,
        /// The decoder's answer.
        source: io::Error,
    },
    /// A line that is not JSON.
    #[error("{}:{line}:{column}: not a JSON object: {problem}\nhelp: each line must be one JSON object", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: u64,
        /// Byte in the line, from 1.
        column: usize,
        /// What is wrong there.
        problem: String,
        /// The parser's answer.
        source: serde_json::Error,
    },
    /// A JSON line without the field.
    #[error("{}:{line}: there is no field `{field}`; found: {found}\nhelp: {help}", path.display())]
    JsonField {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: u64,
        /// The field asked for.
        field: String,
        /// The fields that are there.
        found: String,
        /// What to do.
        help: String,
    },
    /// A JSON field that is no string.
    #[error("{}:{line}: the field `{field}` is {found}, expected a string\nhelp: set `text_field` to a field that holds text, or remove the line", path.display())]
    JsonType {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: u64,
        /// The field.
        field: String,
        /// The type found.
        found: &'static str,
    },
    /// A parquet file that cannot be read.
    #[error("{}: row {row}: the parquet file cannot be read: {problem}\nhelp: download or write the file again", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// The row at which it failed, from 1 (0: the footer).
        row: u64,
        /// The parser's answer.
        problem: String,
    },
    /// A parquet file without the column.
    #[error("{}: there is no column `{column}`; found: {found}\nhelp: {help}", path.display())]
    ParquetColumn {
        /// The file.
        path: PathBuf,
        /// The column asked for.
        column: String,
        /// The columns that are there.
        found: String,
        /// What to do.
        help: String,
    },
    /// A parquet column that holds no text.
    #[error("{}: the column `{column}` is {found}, expected a flat column of strings\nhelp: set `text_field` to a column that holds text", path.display())]
    ParquetType {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// The type found.
        found: String,
    },
    /// A parquet row without a text.
    #[error("{}: row {row}: the column `{column}` is {found}, expected text\nhelp: remove the row, or fix the file", path.display())]
    ParquetValue {
        /// The file.
        path: PathBuf,
        /// Row, from 1.
        row: u64,
        /// The column.
        column: String,
        /// What is there.
        found: String,
    },

    // ------------------------------------------------------------------ building
    /// The tokenizer has no token to mark where documents begin or end.
    #[error(
        "the tokenizer has no {missing} token, but each document starts with BOS and ends with EOS\nhelp: use a tokenizer that has both, as all LLaMA tokenizers do"
    )]
    NoSpecial {
        /// `BOS` or `EOS`.
        missing: &'static str,
    },
    /// A vocabulary that does not fit the format.
    #[error("the tokenizer has {found} tokens, expected 1 to {expected}\nhelp: use another tokenizer", expected = i32::MAX)]
    VocabSize {
        /// Its size.
        found: usize,
    },
    /// The tokenizer failed on a document.
    #[error(
        "cannot encode the documents from {origin} on: {source}\nhelp: check the tokenizer with `tokenizer info`"
    )]
    Encode {
        /// First document of the batch.
        origin: Box<Origin>,
        /// The tokenizer's answer.
        source: TokenizerError,
    },
    /// The tokenizer gave something else than it promised.
    #[error(
        "{origin}: the tokenizer gave {found}, expected {expected}\nhelp: this is a fault of the tokenizer; use another one and report it"
    )]
    BadEncoding {
        /// The document.
        origin: Box<Origin>,
        /// What was promised.
        expected: String,
        /// What came.
        found: String,
    },
    /// All documents went to validation.
    #[error(
        "no document is left for training: all {n_val} are on the validation side\nhelp: give more text, or lower val_fraction (0 keeps everything for training)"
    )]
    NoTraining {
        /// Documents on the validation side.
        n_val: u64,
    },
    /// The folder to build is already there.
    #[error("{} already exists and is not empty\nhelp: choose another folder, or remove it first", path.display())]
    OutputExists {
        /// The folder.
        path: PathBuf,
    },
    /// A source file changed between two passes of one build.
    #[error(
        "the text changed while it was read: its content hash was {expected}, is {found}\nhelp: build again when nothing writes to the files"
    )]
    SourceChanged {
        /// Hash at the start.
        expected: String,
        /// Hash at the end.
        found: String,
    },

    // ------------------------------------------------------------------ shards
    /// A folder that is no shard set.
    #[error("{} is not a set of shards: it has no dataset.json\nhelp: name a folder made by `data build`", path.display())]
    NotADataset {
        /// The folder.
        path: PathBuf,
    },
    /// `dataset.json` is not what we write.
    #[error("{}: not a valid manifest: {source}\nhelp: build the shards again", path.display())]
    ManifestJson {
        /// The manifest.
        path: PathBuf,
        /// The parser's answer.
        source: serde_json::Error,
    },
    /// A field of `dataset.json` is wrong.
    #[error("{}: {field} is {found}, expected {expected}\nhelp: build the shards again", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Which field.
        field: String,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A field or section of a shard is wrong.
    #[error("shard {}: at byte {offset}: {field} is {found}, expected {expected}\nhelp: build the shards again", path.display())]
    Shard {
        /// The shard.
        path: PathBuf,
        /// Which field.
        field: &'static str,
        /// Its byte offset in the file.
        offset: u64,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// Shards made with another tokenizer.
    #[error("the shards in {} were made with the tokenizer {expected}, this one is {found}\nhelp: use the same tokenizer, or build the shards again", path.display())]
    TokenizerMismatch {
        /// The folder.
        path: PathBuf,
        /// The shards' tokenizer.
        expected: TokenizerHash,
        /// The one given.
        found: TokenizerHash,
    },

    // ------------------------------------------------------------------ loading
    /// `seq_len = 0`, or one beyond the token type.
    #[error("seq_len is {found}, expected 1 to {expected}\nhelp: set seq_len to the number of tokens per sequence, such as 256", expected = crate::loader::MAX_SEQ_LEN)]
    SeqLen {
        /// The value given.
        found: usize,
    },
    /// Not even one sequence can be made.
    #[error("the {side} side{of} holds {n_tokens} tokens, but one sequence of seq_len={seq_len} needs {needed}\nhelp: give more text, or lower seq_len", needed = seq_len + 1)]
    TooLittleData {
        /// Which side.
        side: Side,
        /// `""`, or ` of source 3`.
        of: String,
        /// Tokens there are, with BOS and EOS.
        n_tokens: u64,
        /// The sequence length asked for.
        seq_len: usize,
    },
    /// Weights that do not fit the sources.
    #[error(
        "the weights of the sources are {found}, expected {expected}\nhelp: give one weight per source, in their order, or none to mix by size"
    )]
    Weights {
        /// What they must be.
        expected: String,
        /// What they are.
        found: String,
    },
}

impl DatasetError {
    /// A path that does not exist.
    pub(crate) fn missing(path: &Path) -> Self {
        // Without a working folder there is nothing to say about it.
        Self::Missing { path: path.to_owned(), cwd: std::env::current_dir().unwrap_or_default() }
    }

    /// For `map_err`: an input or output error with its action and path.
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}
