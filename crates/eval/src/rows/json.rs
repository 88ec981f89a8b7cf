//! JSON lines, a JSON array of rows, or one nested document.

use std::path::Path;

use serde_json::{Map, Value};

use super::{Row, row_error, squad};
use crate::error::EvalError;

/// Lines of nothing but white space are passed over.
pub(super) fn read(path: &Path, text: &str, help: &str) -> Result<Vec<Row>, EvalError> {
    let Some((at, first)) = lines(text).next() else { return Ok(Vec::new()) };
    let starts = first.trim_start();
    // A line that is an object by itself makes a file of lines, unless it is all of SQuAD in one line.
    let alone = serde_json::from_str::<Map<String, Value>>(first);
    let nested = |object: &Map<String, Value>| object.get("data").is_some_and(Value::is_array);
    match alone {
        Ok(object) if !nested(&object) => rows(path, text, help),
        _ if starts.starts_with('[') => array(path, text, help),
        // One object over the whole file; where it is not, the first line is to blame.
        first_line => match serde_json::from_str::<Map<String, Value>>(text) {
            Ok(object) if nested(&object) => squad::read(path, &object),
            Ok(_) => {
                let reason = "one JSON object over several lines, without `data`".to_owned();
                Err(row_error(path, &at.to_string(), reason, help))
            }
            Err(whole) => {
                let json = path.extension().is_some_and(|ending| ending == "json");
                let (line, error) = match first_line {
                    Err(error) if !json => (at, error),
                    _ => (whole.line(), whole),
                };
                Err(row_error(path, &line.to_string(), plain(&error), help))
            }
        },
    }
}

fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(i, line)| (i + 1, line))
        .filter(|(_, line)| !line.trim().is_empty())
}

fn rows(path: &Path, text: &str, help: &str) -> Result<Vec<Row>, EvalError> {
    lines(text)
        .map(|(line, text)| match serde_json::from_str(text) {
            Ok(fields) => Ok(Row::new(line.to_string(), fields)),
            Err(error) => {
                let reason = format!("not a JSON object: {}", plain(&error));
                Err(row_error(path, &line.to_string(), reason, help))
            }
        })
        .collect()
}

fn array(path: &Path, text: &str, help: &str) -> Result<Vec<Row>, EvalError> {
    let list: Vec<Value> = serde_json::from_str(text)
        .map_err(|error| row_error(path, &error.line().to_string(), plain(&error), help))?;
    let row = |(i, value)| match value {
        Value::Object(fields) => Ok(Row::new(format!("entry {i}"), fields)),
        other => {
            let reason = format!("expected an object, found {}", super::row::kind(&other));
            Err(row_error(path, &format!("entry {i}"), reason, help))
        }
    };
    list.into_iter().enumerate().map(row).collect()
}

/// The message with the column, but without the line, which the place already says.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let (message, _) = text.split_once(" at line ").unwrap_or((&text, ""));
    format!("{message} at column {}", error.column())
}
