//! How a row becomes an item: which fields it has, and what the prompt is made of.

use super::ask::{Ask, Item};
use super::own::Templates;
use super::{choices, partial, passages};
use crate::rows::{Fault, Layout, Row};

/// The form of a row, and of the prompt.
///
/// Prompts are those of EleutherAI's lm-evaluation-harness 0.4, so that numbers can be compared.
#[derive(Clone, Debug)]
pub(crate) enum Form {
    /// `goal, sol1, sol2, label`.
    Piqa,
    /// `question, choices {text, label}, answerKey`.
    Arc,
    /// `question_stem, choices {text, label}, answerKey`.
    OpenBookQa,
    /// `activity_label, ctx_a, ctx_b, endings, label`.
    HellaSwag,
    /// `sentence, option1, option2, answer`.
    WinoGrande,
    /// `passage, question, label`.
    BoolQ,
    /// `premise, question, choice1, choice2, label`.
    Copa(Connectors),
    /// `question, choices, answer`, and `subject`.
    Mmlu,
    /// `query, choices, gold`.
    Choices,
    /// `text`, whose last word is the continuation, or `context, continuation`.
    Lambada,
    /// `context, continuation`.
    Continuation,
    /// `question, answer`.
    Gsm8k,
    /// `prompt, answer` or `prompt, answers`.
    Generation,
    /// `context, question, answers`, or the nested file.
    Squad(Labels),
    /// `text`.
    Text,
    /// As a task file says.
    Own(Box<Templates>),
}

/// The words between a premise and its cause or effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Connectors {
    pub(crate) cause: &'static str,
    pub(crate) effect: &'static str,
    /// Before a choice, after the harness's own delimiter.
    pub(crate) space: &'static str,
}

/// What a passage, a question and an answer are called in the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Labels {
    /// Shown with the row's `title` where both are there.
    pub(crate) title: Option<&'static str>,
    pub(crate) passage: &'static str,
    pub(crate) question: &'static str,
    pub(crate) answer: &'static str,
}

/// Of the exam's own files, which have no header.
const MMLU_COLUMNS: &[&str] = &["question", "A", "B", "C", "D", "answer"];

impl Form {
    /// Reads a row.
    pub(crate) fn item(&self, row: &Row) -> Result<Item, Fault> {
        let mut group = None;
        let mut preface = String::new();
        let ask = match self {
            Self::Piqa => choices::piqa(row)?,
            Self::Arc => choices::arc(row)?,
            Self::OpenBookQa => choices::open_book_qa(row)?,
            Self::HellaSwag => choices::hella_swag(row)?,
            Self::BoolQ => choices::bool_q(row)?,
            Self::Choices => choices::prepared(row, "")?,
            Self::Mmlu => {
                group = row.optional_text("subject")?;
                if let Some(subject) = &group {
                    preface = choices::mmlu_preface(subject);
                }
                choices::mmlu(row)?
            }
            Self::WinoGrande => partial::wino_grande(row)?,
            Self::Copa(connectors) => partial::copa(row, connectors)?,
            Self::Lambada => passages::lambada(row)?,
            Self::Continuation => passages::continuation(row)?,
            Self::Gsm8k => passages::gsm8k(row)?,
            Self::Generation => passages::generation(row)?,
            Self::Squad(labels) => passages::squad(row, labels)?,
            Self::Text => Ask::Roll { text: row.full_text("text")? },
            Self::Own(templates) => {
                preface.clone_from(&templates.preface);
                templates.ask(row)?
            }
        };
        Ok(Item { place: row.place.clone(), group, preface, ask })
    }

    /// How its files are read where the file does not say.
    pub(crate) fn layout(&self) -> Layout {
        match self {
            Self::Mmlu => Layout { bare: Some(MMLU_COLUMNS), ..Layout::default() },
            Self::Own(templates) => templates.layout.clone(),
            _ => Layout::default(),
        }
    }

    /// What a good row looks like.
    pub(crate) fn help(&self) -> String {
        let prepared = "{\"query\": \"..\", \"choices\": [\"..\", \"..\"], \"gold\": 0}";
        let own = match self {
            Self::Choices => return format!("a row is {prepared}, gold a number from 0, a letter or a choice's text"),
            Self::Continuation => return "a row is {\"context\": \"..\", \"continuation\": \"..\"}".to_owned(),
            Self::Lambada => return "a row is {\"context\": \"..\", \"continuation\": \"..\"} or {\"text\": \"..\"}, whose last word is asked for".to_owned(),
            Self::Gsm8k => return "a row is {\"question\": \"..\", \"answer\": \".. #### 42\"}".to_owned(),
            Self::Generation => return "a row is {\"prompt\": \"..\", \"answer\": \"..\"}, or `answers` with a list".to_owned(),
            Self::Squad(_) => return "a row is {\"context\": \"..\", \"question\": \"..\", \"answers\": {\"text\": [\"..\"]}}, or the file has the nested form of SQuAD".to_owned(),
            Self::Text => return "a row is {\"text\": \"..\"}, or the file is plain text (.txt)".to_owned(),
            Self::Own(templates) => return templates.help(),
            Self::Piqa => "{\"goal\": \"..\", \"sol1\": \"..\", \"sol2\": \"..\", \"label\": 0}",
            Self::Arc => "{\"question\": \"..\", \"choices\": {\"text\": [..], \"label\": [\"A\", ..]}, \"answerKey\": \"A\"}",
            Self::OpenBookQa => "{\"question_stem\": \"..\", \"choices\": {\"text\": [..], \"label\": [\"A\", ..]}, \"answerKey\": \"A\"}",
            Self::HellaSwag => "{\"activity_label\": \"..\", \"ctx_a\": \"..\", \"ctx_b\": \"..\", \"endings\": [..], \"label\": \"0\"}",
            Self::BoolQ => "{\"passage\": \"..\", \"question\": \"..\", \"label\": 1}",
            Self::Mmlu => "{\"question\": \"..\", \"choices\": [..], \"answer\": 0}",
            Self::WinoGrande => "{\"sentence\": \".. _ ..\", \"option1\": \"..\", \"option2\": \"..\", \"answer\": \"1\"}",
            Self::Copa(_) => "{\"premise\": \"..\", \"question\": \"cause\", \"choice1\": \"..\", \"choice2\": \"..\", \"label\": 0}",
        };
        format!("a row is {own} or {prepared}")
    }
}
