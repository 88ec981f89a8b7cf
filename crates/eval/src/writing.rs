//! Answers in the model's own words.

use std::collections::BTreeMap;

use caravan_generate::{Batcher, Request, RequestId, Sampler, TextStream};
use caravan_model::Forward;
use caravan_tokenizer::Encode;

use crate::error::EvalError;
use crate::scoring::Edges;

/// Answers that are written at once.
const SLOTS: usize = 16;

/// How answers are written: greedily, up to a stop string.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    pub(crate) model: &'a (dyn Forward + Sync),
    pub(crate) tokenizer: &'a dyn Encode,
    pub(crate) bos: bool,
    /// End an answer, beside the tokenizer's EOS.
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
        let mut ends = self.ends.to_vec();
        ends.extend(self.tokenizer.eos_id().filter(|eos| !self.ends.contains(eos)));
        let mut batcher = Batcher::new(self.model, SLOTS, self.tokenizer.vocab_size());
        let mut open: BTreeMap<RequestId, (usize, TextStream<'_>)> = BTreeMap::new();
        let mut written = Vec::with_capacity(prompts.len());
        for (index, ids) in encoded.into_iter().enumerate() {
            let before = edges.always.or(edges.if_empty.filter(|_| ids.is_empty()));
            let mut prompt: Vec<u32> = before.into_iter().chain(ids).collect();
            let excess = prompt.len().saturating_sub(room);
            prompt.drain(..excess);
            let stream = TextStream::new(self.tokenizer, &prompt, &self.stop)?;
            let (max_tokens, sampler) = (self.max_tokens, Sampler::greedy());
            let request = Request { prompt, max_tokens, sampler, ends: ends.clone() };
            open.insert(batcher.submit(request)?, (index, stream));
            written.push(Written { text: String::new(), truncated: excess > 0 });
        }
        while !batcher.is_idle() {
            for event in batcher.step() {
                if let Some(error) = event.error {
                    return Err(error.into());
                }
                let Some((index, stream)) = open.get_mut(&event.request) else { continue };
                let text = &mut written[*index].text;
                if let Some(id) = event.id {
                    text.push_str(stream.push(id)?);
                }
                if stream.is_stopped() {
                    batcher.cancel(event.request);
                    open.remove(&event.request);
                } else if event.stop.is_some() {
                    text.push_str(&stream.finish()?);
                    open.remove(&event.request);
                }
            }
        }
        for Written { text, .. } in &mut written {
            *text = text.trim().to_owned();
        }
        Ok(written)
    }
}
