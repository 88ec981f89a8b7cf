//! Which tokens go through the model together.
//!
//! A unit is a beginning and its members: inputs that go on with it. A batch is the units whose tokens fit into one pass, the
//! beginning of each once and what is left of its members behind it, without a place left empty.

use super::Request;

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

/// Members whose inputs agree in the first `shared` tokens, one at least.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) shared: usize,
    pub(super) members: Vec<Member>,
}

impl Unit {
    /// Tokens that go through the model.
    pub(super) fn n_tokens(&self) -> usize {
        let rest = self.members.iter().map(|member| member.ids.len() - self.shared);
        self.shared + rest.sum::<usize>()
    }
}

/// One unit for all members, or one for each where they have nothing in common.
pub(super) fn units(members: Vec<Member>) -> Vec<Unit> {
    let shortest = members.iter().map(|member| member.ids.len()).min().unwrap_or(0);
    let shared = (0..shortest)
        .take_while(|i| members.iter().all(|member| member.ids[*i] == members[0].ids[*i]))
        .count();
    if shared > 0 {
        return vec![Unit { shared, members }];
    }
    let alone = |member: Member| Unit { shared: member.ids.len(), members: vec![member] };
    members.into_iter().map(alone).collect()
}

/// Puts units together, each batch of at most `tokens` tokens or of one unit.
pub(super) fn batches(mut units: Vec<Unit>, tokens: usize) -> Vec<Vec<Unit>> {
    // Longest first, so that what does not fit into memory shows at once.
    units.sort_by_key(|unit| std::cmp::Reverse(unit.n_tokens()));
    let mut batches: Vec<Vec<Unit>> = Vec::new();
    let mut room = 0;
    for unit in units {
        let needs = unit.n_tokens();
        match batches.last_mut() {
            Some(batch) if needs <= room => batch.push(unit),
            _ => {
                batches.push(vec![unit]);
                room = tokens;
            }
        }
        room = room.saturating_sub(needs);
    }
    batches
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
        let unit = units(vec![member(0, &context, &[4, 5], 99), member(1, &context, &[6], 99)]);
        assert_eq!((unit.len(), unit[0].shared, unit[0].n_tokens()), (1, 4, 5));
        // The tokenizer joined the context's last token with the first choice.
        let joined = member(0, &[9, 1, 2, 7], &[4, 5], 99);
        assert_eq!(units(vec![joined, member(1, &context, &[6], 99)])[0].shared, 3);
        // Answers that begin alike share that, too.
        let alike = vec![member(0, &context, &[4, 5, 6], 99), member(1, &context, &[4, 5, 7], 99)];
        assert_eq!(units(alike)[0].shared, 6);
        // Truncated differently: nothing in common.
        let long = units(vec![member(0, &context, &[4, 5], 3), member(1, &context, &[6], 3)]);
        assert_eq!(long.iter().map(|unit| unit.shared).collect::<Vec<_>>(), [3, 3]);
    }

    proptest! {
        #[test]
        fn every_member_lies_in_one_batch(
            lengths in prop::collection::vec((1..30usize, prop::collection::vec(1..9usize, 1..5)), 0..40),
            tokens in 1..200usize,
        ) {
            let mut slot = 0;
            let mut all = Vec::new();
            for (n, choices) in &lengths {
                let members = choices.iter().map(|m| {
                    slot += 1;
                    member(slot - 1, &vec![1; *n], &vec![2; *m], 1000)
                });
                all.extend(units(members.collect()));
            }
            let batches = batches(all, tokens);
            let mut seen: Vec<usize> = batches.iter().flatten().flat_map(|unit| &unit.members).map(|m| m.slot).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..slot).collect::<Vec<_>>());
            for batch in &batches {
                let sum: usize = batch.iter().map(Unit::n_tokens).sum();
                prop_assert!(batch.len() == 1 || sum <= tokens);
            }
        }
    }
}
