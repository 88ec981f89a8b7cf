//! Sums in one fixed order, whoever computes the parts.
//!
//! Floating-point addition is not associative, so "the sum of the micro-batches" is only one number once the order of
//! the additions is fixed. The order here is a binary tree over the *global* index of each part: a leaf is one index, a
//! node of level `l` covers the aligned range `[k * 2^l, (k + 1) * 2^l)` and is its left half plus its right half (or
//! its left half alone where the right half lies past the end). A rank that owns any range of indices can add up the
//! largest aligned blocks inside its range and hand these on; whoever gets them combines blocks, never parts of blocks,
//! so the bits are those of one process that did it all.
//!
//! The tree is walked as a binary counter: a block is combined with its neighbour as soon as both are there, so parts
//! that arrive in order keep at most `ceil(log2 n)` blocks waiting between two pushes.

use std::fmt;

/// Something that can be added up in a fixed order.
pub trait Combine {
    /// `self + right`, where `self` covers the lower indices. May reuse either operand's memory.
    fn combine(self, right: Self) -> Self;
}

/// The place of a block in the tree: the indices `[start, start + 2^level)`, `start` a multiple of `2^level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId {
    /// First index covered.
    pub start: u64,
    /// The block covers `2^level` indices.
    pub level: u32,
}

impl BlockId {
    /// One past the last index covered.
    pub fn end(self) -> u64 {
        self.start + (1 << self.level)
    }

    fn is_left(self) -> bool {
        (self.start >> self.level).is_multiple_of(2)
    }
}

/// The pending blocks of a sum over indices, in increasing order of their start.
pub struct BlockTree<T> {
    blocks: Vec<(BlockId, T)>,
}

impl<T> fmt::Debug for BlockTree<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.blocks.iter().map(|(id, _)| id)).finish()
    }
}

impl<T> Default for BlockTree<T> {
    fn default() -> Self {
        Self { blocks: Vec::new() }
    }
}

impl<T: Combine> BlockTree<T> {
    /// An empty sum.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the part with this global index.
    ///
    /// # Panics
    /// If the index was added before: a caller that counts its micro-batches twice.
    pub fn push(&mut self, index: u64, part: T) {
        self.push_block(BlockId { start: index, level: 0 }, part);
    }

    /// Adds a whole block that was summed elsewhere, for example by another rank.
    ///
    /// # Panics
    /// If the block is not aligned or overlaps with indices that were added before.
    pub fn push_block(&mut self, mut id: BlockId, mut sum: T) {
        assert!(
            id.level < 64 && id.start.trailing_zeros() >= id.level,
            "{id:?} is not an aligned block"
        );
        let mut at = self.blocks.partition_point(|(other, _)| other.start < id.start);
        let free_before = at == 0 || self.blocks[at - 1].0.end() <= id.start;
        let free_after = self.blocks.get(at).is_none_or(|(next, _)| id.end() <= next.start);
        assert!(free_before && free_after, "{id:?} overlaps with indices already added: {self:?}");
        loop {
            let size = 1u64 << id.level;
            if id.is_left() {
                let right = BlockId { start: id.start + size, level: id.level };
                if self.blocks.get(at).is_none_or(|(next, _)| *next != right) {
                    break;
                }
                sum = sum.combine(self.blocks.remove(at).1);
            } else {
                let left = BlockId { start: id.start - size, level: id.level };
                if at == 0 || self.blocks[at - 1].0 != left {
                    break;
                }
                at -= 1;
                sum = self.blocks.remove(at).1.combine(sum);
                id.start = left.start;
            }
            id.level += 1;
        }
        self.blocks.insert(at, (id, sum));
    }

    /// Adds a part to the running sum from left to right, outside the tree: for a sum whose order need not be fixed.
    ///
    /// # Panics
    /// If parts of the tree were added before.
    pub(crate) fn push_left(&mut self, part: T) {
        match self.blocks.pop() {
            None => self.blocks.push((BlockId { start: 0, level: 0 }, part)),
            Some((id, sum)) => {
                assert!(self.blocks.is_empty() && id.level == 0, "a sum has one order: {self:?}");
                self.blocks.push((id, sum.combine(part)));
            }
        }
    }

    /// How many blocks wait for a neighbour. At most `ceil(log2 n)` once `n >= 2` indices `0..n` were pushed in order,
    /// the finished sum included.
    pub fn n_pending(&self) -> usize {
        self.blocks.len()
    }

    /// The pending blocks, to be handed to whoever combines the blocks of all ranks (see [`push_block`](Self::push_block)).
    pub fn into_blocks(self) -> Vec<(BlockId, T)> {
        self.blocks
    }

    /// The sum over `0..n`; `None` for `n = 0`.
    ///
    /// # Panics
    /// If the indices added so far are not a range that starts at 0.
    pub fn finish(self) -> Option<T> {
        let mut expected = 0;
        for (id, _) in &self.blocks {
            assert!(id.start == expected, "no part with index {expected} was added: {self:?}");
            expected = id.end();
        }
        // Past the end the tree has no leaves, so a node there is its left half alone: the last, smallest blocks meet first.
        self.blocks.into_iter().map(|(_, sum)| sum).rev().reduce(|right, left| left.combine(right))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Records the order of additions, so that two sums agree exactly when their trees do.
    #[derive(Clone, Debug, PartialEq)]
    struct Text(String);

    impl Combine for Text {
        fn combine(self, right: Self) -> Self {
            Text(format!("({}+{})", self.0, right.0))
        }
    }

    /// The definition in the module's documentation, written as a recursion.
    fn by_definition(level: u32, start: u64, n: u64) -> String {
        if level == 0 {
            return start.to_string();
        }
        let middle = start + (1 << (level - 1));
        let left = by_definition(level - 1, start, n);
        if middle >= n { left } else { format!("({left}+{})", by_definition(level - 1, middle, n)) }
    }

    fn text(index: u64) -> Text {
        Text(index.to_string())
    }

    #[test]
    fn the_order_is_the_defined_tree() {
        for n in 1..70u64 {
            let mut tree = BlockTree::new();
            let mut most = 0;
            for index in 0..n {
                tree.push(index, text(index));
                most = most.max(tree.n_pending());
            }
            assert!(most as u32 <= 1.max(n.next_power_of_two().ilog2()), "{n}: {most} pending");
            assert_eq!(tree.finish().unwrap().0, by_definition(7, 0, n), "n = {n}");
        }
        assert!(BlockTree::<Text>::new().finish().is_none());
    }

    #[test]
    #[should_panic(expected = "overlaps")]
    fn an_index_counts_once() {
        let mut tree = BlockTree::new();
        for index in [0, 1, 1] {
            tree.push(index, text(index));
        }
    }

    #[test]
    #[should_panic(expected = "no part with index 2")]
    fn a_gap_is_noticed() {
        let mut tree = BlockTree::new();
        for index in [0, 1, 3] {
            tree.push(index, text(index));
        }
        tree.finish();
    }

    #[test]
    #[should_panic(expected = "not an aligned block")]
    fn a_block_must_be_aligned() {
        BlockTree::new().push_block(BlockId { start: 2, level: 2 }, text(0));
    }

    /// `n`, a number of ranks, the owner of each boundary, and an order in which the ranks' blocks arrive.
    fn partitions() -> impl Strategy<Value = (u64, Vec<u64>, u64)> {
        (1..200u64).prop_flat_map(|n| (Just(n), prop::collection::vec(0..=n, 0..9), any::<u64>()))
    }

    proptest! {
        #[test]
        fn any_partition_into_ranks_gives_the_same_bits((n, cuts, shuffle) in partitions()) {
            let part = |index: u64| -> Vec<f32> {
                (0..5u64).map(|j| ((index * 31 + j * 7919 + 1) as f32).sin() * 10f32.powi((index % 7) as i32 - 3)).collect()
            };
            let mut one = BlockTree::new();
            (0..n).for_each(|index| one.push(index, part(index)));

            let mut edges = cuts;
            edges.extend([0, n]);
            edges.sort_unstable();
            let mut blocks = Vec::new();
            for range in edges.windows(2) {
                let mut rank = BlockTree::new();
                (range[0]..range[1]).for_each(|index| rank.push(index, part(index)));
                blocks.extend(rank.into_blocks());
            }
            let len = blocks.len();
            (1..len).for_each(|i| blocks.swap(i, (shuffle.rotate_left(i as u32 * 7) % (i as u64 + 1)) as usize));
            let mut owner = BlockTree::new();
            blocks.into_iter().for_each(|(id, sum)| owner.push_block(id, sum));

            let bits = |v: Vec<f32>| v.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            prop_assert_eq!(bits(owner.finish().unwrap()), bits(one.finish().unwrap()));
        }
    }
}
