//! Which keys a query sees.

use burn::backend::flex::FlexTensor;

use super::super::Dims;
use super::ROWS;
use crate::flex_data::integers;

/// The causal rule and the starts of documents.
pub(super) struct Visible {
    /// `[b, s]`; none means that all documents start at key 0.
    starts: Option<Vec<usize>>,
    dims: Dims,
}

/// A block of query rows and the keys it sees.
pub(super) struct Block {
    /// The first query of the block.
    pub(super) first: usize,
    /// Its number of queries, at most [`ROWS`].
    pub(super) n: usize,
    /// The first key that any of them sees.
    pub(super) from: usize,
    /// The number of keys from there up to the last that any sees.
    pub(super) width: usize,
    seen: [(usize, usize); ROWS],
}

impl Block {
    /// Per query the keys it sees, counted from `from`.
    pub(super) fn seen(&self) -> &[(usize, usize)] {
        &self.seen[..self.n]
    }
}

impl Visible {
    /// # Panics
    /// If a document starts before key 0 or after its query.
    pub(super) fn new(starts: Option<&FlexTensor>, dims: Dims) -> Self {
        let starts = starts.map(|starts| {
            let checked = |(i, &start): (usize, &i32)| {
                let (b, row) = (i / dims.s, i % dims.s);
                let position = dims.t - dims.s + row;
                match usize::try_from(start) {
                    Ok(start) if start <= position => start,
                    _ => panic!(
                        "attention: document_starts[{b}, {row}] is {start}, but must be in 0..={position}"
                    ),
                }
            };
            integers(starts).iter().enumerate().map(checked).collect()
        });
        Self { starts, dims }
    }

    /// Block `index` of the queries of sequence `b`.
    pub(super) fn block(&self, b: usize, index: usize) -> Block {
        let Dims { s, t, .. } = self.dims;
        let first = index * ROWS;
        let n = ROWS.min(s - first);
        let mut seen = [(0, 0); ROWS];
        for (i, seen) in seen[..n].iter_mut().enumerate() {
            let start = self.starts.as_ref().map_or(0, |starts| starts[b * s + first + i]);
            *seen = (start, t - s + first + i + 1);
        }
        let from = seen[..n].iter().map(|seen| seen.0).min().unwrap_or(0);
        for seen in &mut seen[..n] {
            *seen = (seen.0 - from, seen.1 - from);
        }
        Block { first, n, from, width: seen[n - 1].1, seen }
    }
}
