//! Questions with the same context for every choice.
//!
//! Every form is read as its dataset has it on Hugging Face, or prepared: `query, choices, gold`.

use serde_json::Value;

use super::ask::{Ask, Choose};
use crate::rows::{Fault, Row, texts};

/// Between a question and its answer.
const CUE: &str = "\nAnswer:";

/// Before a choice.
const SPACE: &str = " ";

/// Prepared rows: the query, without white space at its end, and `cue`, unless the query ends with it.
pub(super) fn prepared(row: &Row, cue: &str) -> Result<Ask, Fault> {
    let (query, choices, gold) = parts(row, "query", "choices", "gold")?;
    let query = query.trim_end();
    let cue = if query.ends_with(cue.trim_start()) { "" } else { cue };
    Ok(Ask::Choose(Choose::after(&format!("{query}{cue}"), SPACE, choices, gold)))
}

/// Whether a row is prepared rather than in its dataset's own form.
pub(super) fn is_prepared(row: &Row) -> bool {
    row.fields().contains_key("query")
}

/// A question, its choices and the index of the right one.
fn parts(
    row: &Row,
    question: &str,
    choices: &str,
    gold: &str,
) -> Result<(String, Vec<String>, usize), Fault> {
    let question = row.full_text(question)?;
    let list = checked(choices, row.texts(choices)?)?;
    let gold = row.gold(gold, &list)?;
    Ok((question, list, gold))
}

/// At least two choices, none of them empty.
pub(super) fn checked(field: &str, choices: Vec<String>) -> Result<Vec<String>, Fault> {
    if choices.len() < 2 {
        return Err(Fault::field(
            field,
            format!("{} choices, at least 2 are needed", choices.len()),
        ));
    }
    if let Some(i) = choices.iter().position(|choice| choice.trim().is_empty()) {
        return Err(Fault::field(field, format!("choice {i} is empty")));
    }
    Ok(choices)
}

/// Bisk et al., "PIQA", 2019.
pub(super) fn piqa(row: &Row) -> Result<Ask, Fault> {
    if is_prepared(row) {
        return prepared(row, CUE);
    }
    let goal = row.full_text("goal")?;
    let choices = vec![row.full_text("sol1")?, row.full_text("sol2")?];
    let gold = numbered(row, "label", 2)?;
    Ok(Ask::Choose(Choose::after(&format!("Question: {goal}{CUE}"), SPACE, choices, gold)))
}

/// Clark et al., "Think you have Solved Question Answering?", 2018.
pub(super) fn arc(row: &Row) -> Result<Ask, Fault> {
    if is_prepared(row) {
        return prepared(row, CUE);
    }
    let (stem, choices, gold) = labelled(row, "question")?;
    Ok(Ask::Choose(Choose::after(&format!("Question: {stem}{CUE}"), SPACE, choices, gold)))
}

/// Mihaylov et al., "Can a Suit of Armor Conduct Electricity?", 2018.
pub(super) fn open_book_qa(row: &Row) -> Result<Ask, Fault> {
    if is_prepared(row) {
        return prepared(row, "");
    }
    let (stem, choices, gold) = labelled(row, "question_stem")?;
    Ok(Ask::Choose(Choose::after(&stem, SPACE, choices, gold)))
}

/// Zellers et al., "HellaSwag", 2019; the text is cleaned of WikiHow's brackets.
pub(super) fn hella_swag(row: &Row) -> Result<Ask, Fault> {
    if is_prepared(row) {
        return prepared(row, "");
    }
    let context = match row.optional_text("ctx_b")? {
        Some(second) => format!("{} {}", row.text("ctx_a")?, capitalised(&second)),
        None => row.full_text("ctx")?,
    };
    let query = clean(&format!("{}: {context}", row.full_text("activity_label")?));
    let endings = row.texts("endings")?.iter().map(|ending| clean(ending)).collect();
    let endings = checked("endings", endings)?;
    let gold = numbered(row, "label", endings.len())?;
    Ok(Ask::Choose(Choose::after(&query, SPACE, endings, gold)))
}

/// Clark et al., "BoolQ", 2019; `label` as in SuperGLUE, or `answer` as in the original.
pub(super) fn bool_q(row: &Row) -> Result<Ask, Fault> {
    if is_prepared(row) {
        return prepared(row, CUE);
    }
    let context =
        format!("{}\nQuestion: {}?{CUE}", row.full_text("passage")?, row.full_text("question")?);
    let name = if row.has("label") || !row.has("answer") { "label" } else { "answer" };
    let gold = match row.text(name)?.to_lowercase().as_str() {
        "0" | "false" | "no" => 0,
        "1" | "true" | "yes" => 1,
        other => {
            return Err(Fault::field(
                name,
                format!("is \"{other}\", expected 0 or 1, true or false, yes or no"),
            ));
        }
    };
    let choices = ["no", "yes"].map(str::to_owned).to_vec();
    Ok(Ask::Choose(Choose::after(&context, SPACE, choices, gold)))
}

/// Hendrycks et al., "Measuring Massive Multitask Language Understanding", 2021: the choices stand in the question, and a
/// letter is asked for.
pub(super) fn mmlu(row: &Row) -> Result<Ask, Fault> {
    let (question, choices, gold) = if is_prepared(row) {
        parts(row, "query", "choices", "gold")?
    } else if row.has("choices") || !row.has("A") {
        parts(row, "question", "choices", "answer")?
    } else {
        let columns = ["A", "B", "C", "D"].into_iter().map(|name| row.full_text(name));
        let choices = columns.collect::<Result<Vec<_>, _>>()?;
        let key = row.text("answer")?;
        let gold = ["A", "B", "C", "D"].iter().position(|letter| *letter == key.trim());
        let gold = gold.ok_or_else(|| {
            Fault::field("answer", format!("is \"{key}\", expected A, B, C or D"))
        })?;
        (row.full_text("question")?, choices, gold)
    };
    if choices.len() > 26 {
        return Err(Fault::field(
            "choices",
            format!("{} choices, there are 26 letters", choices.len()),
        ));
    }
    let letters: Vec<String> = ('A'..='Z').take(choices.len()).map(String::from).collect();
    let lines: String = letters
        .iter()
        .zip(&choices)
        .map(|(letter, choice)| format!("\n{letter}. {choice}"))
        .collect();
    Ok(Ask::Choose(Choose::after(
        &format!("{}{lines}{CUE}", question.trim()),
        SPACE,
        letters,
        gold,
    )))
}

/// The line before an exam.
pub(super) fn mmlu_preface(subject: &str) -> String {
    let subject = subject.replace('_', " ");
    format!("The following are multiple choice questions (with answers) about {subject}.\n\n")
}

/// A label that counts from 0.
pub(super) fn numbered(row: &Row, name: &str, n: usize) -> Result<usize, Fault> {
    let text = row.text(name)?;
    let found = text.trim().parse::<f64>().ok().filter(|x| x.fract() == 0.0);
    match found {
        Some(index) if index >= 0.0 && index < n as f64 => Ok(index as usize),
        // What the hidden labels of a test set are set to.
        Some(-1.0) => Err(Fault::field(name, "is -1: this split has no labels")),
        _ => {
            Err(Fault::field(name, format!("is \"{text}\", expected a number from 0 to {}", n - 1)))
        }
    }
}

/// `choices {text, label}` and `answerKey` beside the stem in `stem`, or all of it inside `question` as AI2's own files
/// have it.
fn labelled(row: &Row, stem: &str) -> Result<(String, Vec<String>, usize), Fault> {
    let nested = row.fields().get("question").filter(|value| value.is_object());
    let (stem, choices) = match nested {
        Some(question) => {
            let text = question.get("stem").and_then(Value::as_str);
            let text = text.filter(|text| !text.trim().is_empty());
            (
                text.ok_or_else(|| Fault::field("question", "has no text `stem`"))?.to_owned(),
                question
                    .get("choices")
                    .ok_or_else(|| Fault::field("question", "has no `choices`"))?,
            )
        }
        None => (row.full_text(stem)?, row.value("choices")?),
    };
    // A cell of a table may hold the object as JSON.
    let parsed = choices.as_str().and_then(|text| serde_json::from_str(text).ok());
    let choices = parsed.as_ref().unwrap_or(choices);
    let column = |name: &str| match choices {
        Value::Object(columns) => match columns.get(name) {
            Some(value) => texts(&format!("choices.{name}"), value),
            None => Err(Fault::field("choices", format!("has no `{name}`"))),
        },
        Value::Array(list) => {
            let entries = list.iter().map(|entry| entry.get(name).cloned().unwrap_or_default());
            texts(&format!("choices.{name}"), &Value::Array(entries.collect()))
        }
        _ => Err(Fault::field("choices", "expected {\"text\": [..], \"label\": [..]}")),
    };
    let (texts, labels) = (checked("choices.text", column("text")?)?, column("label")?);
    if texts.len() != labels.len() {
        let reason = format!("{} texts but {} labels", texts.len(), labels.len());
        return Err(Fault::field("choices", reason));
    }
    let key = row.text("answerKey")?;
    let gold = labels.iter().position(|label| label == key.trim()).ok_or_else(|| {
        Fault::field("answerKey", format!("is \"{key}\", expected one of {}", labels.join(", ")))
    })?;
    Ok((stem, texts, gold))
}

/// As Python's `str.capitalize`: the first character large, all others small.
fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => {
            first.to_uppercase().chain(characters.as_str().to_lowercase().chars()).collect()
        }
        None => String::new(),
    }
}

/// HellaSwag's clean-up: ` [title]` ends a sentence, other brackets go, of two spaces one stays.
fn clean(text: &str) -> String {
    let text = text.trim().replace(" [title]", ". ");
    let mut kept = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(open) = rest.find('[') {
        kept.push_str(&rest[..open]);
        // A bracket closes on its own line, or it is text.
        let inside = &rest[open..];
        match inside.find([']', '\n']).filter(|at| inside[*at..].starts_with(']')) {
            Some(close) => rest = &inside[close + 1..],
            None => {
                kept.push('[');
                rest = &inside[1..];
            }
        }
    }
    kept.push_str(rest);
    kept.replace("  ", " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wiki_how_is_cleaned() {
        // By Python: re.sub(r"\[.*?\]", "", t.strip().replace(" [title]", ". ")).replace("  ", " ")
        for (text, expected) in [
            ("[header] How to [title] Do it [step] now", " How to. Do it now"),
            (" a [b\nc] d   e ", "a [b\nc] d  e"),
            ("x [[y]] z [", "x ] z ["),
        ] {
            assert_eq!(clean(text), expected);
        }
        assert_eq!(capitalised("éTÉ Is"), "Été is");
        assert_eq!(capitalised(""), "");
    }
}
