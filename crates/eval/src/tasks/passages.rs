//! Passages that go on, questions about passages, and problems that end in a number.

use serde_json::Value;

use super::ask::{Ask, Generate};
use super::form::Labels;
use crate::rows::{Fault, Row, texts};

/// Paperno et al., "LAMBADA", 2016: the last word, cut at the last space, or prepared.
pub(super) fn lambada(row: &Row) -> Result<Ask, Fault> {
    if row.fields().contains_key("context") || !row.fields().contains_key("text") {
        return continuation(row);
    }
    let text = row.full_text("text")?;
    let cut = text
        .rsplit_once(' ')
        .filter(|(before, last)| !before.trim().is_empty() && !last.is_empty());
    let (context, last) =
        cut.ok_or_else(|| Fault::field("text", "has no last word after a space"))?;
    Ok(Ask::Continue { context: context.to_owned(), continuation: format!(" {last}") })
}

/// A context and what follows it after one space.
pub(super) fn continuation(row: &Row) -> Result<Ask, Fault> {
    let (context, continuation) = (row.full_text("context")?, row.full_text("continuation")?);
    Ok(Ask::Continue {
        context: context.trim_end().to_owned(),
        continuation: format!(" {}", continuation.trim()),
    })
}

/// Cobbe et al., "Training Verifiers to Solve Math Word Problems", 2021: the answer ends in `#### number`.
pub(super) fn gsm8k(row: &Row) -> Result<Ask, Fault> {
    let (question, answer) = (row.full_text("question")?, row.full_text("answer")?);
    Ok(Ask::Generate(Generate {
        prompt: format!("Question: {question}\nAnswer:"),
        shown: format!(" {answer}"),
        answers: vec![answer],
    }))
}

/// Any prompt, with one right answer or several.
pub(super) fn generation(row: &Row) -> Result<Ask, Fault> {
    let prompt = row.full_text("prompt")?;
    let answers =
        if row.has("answers") { row.texts("answers")? } else { vec![row.full_text("answer")?] };
    let Some(first) = answers.first() else {
        return Err(Fault::field("answers", "is an empty list, at least one answer is needed"));
    };
    let (prompt, shown) = (prompt.trim_end().to_owned(), format!(" {first}"));
    Ok(Ask::Generate(Generate { prompt, answers, shown }))
}

/// Rajpurkar et al., "SQuAD", 2016 and 2018. A question without answers, or with `is_impossible`, has none.
pub(super) fn squad(row: &Row, labels: &Labels) -> Result<Ask, Fault> {
    let (passage, question) = (row.full_text("context")?, row.full_text("question")?);
    let title = match labels.title {
        Some(label) => row.optional_text("title")?.map(|title| format!("{label}: {title}\n\n")),
        None => None,
    };
    let impossible = row.fields().get("is_impossible").and_then(Value::as_bool).unwrap_or(false);
    let answers = if impossible { Vec::new() } else { answers(row)? };
    let shown = answers.first().map_or(UNANSWERABLE, String::as_str);
    Ok(Ask::Generate(Generate {
        prompt: format!(
            "{}{}: {passage}\n\n{}: {question}\n\n{}:",
            title.unwrap_or_default(),
            labels.passage,
            labels.question,
            labels.answer
        ),
        shown: format!(" {shown}"),
        answers,
    }))
}

/// What stands for the answer of a question that has none.
pub(super) const UNANSWERABLE: &str = "unanswerable";

/// `{"text": [..]}` as on Hugging Face, `[{"text": ..}]` as in SQuAD's own files, or a list of texts.
fn answers(row: &Row) -> Result<Vec<String>, Fault> {
    let value = row.value("answers")?;
    // A cell of a table may hold it as JSON.
    let parsed = value.as_str().and_then(|text| serde_json::from_str(text).ok());
    match parsed.as_ref().unwrap_or(value) {
        Value::Object(columns) => match columns.get("text") {
            Some(list) => texts("answers.text", list),
            None => Err(Fault::field("answers", "has no `text`")),
        },
        Value::Array(list) if list.iter().all(Value::is_object) => {
            let entries = list.iter().map(|entry| entry.get("text").cloned().unwrap_or_default());
            texts("answers.text", &Value::Array(entries.collect()))
        }
        other => texts("answers", other),
    }
}
