//! Text in, text out, streamed.

use std::ops::ControlFlow;

use caravan_model::Forward;
use caravan_tokenizer::{DecodeStream, Encode};

use crate::decode::{Stop, decode};
use crate::error::GenerateError;
use crate::sampler::Sampler;
use crate::stop::StopScanner;

/// What to generate.
#[derive(Clone, Debug)]
pub struct Options {
    /// How each token is chosen.
    pub sampler: Sampler,
    /// At most this many new tokens.
    pub max_tokens: usize,
    /// Strings that end the generation; they are not part of the text.
    pub stop: Vec<String>,
}

impl Default for Options {
    /// 256 tokens sampled from the model's own distribution, no stop strings.
    fn default() -> Self {
        Self { sampler: Sampler::default(), max_tokens: 256, stop: Vec::new() }
    }
}

/// A finished generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// The new text: all that `on_text` was given.
    pub text: String,
    /// Ids of the prompt, BOS included.
    pub prompt_ids: Vec<u32>,
    /// Ids of the new tokens, EOS excluded.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub stop: Stop,
}

/// Continues `prompt`, with BOS before it, and hands the new text to `on_text` as soon as it is whole UTF-8.
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
    let vocab_size = model.config().vocab_size;
    if tokenizer.vocab_size() > vocab_size {
        let tokenizer = tokenizer.vocab_size();
        return Err(GenerateError::Vocabulary { tokenizer, model: vocab_size });
    }
    let begin = tokenizer.bos_id().filter(|_| tokenizer.adds_bos());
    let mut prompt_ids: Vec<u32> = begin.into_iter().collect();
    prompt_ids.extend(tokenizer.encode(prompt)?);

    // The stream sees the prompt first: whether a piece begins with a space depends on what is before it.
    let mut stream = DecodeStream::new(tokenizer);
    for id in &prompt_ids {
        stream.push(*id)?;
    }
    let mut scanner = StopScanner::new(&options.stop);
    let mut stopped = false;
    let (ids, stop) = decode(
        model,
        &prompt_ids,
        tokenizer.vocab_size(),
        tokenizer.eos_id(),
        &options.sampler,
        options.max_tokens,
        &mut |id| {
            let Some(piece) = stream.push(id)? else {
                return Ok::<_, GenerateError>(ControlFlow::Continue(()));
            };
            let (shown, complete) = scanner.push(&piece);
            stopped = complete;
            let flow = if shown.is_empty() { ControlFlow::Continue(()) } else { on_text(shown) };
            Ok(if stopped { ControlFlow::Break(()) } else { flow })
        },
    )?;
    if !stopped && stop != Stop::Callback {
        // Nothing is left to be stopped, so what `on_text` answers no longer matters.
        if let Some(piece) = stream.finish()? {
            let (shown, complete) = scanner.push(&piece);
            stopped = complete;
            let _ = on_text(shown);
        }
        if !stopped {
            let rest = scanner.flush();
            if !rest.is_empty() {
                let _ = on_text(rest);
            }
        }
    }
    let stop = if stopped { Stop::StopString } else { stop };
    Ok(Generated { text: scanner.into_text(), prompt_ids, ids, stop })
}
