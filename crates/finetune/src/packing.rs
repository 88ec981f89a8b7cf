//! Examples side by side in rows of one length.

use burn::tensor::{Device, Int, Tensor, TensorData};
use caravan_parallel::MicroBatch;
use serde::Serialize;

/// No target.
pub(crate) const IGNORE: i32 = -1;

/// An example as ids, and at each of them what the model is to say there: a class, the next id, or nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Encoded {
    pub(crate) ids: Vec<u32>,
    pub(crate) targets: Vec<i32>,
}

impl Encoded {
    /// An example of a class, read at the last id.
    pub(crate) fn of_class(ids: Vec<u32>, class: usize) -> Self {
        let mut targets = vec![IGNORE; ids.len()];
        if let Some(last) = targets.last_mut() {
            *last = class as i32;
        }
        Self { ids, targets }
    }

    /// The class of such an example.
    ///
    /// # Panics
    /// If the last id has no target.
    pub(crate) fn class(&self) -> usize {
        self.targets.last().and_then(|class| usize::try_from(*class).ok()).expect("a class")
    }

    /// How many targets it has.
    pub(crate) fn n_targets(&self) -> usize {
        self.targets.iter().filter(|target| **target != IGNORE).count()
    }
}

/// How long rows may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowShape {
    /// At most this many tokens.
    pub(crate) max: usize,
    /// A length is a multiple of this one, or the most.
    pub(crate) grain: usize,
}

impl RowShape {
    /// Rows of up to `max` tokens that end soon after the last example does.
    pub(crate) fn up_to(max: usize) -> Self {
        Self { max, grain: 16 }
    }

    /// Rows of `max` tokens each.
    pub(crate) fn exactly(max: usize) -> Self {
        Self { max, grain: max }
    }
}

/// Rows in which examples lie one behind the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packed {
    pub(crate) seq_len: usize,
    tokens: Vec<i32>,
    starts: Vec<i32>,
    targets: Vec<i32>,
    /// Of each example, the row and the position of its last token.
    pub(crate) ends: Vec<(usize, usize)>,
}

/// Packs examples, each whole, into as few rows as first-fit gives, longest first; the same input gives the same rows, all
/// as long as the fullest needs. No examples are a row without targets.
///
/// # Panics
/// If an example is empty or longer than a row.
pub(crate) fn pack(examples: &[&Encoded], shape: RowShape) -> Packed {
    let mut order: Vec<usize> = (0..examples.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(examples[*i].ids.len()));
    let mut filled: Vec<usize> = Vec::new();
    let mut places = vec![(0, 0); examples.len()];
    for i in order {
        let n = examples[i].ids.len();
        assert!(n > 0 && n <= shape.max, "an example of {n} tokens in a row of {}", shape.max);
        let row = filled.iter().position(|used| used + n <= shape.max);
        let row = row.unwrap_or_else(|| {
            filled.push(0);
            filled.len() - 1
        });
        places[i] = (row, filled[row]);
        filled[row] += n;
    }
    if filled.is_empty() {
        filled.push(0);
    }
    let fullest = filled.iter().copied().max().unwrap_or(0).max(1);
    let seq_len = fullest.next_multiple_of(shape.grain).min(shape.max);
    let cells = filled.len() * seq_len;
    let mut packed = Packed {
        seq_len,
        tokens: vec![0; cells],
        starts: vec![0; cells],
        targets: vec![IGNORE; cells],
        ends: Vec::with_capacity(examples.len()),
    };
    // What is left of a row attends to itself alone.
    for (row, used) in filled.iter().enumerate() {
        packed.starts[row * seq_len + used..(row + 1) * seq_len].fill(*used as i32);
    }
    for (example, (row, start)) in examples.iter().zip(places) {
        let n = example.ids.len();
        let at = row * seq_len + start;
        for (slot, id) in packed.tokens[at..at + n].iter_mut().zip(&example.ids) {
            *slot = *id as i32;
        }
        packed.starts[at..at + n].fill(start as i32);
        packed.targets[at..at + n].copy_from_slice(&example.targets);
        packed.ends.push((row, start + n - 1));
    }
    packed
}

impl Packed {
    /// Rows.
    pub(crate) fn n_rows(&self) -> usize {
        self.tokens.len() / self.seq_len
    }

    /// So many rows each, for passes one after the other.
    pub(crate) fn chunks(&self, n_rows: usize) -> impl Iterator<Item = Self> {
        let size = n_rows * self.seq_len;
        let rows = self.tokens.chunks(size).zip(self.starts.chunks(size));
        rows.zip(self.targets.chunks(size)).map(|((tokens, starts), targets)| Self {
            seq_len: self.seq_len,
            tokens: tokens.to_vec(),
            starts: starts.to_vec(),
            targets: targets.to_vec(),
            ends: Vec::new(),
        })
    }

    /// The rows as tensors.
    pub(crate) fn micro_batch(&self, device: &Device) -> MicroBatch {
        let shape = [self.n_rows(), self.seq_len];
        let tensor = |values: &[i32]| {
            Tensor::<2, Int>::from_data(TensorData::new(values.to_vec(), shape), device)
        };
        MicroBatch {
            tokens: tensor(&self.tokens),
            targets: tensor(&self.targets),
            document_starts: Some(tensor(&self.starts)),
            n_targets: self.targets.iter().filter(|target| **target != IGNORE).count() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_lie_whole_and_side_by_side() {
        let example = |ids: &[u32], class| Encoded::of_class(ids.to_vec(), class);
        let examples =
            [example(&[1, 2], 0), example(&[3, 4, 5, 6], 1), example(&[7], 2), example(&[8, 9], 1)];
        let packed = pack(&examples.iter().collect::<Vec<_>>(), RowShape::up_to(5));
        assert_eq!(packed.n_rows(), 2);
        assert_eq!(packed.tokens, [3, 4, 5, 6, 7, 1, 2, 8, 9, 0]);
        assert_eq!(packed.starts, [0, 0, 0, 0, 4, 0, 0, 2, 2, 4]);
        assert_eq!(packed.targets, [-1, -1, -1, 1, 2, -1, 0, -1, 1, -1]);
        assert_eq!(packed.ends, [(1, 1), (0, 3), (0, 4), (1, 3)]);
        let none = pack(&[], RowShape::exactly(3));
        assert_eq!((none.n_rows(), none.targets), (1, vec![-1; 3]));
        let short = pack(&[&examples[0]], RowShape { max: 100, grain: 4 });
        assert_eq!((short.seq_len, short.starts), (4, vec![0, 0, 2, 2]));
    }
}
