//! The decode loop: ids in, ids out.

use std::ops::ControlFlow;

use burn::tensor::{Int, Tensor, TensorData};
use caravan_model::{Forward, KvCache, Positions};

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

/// Continues `prompt` by up to `max_tokens` ids: one pass over the prompt fills the KV cache, then one pass per token.
///
/// Each new id is given to `on_id`, which can end the generation after it; it is part of the result. `eos` ends the
/// generation and is not part of the result. Ids from `n_ids` on are never chosen: a model may have a larger vocabulary
/// than its tokenizer. Prompt and new ids together stay within the model's `max_seq_len`.
///
/// # Errors
/// An empty prompt or one that leaves no room for a new token, an id outside the vocabulary, sampler settings out of range,
/// logits that are not finite.
pub fn decode<E: From<GenerateError>>(
    model: &dyn Forward,
    prompt: &[u32],
    n_ids: usize,
    eos: Option<u32>,
    sampler: &Sampler,
    max_tokens: usize,
    on_id: &mut dyn FnMut(u32) -> Result<ControlFlow<()>, E>,
) -> Result<(Vec<u32>, Stop), E> {
    sampler.validate()?;
    let limit = check_prompt(model, prompt)?;
    let n_ids = n_ids.min(model.config().vocab_size);
    let mut new = Vec::new();
    if max_tokens == 0 {
        return Ok((new, Stop::MaxTokens));
    }
    let mut cache = model.new_cache(1, limit.min(prompt.len() + max_tokens));
    let mut logits = last_logits(model, prompt, &mut cache);
    loop {
        let id = sampler.sample(&logits[..n_ids], prompt.len() + new.len())?;
        if Some(id) == eos {
            return Ok((new, Stop::Eos));
        }
        new.push(id);
        if on_id(id)?.is_break() {
            return Ok((new, Stop::Callback));
        }
        if new.len() == max_tokens {
            return Ok((new, Stop::MaxTokens));
        }
        if prompt.len() + new.len() == limit {
            return Ok((new, Stop::ContextFull));
        }
        logits = last_logits(model, &[id], &mut cache);
    }
}

/// The model's limit, if the prompt fits.
fn check_prompt(model: &dyn Forward, prompt: &[u32]) -> Result<usize, GenerateError> {
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
    let logits = model.extend(tokens, cache, Positions::Last); // [1, 1, vocab]
    logits.into_data().convert::<f32>().try_into_vec().expect("the data was just converted to f32")
}
