//! Scoring continuations given their contexts: what every multiple choice comes down to.
//!
//! ```text
//! texts -> encode -> groups of requests -> units (a shared beginning, its members) -> batches -> Answer per request
//! ```
//!
//! # Reference
//! EleutherAI's lm-evaluation-harness 0.4, `TemplateLM._encode_pair` and `HFLM._loglikelihood_tokens`: the same numbers, by
//! other passes.

mod encode;
mod pass;
mod plan;

use caravan_model::Forward;

use crate::error::EvalError;
use crate::text::check_ids;

pub(crate) use encode::{Edges, encode_pairs};

/// Token ids of a context, and of what is to be scored after it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Request {
    /// Never empty.
    pub(crate) context: Vec<u32>,
    /// Never empty, and at most as long as the model's context.
    pub(crate) continuation: Vec<u32>,
}

/// What the model says about a continuation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Answer {
    /// `ln p(continuation | context)`.
    pub(crate) log_prob: f64,
    /// Whether greedy decoding from the context gives the continuation.
    pub(crate) greedy: bool,
    /// Whether the beginning of the context had to be dropped.
    pub(crate) truncated: bool,
}

/// Answers every request of every group, about `batch_tokens` tokens at a time.
///
/// The requests of a group are the choices of one question: what their tokens have in common goes through the model once,
/// and serves all of them. Equal requests of a group are asked once, so that their scores are equal to
/// the last bit. Where context and continuation exceed the model's `max_seq_len` the context loses its beginning, as in
/// the harness, and the answer says so.
pub(crate) fn answer(
    model: &dyn Forward,
    groups: &[Vec<Request>],
    batch_tokens: usize,
) -> Result<Vec<Vec<Answer>>, EvalError> {
    let config = model.config();
    let mut units = Vec::new();
    let mut slots = Vec::new(); // per group and request: which answer
    let mut n_answers = 0;
    for (index, group) in groups.iter().enumerate() {
        let mut seen: Vec<&Request> = Vec::new();
        let mut mine = Vec::new();
        for request in group {
            check_ids(&request.context, index, config.vocab_size)?;
            check_ids(&request.continuation, index, config.vocab_size)?;
            let known = seen.iter().position(|other| *other == request);
            let at = known.unwrap_or_else(|| {
                seen.push(request);
                seen.len() - 1
            });
            mine.push(n_answers + at);
        }
        let members = seen
            .iter()
            .enumerate()
            .map(|(i, request)| plan::Member::new(request, n_answers + i, config.max_seq_len));
        units.extend(plan::units(members.collect()));
        n_answers += seen.len();
        slots.push(mine);
    }
    let mut answers = vec![None; n_answers];
    for batch in plan::batches(units, batch_tokens) {
        for (slot, answer) in pass::run(model, &batch) {
            answers[slot] = Some(answer);
        }
    }
    let take = |slot: usize| answers[slot].expect("every request lies in one batch");
    Ok(slots.into_iter().map(|mine| mine.into_iter().map(take).collect()).collect())
}
