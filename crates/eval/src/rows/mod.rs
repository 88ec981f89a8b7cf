//! Rows of a task file: JSON lines, a JSON array, CSV, TSV, or the nested JSON of SQuAD.
//!
//! Whatever the file, a [`Row`] is a set of named values and knows where it stands, so that a complaint about a field can
//! say where it is. Cells of a table are text; a cell that holds a JSON array can be read as a list.

mod json;
mod row;
mod squad;
mod table;

use std::path::Path;

use crate::error::EvalError;

pub(crate) use row::{Fault, Row, gold, texts};

/// How a file is cut into rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// One object per line, one array of objects, or `{"data": [{"paragraphs": ..}]}`.
    #[serde(alias = "jsonl", alias = "ndjson")]
    Json,
    /// Separated by commas, with quotes as in RFC 4180.
    Csv,
    /// Separated by tabs, without quotes.
    Tsv,
    /// Plain text, the whole file one row with the field `text`.
    #[serde(alias = "txt")]
    Text,
}

/// How a file is to be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Without it the file's ending decides, JSON for unknown ones.
    pub(crate) format: Option<Format>,
    /// Names of the columns of a table without a header line.
    pub(crate) columns: Option<Vec<String>>,
    /// The columns of a table whose first line does not name any of the first of them: a header is then optional.
    pub(crate) bare: Option<&'static [&'static str]>,
    /// Whether quotes enclose cells; by default in CSV, not in TSV.
    pub(crate) quotes: Option<bool>,
}

/// Reads all rows of `path`; `help` is what an error about a row says that a good one looks like.
///
/// # Errors
/// A file that cannot be read, is no UTF-8 or not in its format, or has no rows.
pub(crate) fn read(path: &Path, layout: &Layout, help: &str) -> Result<Vec<Row>, EvalError> {
    let bytes =
        std::fs::read(path).map_err(|source| EvalError::Read { path: path.to_owned(), source })?;
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let at = error.valid_up_to();
        let line = 1 + bytes[..at].iter().filter(|byte| **byte == b'\n').count();
        let reason = format!("byte {at} is not valid UTF-8 (found 0x{:02x})", bytes[at]);
        row_error(
            path,
            &line.to_string(),
            reason,
            "convert the file to UTF-8 (`iconv -f latin1 -t UTF-8`)",
        )
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let rows = match layout.format.unwrap_or_else(|| by_ending(path)) {
        Format::Json => json::read(path, text, help)?,
        Format::Csv => table::read(path, text, b',', layout, help)?,
        Format::Tsv => table::read(path, text, b'\t', layout, help)?,
        Format::Text if text.trim().is_empty() => Vec::new(),
        Format::Text => vec![Row::of_text(text)],
    };
    if rows.is_empty() {
        return Err(EvalError::Empty { path: path.to_owned() });
    }
    Ok(rows)
}

fn by_ending(path: &Path) -> Format {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    match ending.to_ascii_lowercase().as_str() {
        "csv" => Format::Csv,
        "tsv" => Format::Tsv,
        "txt" | "text" | "md" => Format::Text,
        _ => Format::Json,
    }
}

/// An error about a row.
pub(crate) fn row_error(path: &Path, place: &str, reason: String, help: &str) -> EvalError {
    EvalError::Row { path: path.to_owned(), place: place.to_owned(), reason, help: help.to_owned() }
}
