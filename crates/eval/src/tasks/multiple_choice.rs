//! Which of the choices is the likeliest?

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

#[derive(Debug, Deserialize)]
struct Row {
    query: String,
    choices: Vec<String>,
    gold: usize,
}

const HELP: &str = "a row is {\"query\": \"...\", \"choices\": [\"...\", \"...\"], \"gold\": 0} with gold counted from 0";

fn check(row: &Row) -> Result<(), String> {
    if row.choices.len() < 2 {
        return Err(format!("{} choices, at least 2 are needed", row.choices.len()));
    }
    if let Some(i) = row.choices.iter().position(|choice| choice.trim().is_empty()) {
        return Err(format!("choice {i} is empty"));
    }
    if row.gold >= row.choices.len() {
        return Err(format!("gold is {}, there are {} choices", row.gold, row.choices.len()));
    }
    Ok(())
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
    let question = |row: &Row| format!("{}{}", row.query.trim_end(), task.cue);
    let worked = |i: usize| {
        let (_, row) = &rows[i];
        format!("{} {}", question(row), row.choices[row.gold])
    };
    let mut questions = Vec::new();
    for (index, (line, row)) in asked.iter().enumerate() {
        let prompt =
            shots::prompt(index, rows.len(), options.shots, options.seed, worked, &question(row));
        questions.extend(row.choices.iter().map(|choice| Question {
            line: *line,
            prompt: prompt.clone(),
            answer: format!(" {choice}"),
        }));
    }
    let answers = ask(model, tokenizer, path, questions, options.rows)?;

    let (mut acc, mut acc_norm, mut items) = (Vec::new(), Vec::new(), Vec::new());
    let mut rest = &answers[..];
    for (line, row) in asked {
        let (mine, others) = rest.split_at(row.choices.len());
        rest = others;
        let sums: Vec<f64> = mine.iter().map(|answer| answer.log_prob).collect();
        let means: Vec<f64> =
            sums.iter().zip(&row.choices).map(|(sum, c)| sum / c.len() as f64).collect();
        acc.push(f64::from(u8::from(best(&sums) == row.gold)));
        acc_norm.push(f64::from(u8::from(best(&means) == row.gold)));
        items.push(Item { line: *line, log_probs: sums, score: acc[acc.len() - 1] });
    }
    Ok(TaskReport::new(
        task,
        path,
        options,
        asked.len(),
        answers.iter().filter(|answer| answer.truncated).count(),
        vec![Metric::mean("acc", &acc), Metric::mean("acc_norm", &acc_norm)],
        items,
    ))
}

/// Index of the highest score, the first among equals.
fn best(scores: &[f64]) -> usize {
    (0..scores.len()).fold(0, |best, i| if scores[i] > scores[best] { i } else { best })
}
