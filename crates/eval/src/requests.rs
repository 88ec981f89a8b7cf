//! Scoring a continuation given its context: what every task comes down to.
//!
//! # Reference
//! EleutherAI's lm-evaluation-harness, `TemplateLM._encode_pair` and `HFLM._loglikelihood_tokens`.

use burn::tensor::{Int, Tensor, TensorData};
use caravan_model::Forward;
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

/// Answers every request, `rows` at a time. Requests of similar length go together; answers come in the order asked.
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
    let mut order: Vec<usize> = (0..inputs.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(inputs[*i].ids.len()));
    let mut answers = vec![None; requests.len()];
    for chunk in order.chunks(rows) {
        let columns = inputs[chunk[0]].ids.len();
        let mut ids = vec![0i32; chunk.len() * columns]; // padding comes last: causal attention never sees it
        for (row, i) in ids.chunks_exact_mut(columns).zip(chunk) {
            row.iter_mut().zip(&inputs[*i].ids).for_each(|(slot, id)| *slot = *id as i32);
        }
        let data = TensorData::new(ids, [chunk.len(), columns]);
        let logits = model.logits(Tensor::<2, Int>::from_data(data, &model.device()), None);
        for (row, i) in chunk.iter().enumerate() {
            let (Inputs { ids, truncated }, wanted) = (&inputs[*i], &requests[*i].continuation);
            let from = ids.len() - wanted.len();
            let scored =
                logits.clone().slice([row..row + 1, from..ids.len(), 0..config.vocab_size]);
            let scored = to_host(scored);
            let mut answer = Answer { log_prob: 0.0, greedy: true, truncated: *truncated };
            for (logits, id) in scored.chunks_exact(config.vocab_size).zip(wanted) {
                answer.log_prob += log_prob(logits, *id as usize);
                answer.greedy &= argmax(logits) == *id as usize;
            }
            answers[*i] = Some(answer);
        }
    }
    Ok(answers.into_iter().map(|a| a.expect("every request lies in one chunk")).collect())
}

/// All tokens but the last, which is only predicted.
struct Inputs {
    ids: Vec<u32>,
    truncated: bool,
}

impl Inputs {
    fn new(request: &Request, max_seq_len: usize) -> Self {
        let mut ids = request.context.clone();
        ids.extend(&request.continuation);
        ids.pop();
        let excess = ids.len().saturating_sub(max_seq_len);
        ids.drain(..excess);
        Self { ids, truncated: excess > 0 }
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
