//! One row, and what can be wrong with it.

use serde_json::{Map, Value};

/// What is wrong with a row, in words that name the field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault(pub(crate) String);

impl Fault {
    /// About one field.
    pub(crate) fn field(name: &str, reason: impl std::fmt::Display) -> Self {
        Self(format!("field `{name}`: {reason}"))
    }
}

/// Named values, and where they stand in their file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    /// A line number, or the path inside a nested file.
    pub(crate) place: String,
    fields: Map<String, Value>,
}

impl Row {
    pub(crate) fn new(place: String, fields: Map<String, Value>) -> Self {
        Self { place, fields }
    }

    /// A whole text as one row.
    pub(super) fn of_text(text: &str) -> Self {
        let mut fields = Map::new();
        fields.insert("text".to_owned(), Value::String(text.to_owned()));
        Self { place: "1".to_owned(), fields }
    }

    pub(crate) fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }

    /// Whether the field is there and not null.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.fields.get(name).is_some_and(|value| !value.is_null())
    }

    /// A field, whatever it holds.
    pub(crate) fn value(&self, name: &str) -> Result<&Value, Fault> {
        match self.fields.get(name) {
            Some(value) => Ok(value),
            None => {
                let found: Vec<&str> = self.fields.keys().map(String::as_str).collect();
                let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
                Err(Fault(format!("missing field `{name}`; found: {found}")))
            }
        }
    }

    /// A text; a number or a truth value is taken as it is written.
    pub(crate) fn text(&self, name: &str) -> Result<String, Fault> {
        as_text(self.value(name)?).ok_or_else(|| {
            Fault::field(name, format!("expected text, found {}", kind(&self.fields[name])))
        })
    }

    /// A text that is more than white space.
    pub(crate) fn full_text(&self, name: &str) -> Result<String, Fault> {
        let text = self.text(name)?;
        if text.trim().is_empty() { Err(Fault::field(name, "is empty")) } else { Ok(text) }
    }

    /// The text, or nothing where the field is absent or null.
    pub(crate) fn optional_text(&self, name: &str) -> Result<Option<String>, Fault> {
        if self.has(name) { self.text(name).map(Some) } else { Ok(None) }
    }

    /// A list of texts: a JSON array, or a text that is one.
    pub(crate) fn texts(&self, name: &str) -> Result<Vec<String>, Fault> {
        texts(name, self.value(name)?)
    }

    /// Index of the right one of `choices`.
    pub(crate) fn gold(&self, name: &str, choices: &[String]) -> Result<usize, Fault> {
        gold(self.value(name)?, choices).map_err(|reason| Fault::field(name, reason))
    }
}

/// Texts out of an array, or out of a text that holds one.
pub(crate) fn texts(name: &str, value: &Value) -> Result<Vec<String>, Fault> {
    let parsed;
    let list = match value {
        Value::Array(list) => list,
        Value::String(text) if text.trim_start().starts_with('[') => {
            parsed = serde_json::from_str::<Vec<Value>>(text).map_err(|error| {
                Fault::field(name, format!("looks like a list but is no JSON: {error}"))
            })?;
            &parsed
        }
        other => return Err(Fault::field(name, format!("expected a list, found {}", kind(other)))),
    };
    let item = |(i, value): (usize, &Value)| {
        as_text(value).ok_or_else(|| {
            Fault::field(name, format!("entry {i}: expected text, found {}", kind(value)))
        })
    };
    list.iter().enumerate().map(item).collect()
}

/// A scalar as text.
pub(crate) fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}

/// What a value is, for messages.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Which choice is meant: by a number counted from 0, a letter, or the choice's own text.
///
/// A text can be read in several ways; where these disagree the row is refused rather than one of them picked.
pub(crate) fn gold(value: &Value, choices: &[String]) -> Result<usize, String> {
    let n = choices.len();
    let among = |index: u64| {
        let found = usize::try_from(index).ok().filter(|index| *index < n);
        found.ok_or_else(|| format!("gold is {index}, there are {n} choices, counted from 0"))
    };
    match value {
        Value::Number(number) => match number.as_u64() {
            Some(index) => among(index),
            // Tables written by way of floating point say 1.0.
            None => match number.as_f64().filter(|x| *x >= 0.0 && x.fract() == 0.0) {
                Some(index) => among(index as u64),
                None => {
                    Err(format!("gold is {number}, expected a choice's number from 0 to {}", n - 1))
                }
            },
        },
        Value::String(text) => {
            let text = text.trim();
            let by_text = choices.iter().position(|choice| choice.trim() == text);
            let by_letter = match text.as_bytes() {
                [letter] if letter.is_ascii_alphabetic() => {
                    Some(usize::from(letter.to_ascii_uppercase() - b'A')).filter(|index| *index < n)
                }
                _ => None,
            };
            let by_number = text.parse().ok().filter(|index| *index < n);
            let mut readings: Vec<usize> =
                [by_text, by_letter, by_number].into_iter().flatten().collect();
            readings.dedup();
            match readings[..] {
                [index] => Ok(index),
                [] => Err(format!(
                    "gold is \"{text}\", which is neither the text of a choice nor its letter nor its number; there are {n} choices, counted from 0 or A"
                )),
                _ => Err(format!(
                    "gold is \"{text}\", which means one choice by its text and another by its letter or number"
                )),
            }
        }
        other => {
            Err(format!("expected a number, a letter or a choice's text, found {}", kind(other)))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn choices(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn gold_is_a_number_a_letter_or_a_text() {
        let three = choices(&["red", "green", "red"]);
        for (value, expected) in [
            (json!(1), 1),
            (json!(2.0), 2),
            (json!("2"), 2),
            (json!("B"), 1),
            (json!("c"), 2),
            (json!(" green "), 1),
            (json!("red"), 0),
        ] {
            assert_eq!(gold(&value, &three), Ok(expected), "{value}");
        }
        for (value, reason) in [
            (json!(3), "gold is 3, there are 3 choices"),
            (json!(-1), "gold is -1"),
            (json!(0.5), "gold is 0.5"),
            (json!("D"), "neither the text"),
            (json!("3"), "neither the text"),
            (json!(""), "neither the text"),
            (json!(null), "found null"),
        ] {
            let error = gold(&value, &three).unwrap_err();
            assert!(error.contains(reason), "{value}: {error}");
        }
        assert_eq!(gold(&json!("1"), &choices(&["0", "1"])), Ok(1));
        assert!(gold(&json!("1"), &choices(&["1", "0"])).unwrap_err().contains("another"));
        assert!(gold(&json!("a"), &choices(&["b", "a"])).unwrap_err().contains("another"));
    }

    #[test]
    fn fields_are_named_when_they_are_wrong() {
        let fields = json!({"a": "x", "n": 3, "l": ["p", 2], "s": "[\"q\"]", "bad": [[]], "e": " ", "z": null});
        let Value::Object(fields) = fields else { unreachable!() };
        let row = Row::new("7".to_owned(), fields);
        assert_eq!(row.text("n").unwrap(), "3");
        assert_eq!(row.texts("l").unwrap(), ["p", "2"]);
        assert_eq!(row.texts("s").unwrap(), ["q"]);
        assert_eq!(row.optional_text("z").unwrap(), None);
        let message = |fault: Fault| fault.0;
        assert_eq!(
            message(row.text("b").unwrap_err()),
            "missing field `b`; found: a, n, l, s, bad, e, z"
        );
        assert!(
            message(row.text("l").unwrap_err()).contains("field `l`: expected text, found a list")
        );
        assert!(message(row.texts("a").unwrap_err()).contains("expected a list, found text"));
        assert!(message(row.texts("bad").unwrap_err()).contains("entry 0: expected text"));
        assert!(message(row.full_text("e").unwrap_err()).contains("field `e`: is empty"));
    }
}
