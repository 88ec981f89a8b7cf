//! Answers in the model's own words.

use std::ops::ControlFlow;

use caravan_generate::{GenerateError, Sampler, decode};
use caravan_model::Forward;
use caravan_tokenizer::{DecodeStream, Encode};

use crate::error::EvalError;
use crate::scoring::Edges;

/// How answers are written: greedily, up to a stop string.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    pub(crate) model: &'a dyn Forward,
    pub(crate) tokenizer: &'a dyn Encode,
    pub(crate) bos: bool,
    /// End an answer, beside EOS.
    pub(crate) ends: &'a [u32],
    pub(crate) stop: Vec<String>,
    pub(crate) max_tokens: usize,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// Without the stop string and what follows it, and without white space around it.
    pub(crate) text: String,
    /// Whether the beginning of the prompt had to be dropped.
    pub(crate) truncated: bool,
}

impl Writer<'_> {
    /// Continues every prompt. One that leaves no room for `max_tokens` more loses its beginning, as in the harness.
    pub(crate) fn write(&self, prompts: &[&str]) -> Result<Vec<Written>, EvalError> {
        let edges = Edges::new(self.tokenizer, self.bos);
        let limit = self.model.config().max_seq_len;
        let room = limit.saturating_sub(self.max_tokens).max(1);
        let encoded = self.tokenizer.encode_batch(prompts)?;
        let write = |ids: Vec<u32>| {
            let before = edges.always.or(edges.if_empty.filter(|_| ids.is_empty()));
            let mut ids: Vec<u32> = before.into_iter().chain(ids).collect();
            let excess = ids.len().saturating_sub(room);
            ids.drain(..excess);
            Ok(Written { text: self.continued(&ids)?, truncated: excess > 0 })
        };
        encoded.into_iter().map(write).collect()
    }

    fn continued(&self, prompt: &[u32]) -> Result<String, GenerateError> {
        // The stream sees the prompt first: whether a piece begins with a space depends on what is before it.
        let mut stream = DecodeStream::new(self.tokenizer);
        for id in prompt {
            stream.push(*id)?;
        }
        let mut text = String::new();
        decode(
            self.model,
            prompt,
            self.tokenizer.vocab_size(),
            self.tokenizer.eos_id(),
            &Sampler::greedy(),
            self.max_tokens,
            &mut |id| {
                if self.ends.contains(&id) {
                    return Ok::<_, GenerateError>(ControlFlow::Break(()));
                }
                text.push_str(&stream.push(id)?.unwrap_or_default());
                let stopped = self.stop.iter().any(|stop| text.contains(stop.as_str()));
                Ok(if stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            },
        )?;
        text.push_str(&stream.finish()?.unwrap_or_default());
        let end = self.stop.iter().filter_map(|stop| text.find(stop.as_str())).min();
        Ok(text[..end.unwrap_or(text.len())].trim().to_owned())
    }
}
