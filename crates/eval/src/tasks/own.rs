//! Tasks by a short TOML file over a file of rows.
//!
//! ```toml
//! name = "colours"
//! kind = "multiple_choice"
//! file = "colours.csv"                       # beside this file
//! query = "Question: {{question}}\nAnswer:"  # templates in the language of Jinja
//! choices = ["{{first}}", "{{second}}"]      # or the name of a field that holds a list
//! gold = "answer"                            # the name of a field: a number from 0, a letter, a choice's text
//! ```

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior, Value};
use serde::Deserialize;

use super::ask::{Ask, Choose, Generate};
use super::choices::checked;
use super::form::Form;
use super::normalise::Language;
use super::passages::UNANSWERABLE;
use super::table::LINE;
use super::{Task, TaskKind};
use crate::error::EvalError;
use crate::rows::{Fault, Format, Layout, Row, gold, texts};

/// A task and the file it asks.
#[derive(Clone, Debug)]
pub struct TaskFile {
    /// What is asked.
    pub task: Task,
    /// The file of rows.
    pub file: PathBuf,
    /// Where examples come from, if not from the same file.
    pub shots_from: Option<PathBuf>,
    /// Worked examples before each question.
    pub shots: Option<usize>,
}

/// The keys of a task file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    name: String,
    kind: TaskKind,
    about: Option<String>,
    file: PathBuf,
    shots_from: Option<PathBuf>,
    shots: Option<usize>,
    format: Option<Format>,
    columns: Option<Vec<String>>,
    quotes: Option<bool>,
    description: Option<String>,
    query: Option<String>,
    delimiter: Option<String>,
    choices: Option<OneOrMany>,
    contexts: Option<Vec<String>>,
    gold: Option<String>,
    gold_from: Option<usize>,
    answer: Option<String>,
    answers: Option<OneOrMany>,
    text: Option<String>,
    metrics: Option<Vec<String>>,
    stop: Option<Vec<String>>,
    max_tokens: Option<usize>,
    language: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    /// An expression that gives a list.
    One(String),
    /// A template for each entry.
    Many(Vec<String>),
}

/// How a row becomes an item, as a task file says.
#[derive(Clone, Debug)]
pub(crate) struct Templates {
    pub(crate) layout: Layout,
    pub(crate) preface: String,
    environment: Environment<'static>,
    query: String,
    delimiter: String,
    answer: Wanted,
    file: PathBuf,
}

/// What is right, by kind of task.
#[derive(Clone, Debug)]
enum Wanted {
    Choice { choices: OneOrMany, contexts: Option<Vec<String>>, gold: String, gold_from: usize },
    Continuation(String),
    Written(OneOrMany),
    Text,
}

const EXAMPLE: &str = "name, kind and file are needed, and for kind = \"multiple_choice\": query, choices and gold; \"continuation\": query and answer; \"generation\" and \"extractive_qa\": query and answer or answers; \"rolling\": text. docs/eval.md has an example of each";

/// Reads a task file. Paths in it are relative to its folder.
///
/// # Errors
/// A file that cannot be read, a key that is unknown, missing, or has no meaning for the kind, a template that is none.
pub fn read_task_file(path: &Path) -> Result<TaskFile, EvalError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| EvalError::Read { path: path.to_owned(), source })?;
    let fault = |reason: String| EvalError::TaskFile {
        path: path.to_owned(),
        reason,
        help: EXAMPLE.to_owned(),
    };
    let keys: Keys = toml::from_str(&text).map_err(|error| {
        let line = error.span().map(|span| 1 + text[..span.start].matches('\n').count());
        let line = line.map(|line| format!("line {line}: ")).unwrap_or_default();
        fault(format!("{line}{}", error.message().replace('\n', ", ")))
    })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let (file, shots, kind) = (folder.join(&keys.file), keys.shots, keys.kind);
    let shots_from = keys.shots_from.as_ref().map(|other| folder.join(other));
    let metrics = metrics(&keys).map_err(fault)?;
    let language = match keys.language.as_deref() {
        None => Language::English,
        Some(code) => Language::of_code(code).ok_or_else(|| {
            fault(format!(
                "language = \"{code}\" is no code of a language, such as \"en\" or \"zh\""
            ))
        })?,
    };
    let writes = matches!(kind, TaskKind::Generation | TaskKind::ExtractiveQa);
    for (name, set) in [
        ("stop", keys.stop.is_some()),
        ("max_tokens", keys.max_tokens.is_some()),
        ("language", keys.language.is_some()),
    ] {
        if set && !writes {
            return Err(fault(format!("`{name}` means nothing for this kind")));
        }
    }
    if keys.max_tokens == Some(0) {
        return Err(fault("max_tokens = 0 lets nothing be written".to_owned()));
    }
    let stop = match &keys.stop {
        None => LINE,
        Some(stop) if stop.iter().any(String::is_empty) => {
            return Err(fault("`stop` holds an empty string".to_owned()));
        }
        Some(stop) => stop.iter().cloned().map(Cow::Owned).collect(),
    };
    let (name, about) = (keys.name.clone(), keys.about.clone().unwrap_or_default());
    let max_tokens = keys.max_tokens.unwrap_or(if kind == TaskKind::Generation { 256 } else { 64 });
    let form = Form::Own(Box::new(Templates::new(keys, file.clone()).map_err(fault)?));
    let (name, about) = (Cow::Owned(name), Cow::Owned(about));
    let metrics = Cow::Owned(metrics);
    let task = Task { name, kind, about, metrics, form, stop, max_tokens, language };
    Ok(TaskFile { task, file, shots_from, shots })
}

/// The metrics asked for, or those the kind reports by itself.
fn metrics(keys: &Keys) -> Result<Vec<&'static str>, String> {
    let known = keys.kind.metrics();
    let Some(wanted) = &keys.metrics else {
        return Ok(if keys.kind == TaskKind::Generation {
            vec!["exact_match"]
        } else {
            known.to_vec()
        });
    };
    if wanted.is_empty() {
        return Err(format!("`metrics` is empty; this kind has {}", known.join(", ")));
    }
    let find = |name: &String| {
        let found = known.iter().find(|known| *known == name).copied();
        found
            .ok_or_else(|| format!("unknown metric \"{name}\"; this kind has {}", known.join(", ")))
    };
    wanted.iter().map(find).collect()
}

impl Templates {
    fn new(keys: Keys, file: PathBuf) -> Result<Self, String> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
        environment.set_syntax(syntax.map_err(|error| error.to_string())?);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        let given = [
            ("query", keys.query.is_some()),
            ("choices", keys.choices.is_some()),
            ("contexts", keys.contexts.is_some()),
            ("gold", keys.gold.is_some()),
            ("gold_from", keys.gold_from.is_some()),
            ("answer", keys.answer.is_some()),
            ("answers", keys.answers.is_some()),
            ("text", keys.text.is_some()),
        ];
        let meant: &[&str] = match keys.kind {
            TaskKind::MultipleChoice => &["query", "choices", "contexts", "gold", "gold_from"],
            TaskKind::Continuation => &["query", "answer"],
            TaskKind::Generation | TaskKind::ExtractiveQa => &["query", "answer", "answers"],
            TaskKind::Rolling => &["text"],
        };
        if let Some((name, _)) = given.iter().find(|(name, set)| *set && !meant.contains(name)) {
            return Err(format!(
                "`{name}` means nothing for this kind, which has {}",
                meant.join(", ")
            ));
        }
        fn need<T>(value: Option<T>, name: &str) -> Result<T, String> {
            value.ok_or_else(|| format!("`{name}` is missing"))
        }
        let answer = match keys.kind {
            TaskKind::MultipleChoice => Wanted::Choice {
                choices: need(keys.choices, "choices")?,
                contexts: keys.contexts,
                gold: need(keys.gold, "gold")?,
                gold_from: keys.gold_from.unwrap_or(0),
            },
            TaskKind::Continuation => Wanted::Continuation(need(keys.answer, "answer")?),
            TaskKind::Generation | TaskKind::ExtractiveQa => {
                Wanted::Written(match (keys.answer, keys.answers) {
                    (Some(answer), None) => OneOrMany::Many(vec![answer]),
                    (None, Some(answers)) => answers,
                    _ => return Err("one of `answer` and `answers` is needed".to_owned()),
                })
            }
            TaskKind::Rolling => Wanted::Text,
        };
        let query = match (&answer, keys.query, keys.text) {
            (Wanted::Text, _, text) => need(text, "text")?,
            (Wanted::Choice { contexts: Some(_), .. }, query, _) => query.unwrap_or_default(),
            (_, query, _) => need(query, "query")?,
        };
        if let Wanted::Choice {
            choices: OneOrMany::Many(choices), contexts: Some(contexts), ..
        } = &answer
            && choices.len() != contexts.len()
        {
            return Err("`choices` and `contexts` have different lengths".to_owned());
        }
        let layout =
            Layout { format: keys.format, columns: keys.columns, bare: None, quotes: keys.quotes };
        let templates = Self {
            layout,
            preface: keys.description.unwrap_or_default(),
            environment,
            query,
            delimiter: keys.delimiter.unwrap_or_else(|| " ".to_owned()),
            answer,
            file,
        };
        templates.check()?;
        Ok(templates)
    }

    /// Every template and expression must be one.
    fn check(&self) -> Result<(), String> {
        let template = |source: &String| {
            let compiled = self.environment.template_from_str(source);
            compiled.map(|_| ()).map_err(|error| format!("template {source:?}: {error}"))
        };
        let list = |list: &OneOrMany| match list {
            OneOrMany::One(source) => self.expression(source).map(|_| ()),
            OneOrMany::Many(sources) => sources.iter().try_for_each(template),
        };
        template(&self.query)?;
        match &self.answer {
            Wanted::Choice { choices, contexts, gold, .. } => {
                contexts.iter().flatten().try_for_each(template)?;
                self.expression(gold)?;
                list(choices)
            }
            Wanted::Continuation(answer) => template(answer),
            Wanted::Written(answers) => list(answers),
            Wanted::Text => Ok(()),
        }
    }

    fn expression<'a>(&'a self, source: &'a str) -> Result<minijinja::Expression<'a, 'a>, String> {
        let compiled = self.environment.compile_expression(bare(source));
        compiled.map_err(|error| format!("expression {source:?}: {error}"))
    }

    pub(crate) fn help(&self) -> String {
        format!("each row of {} needs the fields that the task file names", self.file.display())
    }

    /// What the row asks.
    pub(crate) fn ask(&self, row: &Row) -> Result<Ask, Fault> {
        let query = self.render("query", &self.query, row)?;
        match &self.answer {
            Wanted::Choice { choices, contexts, gold, gold_from } => {
                let texts = checked("choices", self.list("choices", choices, row)?)?;
                let gold = self.gold(gold, *gold_from, &texts, row)?;
                let Some(contexts) = contexts else {
                    return Ok(Ask::Choose(Choose::after(&query, &self.delimiter, texts, gold)));
                };
                let contexts = contexts.iter().map(|source| self.render("contexts", source, row));
                let contexts = contexts.collect::<Result<Vec<_>, _>>()?;
                if contexts.len() != texts.len() {
                    let reason = format!("{} choices but {} contexts", texts.len(), contexts.len());
                    return Err(Fault(reason));
                }
                let option = |(context, text): (&String, &String)| {
                    (format!("{query}{context}"), format!("{}{text}", self.delimiter))
                };
                let options = contexts.iter().zip(&texts).map(option).collect();
                Ok(Ask::Choose(Choose { options, texts: contexts, gold }))
            }
            Wanted::Continuation(source) => {
                let answer = self.render("answer", source, row)?;
                let continuation = format!("{}{}", self.delimiter, full("answer", answer)?);
                Ok(Ask::Continue { context: query, continuation })
            }
            Wanted::Written(sources) => {
                let answers = self.list("answers", sources, row)?;
                let first = answers.first().map_or(UNANSWERABLE, String::as_str);
                let shown = format!("{}{first}", self.delimiter);
                Ok(Ask::Generate(Generate { prompt: full("query", query)?, answers, shown }))
            }
            Wanted::Text => Ok(Ask::Roll { text: full("text", query)? }),
        }
    }

    fn gold(&self, source: &str, from: usize, texts: &[String], row: &Row) -> Result<usize, Fault> {
        let value = self.evaluate("gold", source, row)?;
        let value =
            serde_json::to_value(&value).map_err(|error| Fault(format!("gold: {error}")))?;
        // Counted from another number than 0, a number is only a number.
        let number = value.as_str().and_then(|text| text.trim().parse().ok()).or(value.as_u64());
        match number.filter(|_| from > 0) {
            Some(number) => usize::try_from(number)
                .ok()
                .and_then(|number: usize| number.checked_sub(from))
                .filter(|index| *index < texts.len())
                .ok_or_else(|| {
                    let n = texts.len();
                    Fault(format!("gold is {number}, there are {n} choices, counted from {from}"))
                }),
            None => gold(&value, texts).map_err(|reason| Fault::field("gold", reason)),
        }
    }

    fn list(&self, name: &str, list: &OneOrMany, row: &Row) -> Result<Vec<String>, Fault> {
        match list {
            OneOrMany::Many(sources) => {
                sources.iter().map(|source| self.render(name, source, row)).collect()
            }
            OneOrMany::One(source) => {
                let value = self.evaluate(name, source, row)?;
                let value = serde_json::to_value(&value)
                    .map_err(|error| Fault(format!("{name}: {error}")))?;
                texts(name, &value)
            }
        }
    }

    fn render(&self, name: &str, source: &str, row: &Row) -> Result<String, Fault> {
        let template = self.environment.template_from_str(source);
        let template = template.map_err(|error| Fault(format!("{name}: {error}")))?;
        present(template.undeclared_variables(false), row)?;
        template.render(Serde(row.fields())).map_err(|error| Fault(format!("{name}: {error}")))
    }

    fn evaluate(&self, name: &str, source: &str, row: &Row) -> Result<Value, Fault> {
        let expression = self.expression(source).map_err(Fault)?;
        present(expression.undeclared_variables(false), row)?;
        expression.eval(Serde(row.fields())).map_err(|error| Fault(format!("{name}: {error}")))
    }
}

/// The fields a template names must be there.
fn present(names: std::collections::HashSet<String>, row: &Row) -> Result<(), Fault> {
    let mut names: Vec<String> = names.into_iter().collect();
    names.sort_unstable();
    names.iter().try_for_each(|name| row.value(name).map(|_| ()))
}

fn full(name: &str, text: String) -> Result<String, Fault> {
    if text.trim().is_empty() { Err(Fault(format!("`{name}` comes out empty"))) } else { Ok(text) }
}

/// `{{ field }}` may be written where an expression is meant.
fn bare(source: &str) -> &str {
    let source = source.trim();
    let inside = source.strip_prefix("{{").and_then(|rest| rest.strip_suffix("}}"));
    inside.filter(|inside| !inside.contains("{{")).map_or(source, str::trim)
}
