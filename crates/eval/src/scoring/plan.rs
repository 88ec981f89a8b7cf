//! Which tokens go through the model together.
//!
//! A unit is a prefix and its members: inputs that begin with it. A batch is a pass over the prefixes of several units, cut
//! to the length of the shortest, and then passes over what is left of the members, those of similar length together and
//! padded on the right, over the keys and values of the first. Only these, and the last position of the first, need logits.

use std::ops::Range;

use caravan_model::LlamaConfig;

use super::Request;

/// What a pass costs beside its tokens, in tokens: the weights have to be read, and packed for the matrix units. Found by
/// trying 32 to 512 on a model of 135M parameters; it decides how batches are cut, never what comes out.
const PASS_COST: f64 = 256.0;

/// How many times `batch_tokens` may follow the first pass of a batch, in passes of their own.
const REST: usize = 4;

/// The inputs of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Where its answer goes.
    pub(super) slot: usize,
    /// Context and continuation without the last token, which is only predicted.
    pub(super) ids: Vec<u32>,
    /// The continuation.
    pub(super) wanted: Vec<u32>,
    /// Whether the beginning of the context was dropped.
    pub(super) truncated: bool,
}

impl Member {
    pub(super) fn new(request: &Request, slot: usize, max_seq_len: usize) -> Self {
        let mut ids = request.context.clone();
        ids.extend(&request.continuation);
        ids.pop();
        let excess = ids.len().saturating_sub(max_seq_len);
        ids.drain(..excess);
        Self { slot, ids, wanted: request.continuation.clone(), truncated: excess > 0 }
    }

    /// The position whose logits predict the first token of the continuation.
    pub(super) fn first(&self) -> usize {
        self.ids.len() - self.wanted.len()
    }
}

/// Members whose inputs agree in the first `shared` tokens, which include no more than one position with wanted logits, the
/// last of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) shared: usize,
    pub(super) members: Vec<Member>,
}

impl Unit {
    fn longest(&self) -> usize {
        self.members.iter().map(|member| member.ids.len()).max().unwrap_or(0)
    }
}

/// What the head costs per position, as a part of what the blocks cost.
pub(super) fn head_cost(config: &LlamaConfig) -> f64 {
    let LlamaConfig { d_model, d_ff, n_heads, n_kv_heads, head_dim, n_layers, vocab_size, .. } =
        *config;
    let block = d_model * head_dim * 2 * (n_heads + n_kv_heads) + 3 * d_model * d_ff;
    (vocab_size * d_model) as f64 / (n_layers * block) as f64
}

/// One unit for all members, or one for each where sharing does not pay.
pub(super) fn units(members: Vec<Member>, head: f64) -> Vec<Unit> {
    let longest = members.iter().map(|member| member.first() + 1).min().unwrap_or(0);
    let shared = (0..longest)
        .take_while(|i| members.iter().all(|member| member.ids[*i] == members[0].ids[*i]))
        .count();
    let rest = |shared: usize, member: &Member| (member.ids.len() - shared) as f64 * (1.0 + head);
    let together = shared as f64 + members.iter().map(|member| rest(shared, member)).sum::<f64>();
    let apart: f64 = members
        .iter()
        .map(|member| (member.first() + 1) as f64 + rest(member.first() + 1, member))
        .sum();
    if shared > 0 && together <= apart {
        return vec![Unit { shared, members }];
    }
    let alone = |member: Member| Unit { shared: member.first() + 1, members: vec![member] };
    members.into_iter().map(alone).collect()
}

/// Cuts the units, sorted by what they share, where it costs least; a batch has up to `batch_tokens` tokens in its first
/// pass and a few times as many after it, or one unit.
pub(super) fn batches(mut units: Vec<Unit>, batch_tokens: usize, head: f64) -> Vec<Vec<Unit>> {
    // Longest first, so that what does not fit into memory shows at once.
    units.sort_by_key(|unit| std::cmp::Reverse((unit.shared, unit.longest())));
    let totals = |unit: &Unit| unit.members.iter().map(|member| member.ids.len()).sum::<usize>();
    let ranges = cut(units.len(), |range| {
        let shared = units[range.end - 1].shared; // the shortest
        let (mut rows, mut total) = (0, 0);
        for unit in &units[range.clone()] {
            rows += unit.members.len();
            total += totals(unit);
        }
        let (first, rest) = (range.len() * shared, total - rows * shared);
        let fits = first <= batch_tokens && rest <= REST * batch_tokens;
        let passes = 1.0 + if rest > 0 { 1.0 + (rest / batch_tokens.max(1)) as f64 } else { 0.0 };
        let cost = PASS_COST * passes + first as f64 + rest as f64 * (1.0 + head);
        (fits || range.len() == 1).then_some(cost)
    });
    let mut units = units.into_iter();
    ranges.into_iter().map(|range| units.by_ref().take(range.len()).collect()).collect()
}

/// How rows of these lengths, the longest first, go through the model: ranges of them, each padded to its longest, with up
/// to `batch_tokens` tokens, or one row.
pub(super) fn stretches(lengths: &[usize], batch_tokens: usize) -> Vec<Range<usize>> {
    cut(lengths.len(), |range| {
        let tokens = range.len() * lengths[range.start];
        (tokens <= batch_tokens || range.len() == 1).then_some(PASS_COST + tokens as f64)
    })
}

/// The cheapest way to cut `0..n` into ranges. A range that costs nothing may not be, and then no longer one that ends there.
///
/// Dynamic programming: the cheapest way to cut the first `j` ends with a range `i..j`.
fn cut(n: usize, cost: impl Fn(Range<usize>) -> Option<f64>) -> Vec<Range<usize>> {
    let mut best = vec![(0.0, 0)]; // cost of the first j, and where their last range begins
    for j in 1..=n {
        let mut cheapest = (f64::INFINITY, j - 1);
        for i in (0..j).rev() {
            let Some(cost) = cost(i..j) else { break };
            if best[i].0 + cost < cheapest.0 {
                cheapest = (best[i].0 + cost, i);
            }
        }
        best.push(cheapest);
    }
    let mut ranges = Vec::new();
    let mut end = n;
    while end > 0 {
        ranges.push(best[end].1..end);
        end = best[end].1;
    }
    ranges.reverse();
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn member(slot: usize, context: &[u32], continuation: &[u32], max_seq_len: usize) -> Member {
        let request = Request { context: context.to_vec(), continuation: continuation.to_vec() };
        Member::new(&request, slot, max_seq_len)
    }

    #[test]
    fn the_context_loses_its_beginning() {
        let context: Vec<u32> = (0..10).collect();
        let short = member(0, &context, &[20, 21], 4);
        assert_eq!((&short.ids[..], short.truncated, short.first()), (&[7, 8, 9, 20][..], true, 2));
        assert!(!member(0, &context, &[20, 21], 11).truncated);
    }

    #[test]
    fn choices_share_their_question() {
        let context = [9, 1, 2, 3];
        let unit =
            units(vec![member(0, &context, &[4, 5], 99), member(1, &context, &[6], 99)], 0.3);
        assert_eq!((unit.len(), unit[0].shared), (1, 4));
        // The tokenizer joined the context's last token with the first choice.
        let joined = member(0, &[9, 1, 2, 7], &[4, 5], 99);
        assert_eq!(units(vec![joined, member(1, &context, &[6], 99)], 0.3)[0].shared, 3);
        // Truncated differently: nothing in common.
        let long = units(vec![member(0, &context, &[4, 5], 3), member(1, &context, &[6], 3)], 0.3);
        assert_eq!(long.iter().map(|unit| unit.shared).collect::<Vec<_>>(), [2, 3]);
    }

    proptest! {
        #[test]
        fn every_member_lies_in_one_batch(
            lengths in prop::collection::vec((1..30usize, prop::collection::vec(1..9usize, 1..5)), 0..40),
            batch_tokens in 1..200usize,
        ) {
            let mut slot = 0;
            let mut all = Vec::new();
            for (n, choices) in &lengths {
                let members = choices.iter().map(|m| {
                    slot += 1;
                    member(slot - 1, &vec![1; *n], &vec![2; *m], 1000)
                });
                all.extend(units(members.collect(), 0.3));
            }
            let batches = batches(all, batch_tokens, 0.3);
            let mut seen: Vec<usize> = batches.iter().flatten().flat_map(|unit| &unit.members).map(|m| m.slot).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..slot).collect::<Vec<_>>());
            for batch in &batches {
                let shared = batch.iter().map(|unit| unit.shared).min().unwrap();
                prop_assert!(batch.len() == 1 || batch.len() * shared <= batch_tokens);
            }
        }
    }

    /// Against every way to cut a short list.
    #[test]
    fn the_cut_is_the_cheapest() {
        let lengths = [90, 42, 41, 40, 11, 10, 9, 3];
        let fits =
            |range: &Range<usize>| range.len() == 1 || range.len() * lengths[range.start] <= 120;
        let cost = |range: &Range<usize>| 7.0 + (range.len() * lengths[range.start]) as f64;
        let found: f64 = cut(8, |range| fits(&range).then(|| cost(&range))).iter().map(cost).sum();
        let all = (0..1u32 << 7).filter_map(|cuts| {
            let mut ends: Vec<usize> = (1..8).filter(|i| cuts >> (i - 1) & 1 == 1).collect();
            ends.push(8);
            let mut start = 0;
            let ranges: Vec<Range<usize>> =
                ends.into_iter().map(|end| std::mem::replace(&mut start, end)..end).collect();
            ranges.iter().all(fits).then(|| ranges.iter().map(cost).sum::<f64>())
        });
        assert_eq!(found, all.fold(f64::INFINITY, f64::min));
        assert_eq!(stretches(&[900, 20, 19, 18], 1000), [0..1, 1..4]);
        assert!(stretches(&[], 1000).is_empty());
    }
}
