//! A run of documents as rows of tokens: all documents of a side, or those of one source.

use std::ops::Range;

use super::best_fit::BestFit;
use super::concat::Concat;
use super::permutation::{Key, Permutation};
use crate::loader::Packing;
use crate::{DatasetError, Split};

/// Documents in a fixed random order, packed into rows.
#[derive(Debug)]
pub(crate) struct Stream {
    packing: Index,
    seq_len: usize,
    n_rows: u64,
    row_key: Key,
}

#[derive(Debug)]
enum Index {
    Concat(Concat),
    BestFit(BestFit),
}

/// A row to be filled.
#[derive(Debug)]
pub(crate) struct RowMut<'a> {
    /// `seq_len + 1` tokens.
    pub(crate) tokens: &'a mut [u32],
    /// Where documents end in the row; comes in empty.
    pub(crate) ends: &'a mut Vec<u32>,
}

/// Tokens of one document that lie together in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    /// First token, counted over all documents of the side as they lie in the shards.
    pub(crate) start: u64,
    /// How many.
    pub(crate) len: u32,
    /// Whether what follows in the row is another document, or counts as one.
    pub(crate) ends: bool,
}

impl Stream {
    /// Indexes the documents; `number` tells the streams of one loader apart.
    pub(crate) fn new(
        split: &Split,
        documents: Range<usize>,
        packing: Packing,
        seq_len: usize,
        (seed, number): (u64, u64),
    ) -> Self {
        let n = documents.len() as u64;
        let order = Permutation::new(&Key::new(seed, "documents", number), 0, n);
        let bounds = split.token_bounds(documents);
        let ordered = (0..n).map(|k| {
            let i = order.at(k) as usize;
            (bounds[i], bounds[i + 1] - bounds[i])
        });
        let packing = match packing {
            Packing::ConcatSplit => Index::Concat(Concat::new(ordered, seq_len)),
            Packing::BestFit => Index::BestFit(BestFit::new(ordered, seq_len)),
        };
        let n_rows = match &packing {
            Index::Concat(concat) => concat.n_rows(),
            Index::BestFit(best_fit) => best_fit.n_rows(),
        };
        Self { packing, seq_len, n_rows, row_key: Key::new(seed, "rows", number) }
    }

    pub(crate) fn n_rows(&self) -> u64 {
        self.n_rows
    }

    /// Fills `row` with sequence `index` of this stream (epoch `index / n_rows`); returns how many
    /// of its tokens are no padding.
    pub(crate) fn fill(
        &self,
        split: &Split,
        index: u64,
        row: &mut RowMut<'_>,
    ) -> Result<usize, DatasetError> {
        let epoch = Permutation::new(&self.row_key, index / self.n_rows, self.n_rows);
        let number = epoch.at(index % self.n_rows);
        match &self.packing {
            Index::Concat(concat) => copy(split, concat.pieces(number, self.seq_len), row),
            Index::BestFit(best_fit) => copy(split, best_fit.pieces(number), row),
        }
    }
}

fn copy(
    split: &Split,
    pieces: impl Iterator<Item = Piece>,
    row: &mut RowMut<'_>,
) -> Result<usize, DatasetError> {
    let mut filled = 0;
    for piece in pieces {
        let end = filled + piece.len as usize;
        split.read_tokens(piece.start, &mut row.tokens[filled..end])?;
        filled = end;
        if piece.ends {
            row.ends.push(filled as u32);
        }
    }
    Ok(filled)
}
