//! Reading JSON lines.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::EvalError;

/// The rows of a JSON-lines file with their line numbers, each checked by `check`, which says what is wrong.
///
/// # Errors
/// Unreadable file, no rows, a line that is not a `T`, a row that `check` refuses. Only lines of nothing but white space
/// are passed over.
pub(super) fn read<T: DeserializeOwned>(
    path: &Path,
    help: &'static str,
    check: impl Fn(&T) -> Result<(), String>,
) -> Result<Vec<(usize, T)>, EvalError> {
    let read = |source| EvalError::Read { path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(read)?;
    let mut rows = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let bad = |reason| EvalError::Row { path: path.to_owned(), line: index + 1, reason, help };
        let row: T = serde_json::from_str(line).map_err(|error| bad(error.to_string()))?;
        check(&row).map_err(bad)?;
        rows.push((index + 1, row));
    }
    if rows.is_empty() {
        return Err(EvalError::Empty { path: path.to_owned() });
    }
    Ok(rows)
}
