//! The nested JSON of SQuAD, XQuAD and MLQA: articles, paragraphs, questions.
//!
//! # Reference
//! Rajpurkar et al., "SQuAD: 100,000+ Questions for Machine Comprehension of Text", 2016, and its files' form:
//! `data[] {title, paragraphs[] {context, qas[] {question, id, answers[] {text, answer_start}, is_impossible}}}`.

use std::path::Path;

use serde_json::{Map, Value};

use super::{Row, row_error};
use crate::error::EvalError;

const HELP: &str = "the form is {\"data\": [{\"title\": .., \"paragraphs\": [{\"context\": .., \"qas\": [{\"question\": .., \"id\": .., \"answers\": [{\"text\": ..}]}]}]}]}";

/// One row per question: `title` if there is one, `context`, `question`, `id`, `answers`.
pub(super) fn read(path: &Path, file: &Map<String, Value>) -> Result<Vec<Row>, EvalError> {
    let list = |place: &str, owner: &Value, name: &str| match owner.get(name) {
        Some(Value::Array(list)) => Ok(list.clone()),
        Some(other) => {
            let reason =
                format!("field `{name}`: expected a list, found {}", super::row::kind(other));
            Err(row_error(path, place, reason, HELP))
        }
        None => Err(row_error(path, place, format!("missing field `{name}`"), HELP)),
    };
    let mut rows = Vec::new();
    let articles = file.get("data").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    for (a, article) in articles.iter().enumerate() {
        let place = format!("data[{a}]");
        for (p, paragraph) in list(&place, article, "paragraphs")?.iter().enumerate() {
            let place = format!("{place}.paragraphs[{p}]");
            for (q, question) in list(&place, paragraph, "qas")?.iter().enumerate() {
                let place = format!("{place}.qas[{q}]");
                let Value::Object(question) = question else {
                    let reason =
                        format!("expected an object, found {}", super::row::kind(question));
                    return Err(row_error(path, &place, reason, HELP));
                };
                let mut fields = question.clone();
                for (owner, name) in [(article, "title"), (paragraph, "context")] {
                    if let Some(value) = owner.get(name) {
                        fields.insert(name.to_owned(), value.clone());
                    }
                }
                rows.push(Row::new(place, fields));
            }
        }
    }
    Ok(rows)
}
