//! What a rank did on a group, and what one that ends leaves behind: enough to know who waits in
//! vain.
//!
//! A rank inside MPI waits for ever for one that has ended. So a rank that ends tells the others how
//! many calls it made on each group; another that is inside a later call knows whom it will not meet.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::call::{Call, Operation};

/// The calls of one rank on one group.
#[derive(Debug)]
pub(super) struct Ledger {
    /// The same on all ranks of the group, another one for each group.
    pub(super) id: u64,
    pub(super) axis: String,
    /// The ranks of the group, as ranks of the world.
    pub(super) members: Vec<usize>,
    n_calls: AtomicU64,
    sent: Vec<AtomicU64>,
    received: Vec<AtomicU64>,
    under_way: Mutex<Option<UnderWay>>,
}

/// The call that the rank is inside of, and which one it is on this group or from this sender,
/// counted from 1.
#[derive(Clone, Copy, Debug)]
struct UnderWay {
    call: Call,
    number: u64,
}

impl Ledger {
    pub(super) fn new(id: u64, axis: &str, members: Vec<usize>) -> Self {
        let zeros = || members.iter().map(|_| AtomicU64::new(0)).collect();
        let (sent, received) = (zeros(), zeros());
        let axis = axis.to_owned();
        let (n_calls, under_way) = (AtomicU64::new(0), Mutex::new(None));
        Self { id, axis, members, n_calls, sent, received, under_way }
    }

    /// The id of a group that the call under way makes.
    pub(super) fn derived_id(&self, color: usize) -> u64 {
        let parts = [self.id, self.n_calls.load(Ordering::Relaxed), color as u64];
        // FNV-1a over words, spread by a multiplication: only equality matters.
        parts.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, part| {
            let hash = (hash ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            hash ^ (hash >> 29)
        })
    }

    pub(super) fn begins(&self, call: Call) {
        let peer = call.peer.map_or(0, |peer| peer as usize);
        let counter = match call.operation {
            Operation::Send => &self.sent[peer],
            Operation::Recv => &self.received[peer],
            _ => &self.n_calls,
        };
        let number = counter.fetch_add(1, Ordering::AcqRel) + 1;
        *self.under_way() = Some(UnderWay { call, number });
    }

    pub(super) fn ends(&self) {
        *self.under_way() = None;
    }

    /// The rank of the world that has ended and is waited for, with the call that waits.
    pub(super) fn waits_in_vain(&self, farewells: &[Option<Farewell>]) -> Option<(usize, Call)> {
        let UnderWay { call, number } = (*self.under_way())?;
        let has_ended = |rank: usize| farewells[rank].as_ref();
        let missing = match call.operation {
            Operation::Send => None,
            Operation::Recv => {
                let from = *self.members.get(call.peer? as usize)?;
                let n_sent = has_ended(from).map(|farewell| farewell.on(self.id).n_sent);
                n_sent.filter(|n_sent| *n_sent < number).map(|_| from)
            }
            _ => self.members.iter().copied().find(|rank| {
                has_ended(*rank).is_some_and(|farewell| farewell.on(self.id).n_calls < number)
            }),
        };
        missing.map(|rank| (rank, call))
    }

    fn under_way(&self) -> MutexGuard<'_, Option<UnderWay>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a rank that ends tells another one: its calls by group.
#[derive(Debug, Default)]
pub(super) struct Farewell {
    groups: HashMap<u64, Counts>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    /// Collective calls.
    n_calls: u64,
    /// Messages to the rank that is told.
    n_sent: u64,
}

impl Farewell {
    /// The words that rank `to` of the world is told.
    pub(super) fn write(ledgers: &[std::sync::Arc<Ledger>], to: usize) -> Vec<u64> {
        let mut words = Vec::new();
        for ledger in ledgers {
            if let Some(index) = ledger.members.iter().position(|rank| *rank == to) {
                let n_calls = ledger.n_calls.load(Ordering::Acquire);
                let n_sent = ledger.sent[index].load(Ordering::Acquire);
                words.extend([ledger.id, n_calls, n_sent]);
            }
        }
        words
    }

    pub(super) fn read(words: &[u64]) -> Self {
        let group = |words: &[u64]| (words[0], Counts { n_calls: words[1], n_sent: words[2] });
        Self { groups: words.chunks_exact(3).map(group).collect() }
    }

    /// A group that it does not name is one that the rank never made.
    fn on(&self, id: u64) -> Counts {
        self.groups.get(&id).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::element::DType;

    fn ledger() -> Arc<Ledger> {
        Arc::new(Ledger::new(7, "data", vec![4, 6]))
    }

    /// Ranks 4 and 6 of the world; what 6 says when it ends, heard by 4.
    fn farewells(of: &Arc<Ledger>) -> Vec<Option<Farewell>> {
        let words = Farewell::write(std::slice::from_ref(of), 4);
        (0..7).map(|rank| (rank == 6).then(|| Farewell::read(&words))).collect()
    }

    #[test]
    fn a_rank_waits_in_vain_only_for_calls_that_were_not_made() {
        let (here, there) = (ledger(), ledger());
        let barrier = Call::new(Operation::Barrier);
        here.begins(barrier);
        there.begins(barrier);
        assert_eq!(here.waits_in_vain(&farewells(&there)), None, "it is in the same call");
        here.ends();
        here.begins(barrier);
        assert_eq!(here.waits_in_vain(&farewells(&there)), Some((6, barrier)));
        here.ends();
        assert_eq!(here.waits_in_vain(&farewells(&there)), None, "it does not wait");
    }

    #[test]
    fn a_message_that_was_sent_is_not_waited_for_in_vain() {
        let (here, there) = (ledger(), ledger());
        let call = |operation, peer| Call::new(operation).of(DType::U8).len(1).peer(peer);
        there.begins(call(Operation::Send, 0));
        here.begins(call(Operation::Recv, 1));
        assert_eq!(here.waits_in_vain(&farewells(&there)), None);
        here.begins(call(Operation::Recv, 1));
        let recv = call(Operation::Recv, 1);
        assert_eq!(here.waits_in_vain(&farewells(&there)), Some((6, recv)));
        here.begins(call(Operation::Send, 1));
        assert_eq!(here.waits_in_vain(&farewells(&there)), None, "a send never waits");
    }

    #[test]
    fn groups_have_ids_of_their_own() {
        let ledger = ledger();
        let (a, b) = (ledger.derived_id(0), ledger.derived_id(1));
        ledger.begins(Call::new(Operation::Split));
        let c = ledger.derived_id(0);
        assert!(a != b && a != c && b != c && a != 7);
    }
}
