//! Questions in which the choice stands inside a sentence.

use super::ask::{Ask, Choose};
use super::choices::{is_prepared, numbered, prepared};
use super::form::Connectors;
use crate::rows::{Fault, Row};

/// Sakaguchi et al., "WinoGrande", 2020, by partial evaluation (Trinh and Le 2018): the same rest of the sentence is scored
/// after the sentence up to and with each option.
pub(super) fn wino_grande(row: &Row) -> Result<Ask, Fault> {
    if is_prepared(row) {
        return prepared(row, "");
    }
    let sentence = row.full_text("sentence")?;
    let Some((before, after)) = sentence.split_once('_') else {
        return Err(Fault::field("sentence", "has no gap `_`"));
    };
    let after = after.trim();
    if after.is_empty() {
        return Err(Fault::field(
            "sentence",
            "nothing follows the gap `_`, so nothing can be scored",
        ));
    }
    let texts = vec![row.full_text("option1")?, row.full_text("option2")?];
    let gold = match row.text("answer")?.trim() {
        "1" => 0,
        "2" => 1,
        other => return Err(Fault::field("answer", format!("is \"{other}\", expected 1 or 2"))),
    };
    let options = texts.iter().map(|text| (format!("{before}{text}"), format!(" {after}")));
    Ok(Ask::Choose(Choose { options: options.collect(), texts, gold }))
}

/// Roemmele et al., "Choice of Plausible Alternatives", 2011, and Ponti et al., "XCOPA", 2020: the premise without its last
/// character, the connector, and each choice with a small first letter.
pub(super) fn copa(row: &Row, connectors: &Connectors) -> Result<Ask, Fault> {
    if is_prepared(row) {
        return prepared(row, "");
    }
    let premise = row.full_text("premise")?;
    let mut premise = premise.trim().chars();
    premise.next_back();
    let connector = match row.text("question")?.trim() {
        "cause" => connectors.cause,
        "effect" => connectors.effect,
        other => {
            return Err(Fault::field(
                "question",
                format!("is \"{other}\", expected cause or effect"),
            ));
        }
    };
    let mut texts = Vec::new();
    for name in ["choice1", "choice2"] {
        let choice = row.full_text(name)?;
        let mut characters = choice.chars();
        let first = characters.next().into_iter().flat_map(char::to_lowercase);
        let small: String = first.chain(characters).collect();
        texts.push(format!("{}{small}", connectors.space));
    }
    let gold = numbered(row, "label", 2)?;
    Ok(Ask::Choose(Choose::after(&format!("{} {connector}", premise.as_str()), " ", texts, gold)))
}
