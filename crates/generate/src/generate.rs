//! Text in, text out, streamed.

use std::ops::ControlFlow;

use caravan_model::Forward;
use caravan_tokenizer::Encode;

use crate::decode::{Decoding, Stop, decode};
use crate::error::GenerateError;
use crate::sampler::Sampler;
use crate::text::TextStream;

/// What to generate.
#[derive(Clone, Debug)]
pub struct Options {
    /// How each token is chosen.
    pub sampler: Sampler,
    /// At most this many new tokens.
    pub max_tokens: usize,
    /// Strings that end the generation; they are not part of the text.
    pub stop: Vec<String>,
    /// Ids that end it beside the tokenizer's EOS.
    pub ends: Vec<u32>,
    /// Whether text beyond the model's context goes on from the newest half of it, instead of being refused or ended.
    pub window: bool,
}

impl Default for Options {
    /// 256 tokens sampled from the model's own distribution, no stop strings.
    fn default() -> Self {
        let sampler = Sampler::default();
        Self { sampler, max_tokens: 256, stop: Vec::new(), ends: Vec::new(), window: false }
    }
}

/// A finished generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// The new text: all that `on_text` was given.
    pub text: String,
    /// Ids of the prompt, BOS included where there is one.
    pub prompt_ids: Vec<u32>,
    /// Ids of the new tokens, EOS excluded.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub stop: Stop,
}

/// Continues `prompt`, with BOS before it where the tokenizer adds one, and hands the new text to `on_text` as soon as it is
/// whole UTF-8.
///
/// `on_text` can end the generation by returning `ControlFlow::Break`.
///
/// # Errors
/// See [`GenerateError`]: settings out of range, a prompt that does not fit into the model's context, a tokenizer that
/// does not belong to the model.
pub fn generate(
    model: &dyn Forward,
    tokenizer: &dyn Encode,
    prompt: &str,
    options: &Options,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Generated, GenerateError> {
    let begin = tokenizer.bos_id().filter(|_| tokenizer.adds_bos());
    let mut ids: Vec<u32> = begin.into_iter().collect();
    ids.extend(tokenizer.encode(prompt)?);
    generate_from(model, tokenizer, ids, options, on_text)
}

/// As [`generate`], from the ids of a prompt, such as those of a chat template.
///
/// # Errors
/// As [`generate`].
pub fn generate_from(
    model: &dyn Forward,
    tokenizer: &dyn Encode,
    prompt_ids: Vec<u32>,
    options: &Options,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Generated, GenerateError> {
    let vocab_size = model.config().vocab_size;
    if tokenizer.vocab_size() > vocab_size {
        let tokenizer = tokenizer.vocab_size();
        return Err(GenerateError::Vocabulary { tokenizer, model: vocab_size });
    }
    let mut text = TextStream::new(tokenizer, &prompt_ids, &options.stop)?;
    let ends: Vec<u32> = tokenizer.eos_id().into_iter().chain(options.ends.clone()).collect();
    let how = Decoding {
        sampler: &options.sampler,
        max_tokens: options.max_tokens,
        ends: &ends,
        n_ids: tokenizer.vocab_size(),
        window: options.window,
    };
    let (ids, stop) = decode(model, &prompt_ids, how, &mut |id| {
        let shown = text.push(id)?;
        let flow = if shown.is_empty() { ControlFlow::Continue(()) } else { on_text(shown) };
        Ok::<_, GenerateError>(if text.is_stopped() { ControlFlow::Break(()) } else { flow })
    })?;
    if stop != Stop::Callback {
        // Nothing is left to be stopped, so what `on_text` answers no longer matters.
        let rest = text.finish()?;
        if !rest.is_empty() {
            let _ = on_text(&rest);
        }
    }
    let stop = if text.is_stopped() { Stop::StopString } else { stop };
    Ok(Generated { text: text.into_text(), prompt_ids, ids, stop })
}
