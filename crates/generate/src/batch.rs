//! Continuous batching: requests that come and go share every pass over the weights.
//!
//! ```text
//! submit --> waiting --admit--> prefill, a chunk of the prompt per step --> one token per step --> done
//! ```
//!
//! Each sequence has a KV cache of its own, of the size that it can reach; the weights are read once for all of them. What a
//! request gets does not depend on the others but for the rounding of a product over more rows.
//!
//! # Reference
//! Yu et al., "Orca: A Distributed Serving System for Transformer-Based Generative Models", 2022, section 3 (iteration-level
//! scheduling); Agrawal et al., "Sarathi", 2023 (prompts in chunks beside running sequences).

use std::collections::VecDeque;

use burn::tensor::{Int, Tensor, TensorData};
use caravan_model::{Forward, KvCache, Positions};

use crate::decode::{Stop, check_prompt};
use crate::error::GenerateError;
use crate::sampler::Sampler;

/// Tokens of a prompt that one step takes: others wait for no longer than that.
const CHUNK: usize = 256;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The ids to go on from, BOS included.
    pub prompt: Vec<u32>,
    /// At most this many new ids.
    pub max_tokens: usize,
    /// How each is chosen.
    pub sampler: Sampler,
    /// Ids that end it; they are not part of the result.
    pub ends: Vec<u32>,
}

/// The number of a request, in the order of [`Batcher::submit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What a step brought for a request: a new id, its end, or both.
#[derive(Debug)]
pub struct Event {
    /// Whose.
    pub request: RequestId,
    /// The new id.
    pub id: Option<u32>,
    /// The natural logarithm of the id's probability under the model itself, before penalties and temperature.
    pub log_prob: Option<f64>,
    /// Why it ended, if it did.
    pub stop: Option<Stop>,
    /// What went wrong: logits that are not finite. The request is over.
    pub error: Option<GenerateError>,
}

/// Requests over one model.
#[derive(Debug)]
pub struct Batcher<'m> {
    model: &'m (dyn Forward + Sync),
    slots: usize,
    n_ids: usize,
    waiting: VecDeque<(RequestId, Request)>,
    running: Vec<Row>,
    next: u64,
}

/// A sequence that is worked on.
#[derive(Debug)]
struct Row {
    id: RequestId,
    request: Request,
    cache: KvCache,
    new: Vec<u32>,
    /// Tokens of the prompt that are in the cache.
    prefilled: usize,
}

impl<'m> Batcher<'m> {
    /// At most `slots` sequences run at once. Ids from `n_ids` on, those that the tokenizer does not have, are never chosen.
    pub fn new(model: &'m (dyn Forward + Sync), slots: usize, n_ids: usize) -> Self {
        let n_ids = n_ids.min(model.config().vocab_size);
        let slots = slots.max(1);
        Self { model, slots, n_ids, waiting: VecDeque::new(), running: Vec::new(), next: 0 }
    }

    /// Queues a request.
    ///
    /// # Errors
    /// Settings out of range, an empty prompt or one that leaves no room for a new token, an id outside the vocabulary.
    pub fn submit(&mut self, request: Request) -> Result<RequestId, GenerateError> {
        request.sampler.validate()?;
        check_prompt(self.model, &request.prompt)?;
        let id = RequestId(self.next);
        self.next += 1;
        self.waiting.push_back((id, request));
        Ok(id)
    }

    /// Forgets a request; its slot is free at once. No event follows.
    pub fn cancel(&mut self, id: RequestId) {
        self.waiting.retain(|(other, _)| *other != id);
        self.running.retain(|row| row.id != id);
    }

    /// Requests that no slot was free for yet.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Requests that are worked on.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Whether nothing is left to do.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Admits what is waiting, takes a chunk of the oldest prompt that is not finished, and gives every other sequence one
    /// more token.
    pub fn step(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        self.admit(&mut events);
        let decoding: Vec<usize> =
            (0..self.running.len()).filter(|i| !self.running[*i].new.is_empty()).collect();
        let reading = self.running.iter().position(|row| row.new.is_empty());
        if let Some(i) = reading
            && let Some(logits) = prefill(self.model, &mut self.running[i])
        {
            events.push(self.choose(i, &logits));
        }
        if !decoding.is_empty() {
            let logits = self.decode(&decoding);
            let vocab = self.model.config().vocab_size;
            for (i, logits) in decoding.iter().zip(logits.chunks_exact(vocab)) {
                events.push(self.choose(*i, logits));
            }
        }
        let is_over = |row: &Row| events.iter().any(|e| e.request == row.id && e.is_last());
        self.running.retain(|row| !is_over(row));
        events
    }

    fn admit(&mut self, events: &mut Vec<Event>) {
        while self.running.len() < self.slots {
            let Some((id, request)) = self.waiting.pop_front() else { return };
            if request.max_tokens == 0 {
                let stop = Some(Stop::MaxTokens);
                let (request, error) = (id, None);
                events.push(Event { request, id: None, log_prob: None, stop, error });
                continue;
            }
            let limit = self.model.config().max_seq_len;
            let capacity = limit.min(request.prompt.len().saturating_add(request.max_tokens));
            let cache = self.model.new_cache(1, capacity);
            self.running.push(Row { id, request, cache, new: Vec::new(), prefilled: 0 });
        }
    }

    /// Logits after the last id of each of these rows, one row after the other.
    fn decode(&mut self, rows: &[usize]) -> Vec<f32> {
        let last = |row: &Row| *row.new.last().expect("these have an id") as i32;
        let ids: Vec<i32> = rows.iter().map(|i| last(&self.running[*i])).collect();
        let data = TensorData::new(ids, [rows.len(), 1]);
        let tokens = Tensor::<2, Int>::from_data(data, &self.model.device());
        let mut caches: Vec<&mut KvCache> = self
            .running
            .iter_mut()
            .enumerate()
            .filter(|(i, _)| rows.contains(i))
            .map(|(_, row)| &mut row.cache)
            .collect();
        host(self.model.extend_each(tokens, &mut caches))
    }

    /// The next id of a row, and whether it is the last.
    fn choose(&mut self, i: usize, logits: &[f32]) -> Event {
        let row = &mut self.running[i];
        let logits = &logits[..self.n_ids];
        let mut event =
            Event { request: row.id, id: None, log_prob: None, stop: None, error: None };
        let id = match next_id(row, logits) {
            Ok(id) => id,
            Err(error) => return Event { error: Some(error), ..event },
        };
        let Request { prompt, max_tokens, ends, .. } = &row.request;
        if ends.contains(&id) {
            event.stop = Some(Stop::Eos);
            return event;
        }
        row.new.push(id);
        (event.id, event.log_prob) = (Some(id), Some(log_prob(logits, id)));
        if row.new.len() == *max_tokens {
            event.stop = Some(Stop::MaxTokens);
        } else if prompt.len() + row.new.len() >= self.model.config().max_seq_len {
            event.stop = Some(Stop::ContextFull);
        }
        event
    }
}

impl Event {
    /// Whether nothing more comes for this request.
    pub fn is_last(&self) -> bool {
        self.stop.is_some() || self.error.is_some()
    }
}

/// Takes the next chunk of a prompt; the logits after it once it is whole.
fn prefill(model: &dyn Forward, row: &mut Row) -> Option<Vec<f32>> {
    let prompt = &row.request.prompt;
    let end = prompt.len().min(row.prefilled + CHUNK);
    let ids: Vec<i32> = prompt[row.prefilled..end].iter().map(|id| *id as i32).collect();
    let n = ids.len();
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, n]), &model.device());
    let logits = model.extend(tokens, &mut row.cache, Positions::Last);
    row.prefilled = end;
    (end == prompt.len()).then(|| host(logits))
}

fn next_id(row: &Row, logits: &[f32]) -> Result<u32, GenerateError> {
    let Request { prompt, sampler, .. } = &row.request;
    let mut logits = logits.to_vec();
    sampler.penalise(&mut logits, prompt, &row.new);
    sampler.sample(&logits, prompt.len() + row.new.len())
}

/// `ln softmax(logits)[id]` in float64.
fn log_prob(logits: &[f32], id: u32) -> f64 {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let above = |logit: f32| f64::from(logit) - f64::from(highest);
    let sum: f64 = logits.iter().map(|logit| above(*logit).exp()).sum();
    above(logits[id as usize]) - sum.ln()
}

pub(crate) fn host(logits: Tensor<3>) -> Vec<f32> {
    logits.into_data().convert::<f32>().try_into_vec().expect("the data was just converted to f32")
}
