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
    documents: Range<usize>,
    order: Permutation,
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
        let lens = (0..n).map(|k| split.document_len(documents.start + order.at(k) as usize));
        let packing = match packing {
            Packing::ConcatSplit => Index::Concat(Concat::new(lens)),
            Packing::BestFit => Index::BestFit(BestFit::new(lens, seq_len)),
        };
        let n_rows = match &packing {
            Index::Concat(concat) => concat.n_rows(seq_len),
            Index::BestFit(best_fit) => best_fit.n_rows(),
        };
        let row_key = Key::new(seed, "rows", number);
        Self { documents, order, packing, seq_len, n_rows, row_key }
    }

    pub(crate) fn n_rows(&self) -> u64 {
        self.n_rows
    }

    /// Fills `row` with sequence `index` of this stream (epoch `index / n_rows`); returns how many of its tokens are no padding,
    /// and from how many pieces they came.
    pub(crate) fn fill(
        &self,
        split: &Split,
        index: u64,
        row: &mut RowMut<'_>,
    ) -> Result<(usize, usize), DatasetError> {
        let epoch = Permutation::new(&self.row_key, index / self.n_rows, self.n_rows);
        let number = epoch.at(index % self.n_rows);
        match &self.packing {
            Index::Concat(concat) => {
                self.copy(split, concat.pieces(number, self.seq_len), row, false)
            }
            Index::BestFit(best_fit) => self.copy(split, best_fit.pieces(number), row, true),
        }
    }

    fn copy(
        &self,
        split: &Split,
        pieces: impl Iterator<Item = (u64, u64)>,
        row: &mut RowMut<'_>,
        piece_is_document: bool,
    ) -> Result<(usize, usize), DatasetError> {
        let (mut filled, mut n_pieces) = (0, 0);
        for (place, first) in pieces {
            if filled == row.tokens.len() {
                break;
            }
            let (shard, local) = split.locate(self.documents.start + self.order.at(place) as usize);
            let (start, end) = shard.document(local);
            let left = end - start - first;
            let n = left.min((row.tokens.len() - filled) as u64);
            let from = start + first;
            let tokens = shard.tokens(from, from + n);
            let max = tokens.copy_to(&mut row.tokens[filled..filled + n as usize]);
            if u64::from(max) >= shard.header.vocab_size {
                // The error names the place; the check of the whole document finds the first one.
                shard.check_document(local)?;
            }
            filled += n as usize;
            n_pieces += 1;
            if n == left || piece_is_document {
                row.ends.push(filled as u32);
            }
        }
        Ok((filled, n_pieces))
    }
}
