//! JSON lines: one object per line, one field of which is the text. Blank lines are passed over.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use super::input::{Bytes, check_utf8};
use super::{Reader, nearest_help};
use crate::DatasetError;
use crate::documents::Place;

/// Reads a JSON lines file, one line in memory at a time.
pub(super) struct JsonLines {
    bytes: Bytes,
    field: String,
    buffer: Vec<u8>,
    line: u64,
    offset: u64,
}

impl JsonLines {
    pub(super) fn new(bytes: Bytes, field: &str) -> Self {
        Self { bytes, field: field.to_owned(), buffer: Vec::new(), line: 0, offset: 0 }
    }

    fn parse(&self, line: &str) -> Result<String, DatasetError> {
        let path = || self.bytes.path().to_owned();
        let mut json = serde_json::Deserializer::from_str(line);
        let seed = Field { name: &self.field };
        let found = seed
            .deserialize(&mut json)
            .and_then(|found| json.end().map(|()| found))
            .map_err(|source| self.wrong(source))?;
        match found.value {
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(DatasetError::JsonType {
                path: path(),
                line: self.line,
                field: self.field.clone(),
                found: type_name(&other),
            }),
            None => Err(DatasetError::JsonField {
                path: path(),
                line: self.line,
                field: self.field.clone(),
                found: if found.others.is_empty() {
                    "none".to_owned()
                } else {
                    found.others.join(", ")
                },
                help: nearest_help("field", &self.field, &found.others),
            }),
        }
    }
}

impl JsonLines {
    /// The parser sees one line, so the line that it names is always the first.
    fn wrong(&self, source: serde_json::Error) -> DatasetError {
        let mut problem = source.to_string();
        if let Some(at) = problem.rfind(" at line ") {
            problem.truncate(at);
        }
        let path = self.bytes.path().to_owned();
        DatasetError::Json {
            path,
            line: self.line,
            column: source.column().max(1),
            problem,
            source,
        }
    }
}

impl Reader for JsonLines {
    fn read(&mut self) -> Result<Option<(String, Place)>, DatasetError> {
        loop {
            self.buffer.clear();
            let n = self.bytes.read_line(&mut self.buffer)?;
            if n == 0 {
                return Ok(None);
            }
            self.line += 1;
            let mut line = check_utf8(&self.buffer, self.offset, self.bytes.path())?;
            self.offset += n as u64;
            if self.line == 1 {
                // A byte order mark is no part of any document here, and not JSON.
                line = line.strip_prefix('\u{feff}').unwrap_or(line);
            }
            if !line.trim().is_empty() {
                return Ok(Some((self.parse(line.trim_end())?, Place::Line(self.line))));
            }
        }
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Takes one field out of an object and builds nothing of the others; the last of equal names
/// counts, as in every JSON library.
struct Field<'a> {
    name: &'a str,
}

/// The field, and what else there was (only kept while the field is missing).
struct Found {
    value: Option<Value>,
    others: Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        let mut found = Found { value: None, others: Vec::new() };
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            if key == self.name {
                found.value = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
                if found.value.is_none() && found.others.len() < 16 {
                    found.others.push(key.into_owned());
                }
            }
        }
        Ok(found)
    }
}
