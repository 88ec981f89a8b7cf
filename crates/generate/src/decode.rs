//! The decode loop: ids in, ids out.

use std::ops::ControlFlow;

use burn::tensor::{Int, Tensor, TensorData};
use caravan_model::{Forward, KvCache, Positions};

use crate::batch::host;
use crate::error::GenerateError;
use crate::sampler::Sampler;

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stop {
    /// The model said that the text ends (EOS).
    Eos,
    /// As many tokens as were asked for.
    MaxTokens,
    /// Prompt and new tokens fill the model's context.
    ContextFull,
    /// One of the stop strings came up.
    StopString,
    /// The caller asked to stop.
    Callback,
}

impl Stop {
    /// Its name in files and interfaces.
    pub fn name(self) -> &'static str {
        match self {
            Self::Eos => "eos",
            Self::MaxTokens => "max_tokens",
            Self::ContextFull => "context_full",
            Self::StopString => "stop_string",
            Self::Callback => "stopped",
        }
    }
}

/// What is to be decoded, and when it ends.
#[derive(Clone, Copy, Debug)]
pub struct Decoding<'a> {
    /// How each id is chosen.
    pub sampler: &'a Sampler,
    /// At most this many new ids.
    pub max_tokens: usize,
    /// Ids that end it and are not part of the result.
    pub ends: &'a [u32],
    /// Ids from here on are never chosen: a model may have a larger vocabulary than its tokenizer.
    pub n_ids: usize,
    /// Whether a sequence longer than the context loses its beginning instead of being refused or ended.
    pub window: bool,
}

/// Continues `prompt` by up to `max_tokens` ids: one pass over the prompt fills the KV cache, then one pass per token.
///
/// Each new id is given to `on_id`, which can end the generation after it; it is part of the result. Prompt and new ids
/// together stay within the model's `max_seq_len`, unless there is a window: then the first id (BOS) and the newest half of
/// the context are read anew each time that the context is full.
///
/// # Errors
/// An empty prompt or one that leaves no room for a new token, an id outside the vocabulary, sampler settings out of range,
/// logits that are not finite.
pub fn decode<E: From<GenerateError>>(
    model: &dyn Forward,
    prompt: &[u32],
    how: Decoding<'_>,
    on_id: &mut dyn FnMut(u32) -> Result<ControlFlow<()>, E>,
) -> Result<(Vec<u32>, Stop), E> {
    let Decoding { sampler, max_tokens, ends, window, .. } = how;
    sampler.validate()?;
    let limit = model.config().max_seq_len;
    let cut: Vec<u32>;
    let seen = match window && prompt.len() >= limit {
        true => {
            cut = newest(prompt, limit);
            &cut
        }
        false => prompt,
    };
    check_prompt(model, seen)?;
    let n_ids = how.n_ids.min(model.config().vocab_size);
    let mut new = Vec::new();
    if max_tokens == 0 {
        return Ok((new, Stop::MaxTokens));
    }
    let mut cache = model.new_cache(1, limit.min(seen.len().saturating_add(max_tokens)));
    let mut logits = last_logits(model, seen, &mut cache);
    loop {
        logits.truncate(n_ids);
        sampler.penalise(&mut logits, prompt, &new);
        let id = sampler.sample(&logits, prompt.len() + new.len())?;
        if ends.contains(&id) {
            return Ok((new, Stop::Eos));
        }
        new.push(id);
        if on_id(id)?.is_break() {
            return Ok((new, Stop::Callback));
        }
        if new.len() == max_tokens {
            return Ok((new, Stop::MaxTokens));
        }
        if cache.len() + 1 < limit {
            logits = last_logits(model, &[id], &mut cache);
            continue;
        }
        if !window {
            return Ok((new, Stop::ContextFull));
        }
        let all: Vec<u32> = prompt.iter().chain(&new).copied().collect();
        cache = model.new_cache(1, limit);
        logits = last_logits(model, &newest(&all, limit), &mut cache);
    }
}

/// The first id and the newest ones, half of `limit` together.
fn newest(ids: &[u32], limit: usize) -> Vec<u32> {
    let n = (limit / 2).max(1).min(ids.len());
    let mut kept = ids[ids.len() - n..].to_vec();
    kept[0] = if n > 1 { ids[0] } else { kept[0] };
    kept
}

/// The model's limit, if the prompt fits.
pub(crate) fn check_prompt(model: &dyn Forward, prompt: &[u32]) -> Result<usize, GenerateError> {
    let config = model.config();
    if prompt.is_empty() {
        return Err(GenerateError::EmptyPrompt);
    }
    if prompt.len() >= config.max_seq_len {
        return Err(GenerateError::PromptTooLong {
            found: prompt.len(),
            limit: config.max_seq_len,
        });
    }
    match prompt.iter().position(|id| *id as usize >= config.vocab_size) {
        Some(position) => Err(GenerateError::UnknownId {
            id: prompt[position],
            position,
            vocab_size: config.vocab_size,
        }),
        None => Ok(config.max_seq_len),
    }
}

/// Appends `ids` to the cache and returns the logits after the last of them, on the host.
fn last_logits(model: &dyn Forward, ids: &[u32], cache: &mut KvCache) -> Vec<f32> {
    let data = ids.iter().map(|id| *id as i32).collect::<Vec<_>>();
    let data = TensorData::new(data, [1, ids.len()]);
    let tokens = Tensor::<2, Int>::from_data(data, &model.device());
    host(model.extend(tokens, cache, Positions::Last)) // [1, 1, vocab]
}
