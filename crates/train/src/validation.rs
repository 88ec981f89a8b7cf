//! Evaluation and samples during a run.

use std::ops::ControlFlow;

use caravan_dataset::ShardSet;
use caravan_eval::{EvalDocument, TextOptions, TextScore, evaluate_text};
use caravan_generate::{Options, Sampler, generate};
use caravan_model::Forward;
use caravan_tokenizer::Encode;

use crate::config::RunConfig;
use crate::data::Data;
use crate::error::Result;
use crate::plan::Plan;
use crate::stages::StagePlan;

/// A prompt and what the model made of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The beginning, from a validation document.
    pub prompt: String,
    /// The continuation.
    pub text: String,
}

/// How a model that was trained as `plan` says reads text.
pub fn text_options(plan: &Plan) -> TextOptions {
    options_of(&plan.config)
}

fn options_of(config: &RunConfig) -> TextOptions {
    TextOptions {
        seq_len: config.run.seq_len,
        rows: config.run.micro_batch,
        packed: config.data.document_mask,
        stride: config.run.seq_len,
    }
}

/// Scores validation documents until `max_tokens` have been scored; `None` if nothing was held
/// back.
///
/// # Errors
/// The model's context is shorter than the windows.
pub fn score(
    model: &dyn Forward,
    plan: &Plan,
    data: &Data,
    max_tokens: u64,
) -> Result<Option<TextScore>> {
    score_set(model, &data.shards, &text_options(plan), max_tokens)
}

/// The held-back text as a stage reads it: cut as the stage cuts it, in windows of the stage's length. `None` for a run that
/// is one stage, and if nothing was held back.
///
/// # Errors
/// As [`score`].
pub(crate) fn score_stage(
    model: &dyn Forward,
    stage: &StagePlan,
    data: &Data,
) -> Result<Option<TextScore>> {
    let set = data.units.iter().find(|(unit, _)| *unit == stage.unit).map(|(_, set)| set);
    match set.filter(|_| stage.name.is_some()) {
        Some(set) => score_set(model, set, &options_of(&stage.config), u64::MAX),
        None => Ok(None),
    }
}

fn score_set(
    model: &dyn Forward,
    set: &ShardSet,
    options: &TextOptions,
    max_tokens: u64,
) -> Result<Option<TextScore>> {
    let val = set.val();
    if val.n_documents() == 0 {
        return Ok(None);
    }
    let mut budget = max_tokens;
    let mut documents = Vec::new();
    for document in val.documents() {
        if budget == 0 {
            break;
        }
        let document = document?;
        let tokens = document.tokens();
        budget = budget.saturating_sub(tokens.len() as u64);
        documents.push(EvalDocument { tokens, n_bytes: document.n_bytes() as u64 });
    }
    Ok(Some(evaluate_text(model, documents, options)?))
}

/// One continuation per source, from the beginning of one of its validation documents, another one
/// each time.
///
/// # Errors
/// Sampling failed.
pub fn samples(model: &dyn Forward, plan: &Plan, data: &Data, step: u64) -> Result<Vec<Sample>> {
    if plan.config.run.sample_tokens == 0 {
        return Ok(Vec::new());
    }
    prompts(data, step)?
        .into_iter()
        .map(|prompt| sample(model, plan, data, &prompt, step))
        .collect()
}

/// Continues `prompt`.
///
/// # Errors
/// Sampling failed.
pub fn sample(
    model: &dyn Forward,
    plan: &Plan,
    data: &Data,
    prompt: &str,
    seed: u64,
) -> Result<Sample> {
    let tokenizer = data.tokenizer.as_ref();
    let n_prompt = tokenizer.encode(prompt)?.len() + 1;
    let room = plan.config.run.seq_len.saturating_sub(n_prompt);
    let options = Options {
        max_tokens: plan.config.run.sample_tokens.min(room).max(1),
        sampler: Sampler { temperature: 0.7, top_p: Some(0.95), seed, ..Sampler::default() },
        ..Options::default()
    };
    let mut text = String::new();
    generate(model, tokenizer, prompt, &options, &mut |piece| {
        text.push_str(piece);
        ControlFlow::Continue(())
    })?;
    Ok(Sample { prompt: prompt.to_owned(), text })
}

/// Beginnings of validation documents, at most two sources.
fn prompts(data: &Data, step: u64) -> Result<Vec<String>> {
    let val = data.shards.val();
    let n = val.n_documents();
    let mut sources: Vec<usize> = Vec::new();
    let mut out = Vec::new();
    for k in 0..n {
        let document = val.document((k + step as usize) % n)?;
        if sources.contains(&document.source) {
            continue;
        }
        sources.push(document.source);
        out.push(beginning(document.text));
        if out.len() == 2 {
            break;
        }
    }
    Ok(out)
}

/// The first words: up to the second space, or six characters where a script has no spaces.
fn beginning(text: &str) -> String {
    let text = text.trim_start();
    let line = text.lines().next().unwrap_or_default();
    let spaces: Vec<usize> = line.match_indices(' ').map(|(i, _)| i).collect();
    let end = match spaces.get(2) {
        Some(end) if *end < 48 => *end,
        _ => line.char_indices().nth(6).map_or(line.len(), |(i, _)| i),
    };
    line[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::beginning;

    #[test]
    fn a_beginning_is_words_or_characters() {
        assert_eq!(beginning("One day a fox came."), "One day a");
        assert_eq!(beginning("从前有一只小狐狸住在山里。"), "从前有一只小");
        assert_eq!(beginning("ab"), "ab");
        assert_eq!(beginning(""), "");
    }
}
