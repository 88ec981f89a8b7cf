//! CSV and TSV.
//!
//! # Reference
//! RFC 4180 for CSV; the media type text/tab-separated-values for TSV, which knows no quotes.

use std::path::Path;

use serde_json::{Map, Value};

use super::{Layout, Row, row_error};
use crate::error::EvalError;

/// Cells become texts under the names of the header line, or under `columns`. Line ends may be LF or CRLF.
pub(super) fn read(
    path: &Path,
    text: &str,
    delimiter: u8,
    layout: &Layout,
    help: &str,
) -> Result<Vec<Row>, EvalError> {
    let quotes = layout.quotes.unwrap_or(delimiter == b',');
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .has_headers(false)
        .flexible(true)
        .quoting(quotes)
        .from_reader(text.as_bytes());
    let mut columns = layout.columns.clone();
    let mut rows = Vec::new();
    let mut record = csv::StringRecord::new();
    loop {
        match reader.read_record(&mut record) {
            Ok(true) => {}
            Ok(false) => return Ok(rows),
            Err(error) => {
                let line = error.position().map_or(0, csv::Position::line);
                return Err(row_error(path, &line.to_string(), error.to_string(), help));
            }
        }
        let line = record.position().map_or(0, csv::Position::line).to_string();
        if record.iter().all(|cell| cell.trim().is_empty()) {
            continue;
        }
        let Some(names) = &columns else {
            let header: Vec<String> = record.iter().map(|name| name.trim().to_owned()).collect();
            match layout.bare {
                Some(bare) if !header.iter().any(|name| name == bare[0]) => {
                    columns = Some(bare.iter().map(|name| (*name).to_owned()).collect());
                    rows.push(row(
                        path,
                        columns.as_deref().unwrap_or_default(),
                        &record,
                        line,
                        quotes,
                    )?);
                }
                _ => columns = Some(checked(path, &line, header)?),
            }
            continue;
        };
        rows.push(row(path, names, &record, line, quotes)?);
    }
}

fn checked(path: &Path, line: &str, header: Vec<String>) -> Result<Vec<String>, EvalError> {
    let help =
        "the first line names each column once; without such a line list `columns` in a task file";
    for (i, name) in header.iter().enumerate() {
        if name.is_empty() {
            return Err(row_error(path, line, format!("column {} has no name", i + 1), help));
        }
        if header[..i].contains(name) {
            return Err(row_error(path, line, format!("two columns are called `{name}`"), help));
        }
    }
    Ok(header)
}

fn row(
    path: &Path,
    names: &[String],
    record: &csv::StringRecord,
    line: String,
    quotes: bool,
) -> Result<Row, EvalError> {
    if record.len() != names.len() {
        let reason =
            format!("{} cells, expected {} ({})", record.len(), names.len(), names.join(", "));
        let help = if quotes {
            "enclose cells that hold the separator or line ends in quotes, and double quotes inside them"
        } else {
            "quotes mean nothing in this file; set `quotes = true` in a task file if they enclose cells"
        };
        return Err(row_error(path, &line, reason, help));
    }
    let cell = |(name, cell): (&String, &str)| (name.clone(), Value::String(cell.to_owned()));
    Ok(Row::new(line, names.iter().zip(record.iter()).map(cell).collect::<Map<_, _>>()))
}
