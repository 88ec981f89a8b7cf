//! Adding gradients over the replicas while backward still runs.
//!
//! Every rank hands in, segment by segment and in the same order, the blocks of the sum that it has. Blocks are exchanged
//! so that each element meets at one owner, which combines them in tree order: the bits are those of one process that
//! did everything. No engine's own sum is involved, only its transport.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::mpsc;
use std::thread;

use caravan_collective::Communicator;

use crate::executor::Segment;
use crate::gradients::Gradient;
use crate::loss::LossSum;
use crate::mesh::Reduction;
use crate::mutation;
use crate::segments::SegmentLayout;
use crate::tree::{BlockId, BlockTree, Combine};

/// A rank's contribution to a segment's sum.
pub(crate) struct Round {
    pub(crate) segment: Segment,
    /// Which blocks every rank hands in this time, in order; without an id each rank's one block is its whole sum.
    pub(crate) blocks_of: Vec<Vec<BlockId>>,
    /// This rank's, each as long as the segment.
    pub(crate) blocks: Vec<Vec<f32>>,
}

/// Element by element, in place.
impl Combine for Vec<f32> {
    fn combine(mut self, right: Self) -> Self {
        assert_eq!(self.len(), right.len(), "parts of one segment have one length");
        self.iter_mut().zip(right).for_each(|(left, right)| *left += right);
        self
    }
}

/// The owner's side of the sums of one step.
pub(crate) struct Owner {
    group: Communicator,
    layouts: BTreeMap<Segment, SegmentLayout>,
    sums: BTreeMap<Segment, BlockTree<Vec<f32>>>,
}

impl Owner {
    /// For the segments in `layouts`; a tied use has the embedding's layout.
    pub(crate) fn new(group: Communicator, layouts: &[SegmentLayout]) -> Self {
        let layouts = layouts.iter().map(|l| (l.segment, l.clone())).collect();
        Self { group, layouts, sums: BTreeMap::new() }
    }

    /// Exchanges one round; all ranks of the group call it with the same segments in the same order.
    pub(crate) fn take(&mut self, round: Round) {
        let Round { segment, blocks_of, blocks } = round;
        let key = if segment == Segment::Tied { Segment::Embed } else { segment };
        let layout = &self.layouts[&key];
        let (rank, size) = (self.group.rank(), self.group.size());
        let parts: Vec<Range<usize>> = (0..size).map(|r| layout.part(r, size)).collect();
        let mine = parts[rank].len();
        let send: Vec<Vec<f32>> = parts
            .iter()
            .map(|part| blocks.iter().flat_map(|block| &block[part.clone()]).copied().collect())
            .collect();
        drop(blocks);
        let mut received = self.group.all_to_all_v(&send);
        drop(send);
        if mutation::on("data_reduction_dropped") {
            let others = received.iter_mut().enumerate().filter(|(from, _)| *from != rank);
            others.for_each(|(_, values)| values.fill(0.0));
        }
        if mutation::on("data_gradient_averaged") {
            received.iter_mut().flatten().for_each(|value| *value /= size as f32);
        }
        let sum = self.sums.entry(segment).or_default();
        for (ids, values) in blocks_of.into_iter().zip(received) {
            if ids.is_empty() {
                sum.push_left(values);
                continue;
            }
            assert_eq!(values.len(), ids.len() * mine, "every rank sends its blocks of a part");
            for (at, id) in ids.into_iter().enumerate() {
                let block = values[at * mine..(at + 1) * mine].to_vec();
                match mutation::on("data_order_lost") {
                    true => sum.push_left(block),
                    false => sum.push_block(id, block),
                }
            }
        }
    }

    /// The sums of this rank's part of every segment.
    pub(crate) fn finish(self) -> BTreeMap<Segment, Vec<f32>> {
        let sum = |tree: BlockTree<Vec<f32>>| tree.finish().expect("a step has micro-batches");
        self.sums.into_iter().map(|(segment, tree)| (segment, sum(tree))).collect()
    }
}

/// Runs `work` with a place to hand rounds to, and gives its result with this rank's sums.
///
/// With `overlap` the exchange has a thread of its own, so that it goes on while backward does.
pub(crate) fn with_owner<T>(
    owner: Owner,
    overlap: bool,
    work: impl FnOnce(&mut dyn FnMut(Round)) -> T,
) -> (T, BTreeMap<Segment, Vec<f32>>) {
    if !overlap || owner.group.size() == 1 {
        let mut owner = owner;
        let result = work(&mut |round| owner.take(round));
        return (result, owner.finish());
    }
    thread::scope(|scope| {
        let (sender, rounds) = mpsc::channel::<Round>();
        let exchange = thread::Builder::new().name("exchange".to_owned());
        let exchange = exchange
            .spawn_scoped(scope, move || {
                let mut owner = owner;
                rounds.into_iter().for_each(|round| owner.take(round));
                owner.finish()
            })
            .expect("a thread for the exchange");
        // A failed exchange ends the run with its own message when it is joined.
        let result = work(&mut |round| drop(sender.send(round)));
        drop(sender);
        let sums = exchange.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (result, sums)
    })
}

/// Which micro-batches of a step each replica computes, and the blocks of the sum that come of it.
#[derive(Clone, Debug)]
pub(crate) struct Assignment {
    n: u64,
    replicas: u64,
    /// Neighbouring indices lie on neighbouring ranks, so that a round of one each is a whole aligned range.
    interleaved: bool,
    reduction: Reduction,
}

impl Assignment {
    /// Of `n` micro-batches to `replicas` ranks, which `n` is a multiple of. `each_time` says that gradients are handed
    /// over after every micro-batch (ZeRO 2 and 3), not at the end of the step.
    pub(crate) fn new(n: usize, replicas: usize, each_time: bool, reduction: Reduction) -> Self {
        assert!(n > 0 && n.is_multiple_of(replicas), "{n} micro-batches on {replicas} replicas");
        let interleaved = each_time && reduction == Reduction::Exact;
        Self { n: n as u64, replicas: replicas as u64, interleaved, reduction }
    }

    /// How many micro-batches each replica has.
    pub(crate) fn per_replica(&self) -> usize {
        (self.n / self.replicas) as usize
    }

    /// Global indices within the step, in the order of the work.
    pub(crate) fn indices(&self, replica: usize) -> Vec<u64> {
        let (each, replica) = (self.n / self.replicas, replica as u64);
        let index =
            |i| if self.interleaved { i * self.replicas + replica } else { replica * each + i };
        (0..each).map(index).collect()
    }

    /// Whether sums have the order of the tree.
    pub(crate) fn is_exact(&self) -> bool {
        self.reduction == Reduction::Exact
    }

    /// The blocks that a replica has once the micro-batches at `positions` of its order are done; in the fast mode its
    /// one sum, which has no place in the tree.
    pub(crate) fn blocks(&self, replica: usize, positions: Range<usize>) -> Vec<BlockId> {
        let mut tree = BlockTree::new();
        if self.is_exact() {
            self.indices(replica)[positions].iter().for_each(|&index| tree.push(index, Nothing));
        }
        tree.into_blocks().into_iter().map(|(id, Nothing)| id).collect()
    }

    /// The step's loss from the replicas' `[nats, tokens, nats, tokens, ..]`, in the order of their work.
    pub(crate) fn sum_losses(&self, of_replicas: &[Vec<f64>]) -> LossSum {
        let mut tree = BlockTree::new();
        for (replica, values) in of_replicas.iter().enumerate() {
            for (index, pair) in self.indices(replica).into_iter().zip(values.chunks(2)) {
                tree.push(index, LossSum { nats: pair[0], tokens: pair[1] as u64 });
            }
        }
        tree.finish().expect("a step has micro-batches")
    }
}

struct Nothing;

impl Combine for Nothing {
    fn combine(self, _: Self) -> Self {
        self
    }
}

/// The gradients of a segment in its flat index.
pub(crate) fn flatten(gradients: Vec<Gradient>) -> Vec<f32> {
    let mut values = gradients.into_iter().map(|gradient| {
        let data = gradient.values.into_data();
        data.try_into_vec::<f32>().expect("gradients are f32")
    });
    let mut flat = values.next().unwrap_or_default();
    values.for_each(|values| flat.extend_from_slice(&values));
    flat
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_micro_batch_is_computed_once_and_rounds_make_the_tree() {
        for (n, replicas) in [(1, 1), (4, 2), (6, 3), (9, 3), (12, 4), (10, 5), (24, 8)] {
            for each_time in [false, true] {
                let plan = Assignment::new(n, replicas, each_time, Reduction::Exact);
                let mut seen: Vec<u64> = (0..replicas).flat_map(|r| plan.indices(r)).collect();
                seen.sort_unstable();
                assert_eq!(seen, (0..n as u64).collect::<Vec<_>>());
                let each = plan.per_replica();
                let rounds: Vec<Range<usize>> = match each_time {
                    true => (0..each).map(|i| i..i + 1).collect(),
                    false => std::iter::once(0..each).collect(),
                };
                let mut owner = BlockTree::new();
                for round in rounds {
                    for replica in 0..replicas {
                        for id in plan.blocks(replica, round.clone()) {
                            owner.push_block(id, Nothing);
                        }
                    }
                    // After a round of one each, a whole range from 0 on: few blocks wait.
                    let most = 1.max((n as u64).next_power_of_two().trailing_zeros() as usize);
                    assert!(owner.n_pending() <= most.max(replicas), "{owner:?}");
                }
                assert!(owner.finish().is_some());
            }
        }
    }
}
