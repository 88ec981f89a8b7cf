//! Does the model know how the text goes on?

use std::path::Path;

use caravan_model::Forward;
use caravan_tokenizer::Encode;
use serde::Deserialize;

use super::{
    Question, Task, TaskOptions, TaskReport, ask,
    report::{Item, Metric},
    rows, shots,
};
use crate::error::EvalError;
use crate::requests::Answer;

#[derive(Debug, Deserialize)]
struct Row {
    context: String,
    continuation: String,
}

const HELP: &str = "a row is {\"context\": \"...\", \"continuation\": \"...\"}";

fn check(row: &Row) -> Result<(), String> {
    let empty = |text: &str, name| {
        if text.trim().is_empty() { Err(format!("the {name} is empty")) } else { Ok(()) }
    };
    empty(&row.context, "context")?;
    empty(&row.continuation, "continuation")
}

pub(super) fn run(
    model: &dyn Forward,
    tokenizer: &dyn Encode,
    task: &Task,
    path: &Path,
    options: &TaskOptions,
) -> Result<TaskReport, EvalError> {
    let rows: Vec<(usize, Row)> = rows::read(path, HELP, check)?;
    shots::check(options.shots, rows.len(), path)?;
    let asked = &rows[..options.limit.unwrap_or(rows.len()).min(rows.len())];
    let context = |row: &Row| format!("{}{}", row.context.trim_end(), task.cue);
    let worked = |i: usize| {
        let (_, row) = &rows[i];
        format!("{} {}", context(row), row.continuation.trim())
    };
    let question = |(index, (line, row)): (usize, &(usize, Row))| Question {
        line: *line,
        prompt: shots::prompt(
            index,
            rows.len(),
            options.shots,
            options.seed,
            worked,
            &context(row),
        ),
        answer: format!(" {}", row.continuation.trim()),
    };
    let questions = asked.iter().enumerate().map(question).collect();
    let answers = ask(model, tokenizer, path, questions, options.rows)?;

    let right: Vec<f64> = answers.iter().map(|answer| f64::from(u8::from(answer.greedy))).collect();
    let nats: Vec<f64> = answers.iter().map(|answer| -answer.log_prob).collect();
    let item = |((line, _), (answer, right)): (&(usize, Row), (&Answer, &f64))| Item {
        line: *line,
        log_probs: vec![answer.log_prob],
        score: *right,
    };
    let items = asked.iter().zip(answers.iter().zip(&right)).map(item).collect();
    Ok(TaskReport::new(
        task,
        path,
        options,
        asked.len(),
        answers.iter().filter(|answer| answer.truncated).count(),
        vec![Metric::mean("acc", &right), Metric::exp_of_mean("perplexity", &nats)],
        items,
    ))
}
