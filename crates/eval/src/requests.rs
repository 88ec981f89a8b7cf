//! Scoring a continuation given its context: what every task comes down to.
//!
//! # Reference
//! EleutherAI's lm-evaluation-harness, `TemplateLM._encode_pair` and `HFLM._loglikelihood_tokens`.

use std::ops::Range;

use burn::tensor::{Device, Int, Tensor, TensorData};
use caravan_model::{Forward, Positions};
use caravan_tokenizer::Encode;

use crate::error::EvalError;
use crate::text::{check_ids, to_host};

/// Token ids of a context, and of what is to be scored after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// BOS first, if the tokenizer has one.
    pub(crate) context: Vec<u32>,
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

/// Encodes pairs of context and continuation.
///
/// Both are encoded as one text, since a tokenizer may join across the border or treat a text's beginning differently;
/// what comes after the context's own tokens is the continuation. Spaces at the context's end go to the continuation,
/// where tokenizers put them.
pub(crate) fn encode_pairs(
    tokenizer: &dyn Encode,
    pairs: &[(String, String)],
) -> Result<Vec<Request>, EvalError> {
    let contexts: Vec<&str> = pairs.iter().map(|(context, _)| context.trim_end()).collect();
    let wholes: Vec<String> =
        pairs.iter().map(|(context, continuation)| format!("{context}{continuation}")).collect();
    let wholes: Vec<&str> = wholes.iter().map(String::as_str).collect();
    let (contexts, wholes) = (tokenizer.encode_batch(&contexts)?, tokenizer.encode_batch(&wholes)?);
    // Something must come before the first token that is scored.
    let begin = tokenizer.bos_id().or(tokenizer.eos_id());
    let request = |(context, whole): (Vec<u32>, Vec<u32>)| {
        let n = context.len().min(whole.len());
        let (context, continuation) = whole.split_at(n);
        let begin = begin.filter(|_| tokenizer.adds_bos() || context.is_empty());
        let context = begin.into_iter().chain(context.iter().copied()).collect();
        Request { context, continuation: continuation.to_vec() }
    };
    Ok(contexts.into_iter().zip(wholes).map(request).collect())
}

/// Tokens of the beginnings that one pass reads.
const PREFIX_TOKENS: usize = 1024;
/// Logits that exist at once: 128 MiB in f32.
const MAX_LOGITS: usize = 1 << 25;
/// So few tokens cost little more than reading the weights for them.
const FEW_TOKENS: usize = 128;

/// Answers every request; answers come in the order asked.
///
/// Neighbours with the same context, the choices of a question, share one reading of it: contexts of similar length go
/// through the model together, as far as the shortest of them reaches, and then what remains of each with its continuation,
/// from a cache of the beginnings. Only there are logits computed.
///
/// Where context and continuation exceed the model's `max_seq_len` the context loses its beginning, as in the harness, and
/// the answer says so. The caller has made sure that each continuation has a token and fits alone, and that the context has one.
pub(crate) fn answer(
    model: &dyn Forward,
    requests: &[Request],
    rows: usize,
) -> Result<Vec<Answer>, EvalError> {
    let config = model.config();
    for (index, request) in requests.iter().enumerate() {
        check_ids(&request.context, index, config.vocab_size)?;
        check_ids(&request.continuation, index, config.vocab_size)?;
    }
    let inputs: Vec<Inputs> = requests.iter().map(|r| Inputs::new(r, config.max_seq_len)).collect();
    let mut groups = groups(&inputs);
    groups.sort_by_key(|group| std::cmp::Reverse(inputs[group.start].from));
    let mut answers = vec![None; requests.len()];
    let mut rest = &groups[..];
    while !rest.is_empty() {
        let n = fitting(rest, &inputs, rows);
        let (now, later) = rest.split_at(n);
        rest = later;
        for (i, logits) in pass(model, now, &inputs) {
            let mut answer = Answer { log_prob: 0.0, greedy: true, truncated: inputs[i].truncated };
            let wanted = &requests[i].continuation;
            for (logits, id) in logits.chunks_exact(config.vocab_size).zip(wanted) {
                answer.log_prob += log_prob(logits, *id as usize);
                answer.greedy &= argmax(logits) == *id as usize;
            }
            answers[i] = Some(answer);
        }
    }
    Ok(answers.into_iter().map(|a| a.expect("every request lies in one group")).collect())
}

/// Runs of requests with the same context.
fn groups(inputs: &[Inputs]) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    for (i, input) in inputs.iter().enumerate() {
        match groups.last_mut() {
            Some(group) if inputs[group.start].context() == input.context() => group.end = i + 1,
            _ => groups.push(i..i + 1),
        }
    }
    groups
}

/// How many of the first groups, longest context first, go together: at least one.
fn fitting(groups: &[Range<usize>], inputs: &[Inputs], rows: usize) -> usize {
    let longest = inputs[groups[0].start].from;
    let fits = |(n, group): &(usize, &Range<usize>)| {
        (n + 1) * longest <= PREFIX_TOKENS.max(rows * longest.min(64))
            && is_similar(inputs[group.start].from, longest)
    };
    groups.iter().enumerate().skip(1).take_while(fits).count() + 1
}

/// What is much shorter would leave much of the longest to the second pass, or be mostly padding.
fn is_similar(length: usize, longest: usize) -> bool {
    length * 4 >= longest * 3
}

/// The logits of every request's continuation, one position after the other.
fn pass(model: &dyn Forward, groups: &[Range<usize>], inputs: &[Inputs]) -> Vec<(usize, Vec<f32>)> {
    let vocab_size = model.config().vocab_size;
    let shared = groups.iter().map(|group| inputs[group.start].from).min().unwrap_or(0);
    let prefixes = (shared > 0).then(|| {
        let mut cache = model.new_cache(groups.len(), shared);
        let ids: Vec<&[u32]> =
            groups.iter().map(|group| &inputs[group.start].ids[..shared]).collect();
        model.extend(tokens(&ids, &model.device()), &mut cache, Positions::Last);
        cache
    });
    // Every request with its group, those of similar length side by side.
    let mut requests: Vec<(usize, usize)> = Vec::new();
    for (g, group) in groups.iter().enumerate() {
        requests.extend(group.clone().map(|i| (g, i)));
    }
    requests.sort_by_key(|(_, i)| std::cmp::Reverse(inputs[*i].ids.len()));
    let mut scored = Vec::new();
    let mut rest = &requests[..];
    while !rest.is_empty() {
        let columns = inputs[rest[0].1].ids.len() - shared;
        let fits = |(n, (_, i)): &(usize, &(usize, usize))| {
            (n + 1) * columns * vocab_size <= MAX_LOGITS
                && ((n + 1) * columns <= FEW_TOKENS
                    || is_similar(inputs[*i].ids.len() - shared, columns))
        };
        let n = rest.iter().enumerate().skip(1).take_while(fits).count() + 1;
        let (now, later) = rest.split_at(n);
        rest = later;
        let rows: Vec<usize> = now.iter().map(|(g, _)| *g).collect();
        let mut cache = match &prefixes {
            Some(cache) => cache.select(&rows, columns),
            None => model.new_cache(n, columns),
        };
        let suffixes: Vec<&[u32]> = now.iter().map(|(_, i)| &inputs[*i].ids[shared..]).collect();
        let suffixes = tokens(&suffixes, &model.device());
        let logits = model.extend(suffixes, &mut cache, Positions::All);
        for (row, (_, i)) in now.iter().enumerate() {
            let Inputs { ids, from, .. } = &inputs[*i];
            let part = [row..row + 1, from - shared..ids.len() - shared, 0..vocab_size];
            scored.push((*i, to_host(logits.clone().slice(part))));
        }
    }
    scored
}

/// Rows of ids, shorter ones padded at the end, where causal attention never sees it.
fn tokens(rows: &[&[u32]], device: &Device) -> Tensor<2, Int> {
    let columns = rows.iter().map(|row| row.len()).max().unwrap_or(0);
    let mut ids = vec![0i32; rows.len() * columns];
    for (slots, row) in ids.chunks_exact_mut(columns).zip(rows) {
        slots.iter_mut().zip(*row).for_each(|(slot, id)| *slot = *id as i32);
    }
    Tensor::from_data(TensorData::new(ids, [rows.len(), columns]), device)
}

/// All tokens but the last, which is only predicted.
struct Inputs {
    ids: Vec<u32>,
    /// The position that predicts the continuation's first token: the context's last.
    from: usize,
    truncated: bool,
}

impl Inputs {
    fn new(request: &Request, max_seq_len: usize) -> Self {
        let mut ids = request.context.clone();
        ids.extend(&request.continuation);
        ids.pop();
        let excess = ids.len().saturating_sub(max_seq_len);
        ids.drain(..excess);
        Self { from: ids.len() - request.continuation.len(), ids, truncated: excess > 0 }
    }

    fn context(&self) -> &[u32] {
        &self.ids[..=self.from]
    }
}

/// `ln softmax(logits)[id]` in float64.
fn log_prob(logits: &[f32], id: usize) -> f64 {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| (f64::from(*l) - f64::from(highest)).exp()).sum();
    f64::from(logits[id]) - f64::from(highest) - sum.ln()
}

/// The lowest index of the highest logit.
fn argmax(logits: &[f32]) -> usize {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = id;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use caravan_tokenizer::ByteTokenizer;

    #[test]
    fn spaces_move_to_the_continuation() {
        let pairs = [("ab ".to_owned(), "c".to_owned()), (String::new(), "x".to_owned())];
        let requests = encode_pairs(&ByteTokenizer, &pairs).unwrap();
        let bos = ByteTokenizer.bos_id().unwrap();
        assert_eq!(requests[0].context, [bos, 97, 98]);
        assert_eq!(requests[0].continuation, [32, 99]);
        assert_eq!(
            (&requests[1].context[..], &requests[1].continuation[..]),
            (&[bos][..], &[120][..])
        );
    }

    #[test]
    fn the_context_loses_its_beginning() {
        let request = Request { context: (0..10).collect(), continuation: vec![20, 21] };
        let inputs = Inputs::new(&request, 4);
        assert_eq!((&inputs.ids[..], inputs.truncated), (&[7, 8, 9, 20][..], true));
        assert!(!Inputs::new(&request, 11).truncated);
    }

    #[test]
    fn log_prob_is_that_of_a_softmax() {
        // softmax of (0, ln 3) is (1/4, 3/4)
        let logits = [0.0, 3f32.ln()];
        assert!((log_prob(&logits, 0) - 0.25f64.ln()).abs() < 1e-7);
        assert!((log_prob(&logits, 1) - 0.75f64.ln()).abs() < 1e-7);
        assert!((log_prob(&[1000.0, 0.0], 1) + 1000.0).abs() < 1e-9);
        assert_eq!(argmax(&[1.0, 2.0, 2.0]), 1);
    }
}
