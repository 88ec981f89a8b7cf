//! File formats: one file each, chosen by extension; compression is found by the first bytes.
//!
//! A new format is a new file here with a type that implements [`Reader`], and a row in [`open`]
//! and [`EXTENSIONS`].

mod input;
mod jsonl;
mod parquet;
mod text;

use std::path::Path;

use crate::documents::Place;
use crate::{DatasetError, SourceSpec};

/// Extensions that are read when they are met in a folder; each also with `.gz`, `.zst` or `.zstd`
/// behind it. Case does not matter.
pub const EXTENSIONS: &[&str] =
    &["txt", "text", "md", "markdown", "rst", "tex", "org", "adoc", "jsonl", "ndjson", "parquet"];

/// Gives the texts of one file, one after another.
pub(crate) trait Reader: Send {
    /// The next text and its place, `None` at the end of the file.
    fn read(&mut self) -> Result<Option<(String, Place)>, DatasetError>;
}

/// Opens a file by its extension; unknown ones are text.
pub(crate) fn open(path: &Path, spec: &SourceSpec) -> Result<Box<dyn Reader>, DatasetError> {
    Ok(match extension(path).as_str() {
        "jsonl" | "ndjson" => {
            Box::new(jsonl::JsonLines::new(input::Bytes::open(path)?, &spec.text_field))
        }
        "parquet" => Box::new(parquet::Parquet::open(path, &spec.text_field)?),
        _ => {
            let separator = spec.document_separator.clone();
            Box::new(text::Text::new(input::Bytes::open(path)?, separator))
        }
    })
}

/// Whether a file found in a folder is read.
pub(crate) fn known(path: &Path) -> bool {
    EXTENSIONS.contains(&extension(path).as_str())
}

/// The name of the format that a file is read as, for hashes and reports.
pub(crate) fn format_name(path: &Path) -> &'static str {
    match extension(path).as_str() {
        "jsonl" | "ndjson" => "jsonl",
        "parquet" => "parquet",
        _ => "text",
    }
}

/// The extension below a `.gz` or `.zst`, in lower case; empty if there is none.
fn extension(path: &Path) -> String {
    let lower = |path: &Path| {
        path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default()
    };
    let last = lower(path);
    if matches!(last.as_str(), "gz" | "zst" | "zstd") {
        lower(&path.with_extension(""))
    } else {
        last
    }
}

/// A help line for a name that is not there: the nearest one that is.
fn nearest_help(what: &str, wanted: &str, names: &[String]) -> String {
    let near = names.iter().max_by(|a, b| {
        let score = |name: &str| strsim::jaro_winkler(wanted, name);
        score(a).total_cmp(&score(b))
    });
    match near {
        Some(name) => {
            format!("set `text_field` to the {what} that holds the text, for example `{name}`")
        }
        None => format!("set `text_field` to the {what} that holds the text"),
    }
}
