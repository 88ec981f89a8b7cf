//! Best-fit packing: rows hold whole documents wherever they can ("Fewer Truncations Improve
//! Language Modeling", Ding et al. 2024).
//!
//! A document of more than `seq_len + 1` tokens is cut into pieces of that length, each beginning
//! with the last token of the one before, so that each token but BOS is a target in exactly one
//! piece. Pieces are placed from the longest to the shortest, equal ones in the order of documents,
//! each into the row that it leaves the least room in (the one opened last among equals), or into a
//! new row. Rows are filled up with padding.

use std::collections::BTreeMap;

use super::stream::Piece;

/// The pieces of each row.
#[derive(Debug)]
pub(crate) struct BestFit {
    /// First piece of each row, and one past the last.
    first: Vec<usize>,
    /// First token in the shards, and length.
    pieces: Vec<(u64, u32)>,
}

impl BestFit {
    /// From the documents in order: `(place in the shards, length)`.
    pub(crate) fn new(documents: impl Iterator<Item = (u64, u64)>, seq_len: usize) -> Self {
        let (step, room) = (seq_len as u64, seq_len + 1);
        let mut by_len: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
        for (start, len) in documents {
            // A document has at least BOS and EOS.
            for first in (0..len - 1).step_by(seq_len) {
                let piece = (len - first).min(step + 1) as usize;
                by_len.entry(piece).or_default().push(start + first);
            }
        }
        let n_pieces = by_len.values().map(Vec::len).sum();
        let (mut placed, mut n_rows) = (Vec::with_capacity(n_pieces), 0);
        let mut open: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (len, pieces) in by_len.into_iter().rev() {
            for start in pieces {
                let (left, row) = match open.range(len..).next().map(|(&left, _)| left) {
                    Some(left) => (left - len, pop(&mut open, left)),
                    None => {
                        n_rows += 1;
                        (room - len, n_rows - 1)
                    }
                };
                // No piece has less than two tokens.
                if left >= 2 {
                    open.entry(left).or_default().push(row);
                }
                placed.push((row, (start, len as u32)));
            }
        }
        // The sort is stable, so within a row pieces stay in the order in which they were placed.
        placed.sort_by_key(|&(row, _)| row);
        let mut first = Vec::with_capacity(n_rows + 1);
        for (i, &(row, _)) in placed.iter().enumerate() {
            if row == first.len() {
                first.push(i);
            }
        }
        first.push(placed.len());
        Self { first, pieces: placed.into_iter().map(|(_, piece)| piece).collect() }
    }

    /// How many rows.
    pub(crate) fn n_rows(&self) -> u64 {
        self.first.len() as u64 - 1
    }

    /// The pieces of row `row`.
    pub(crate) fn pieces(&self, row: u64) -> impl Iterator<Item = Piece> {
        let pieces = &self.pieces[self.first[row as usize]..self.first[row as usize + 1]];
        pieces.iter().map(|&(start, len)| Piece { start, len, ends: true })
    }
}

/// Takes a row out of the list of those with `left` tokens of room.
fn pop(open: &mut BTreeMap<usize, Vec<usize>>, left: usize) -> usize {
    let rows = open.get_mut(&left).expect("the key was just found");
    let row = rows.pop().expect("empty lists are removed");
    if rows.is_empty() {
        open.remove(&left);
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand, for rows of 10 tokens: document 1 (23 tokens) gives pieces of 10, 10 and 5; placed
    /// are 10, 10, 7, 6, 5, 4, 3, 2. 5 fits neither 7 nor 6 and opens a row; 4 fits best with 6, 3
    /// with 7, 2 with 5.
    #[test]
    fn packed_by_hand() {
        let lens = [7, 23, 6, 4, 3, 2];
        let packing = BestFit::new((0..).map(|i| 100 * i).zip(lens), 9);
        let rows: Vec<Vec<_>> = (0..packing.n_rows())
            .map(|row| packing.pieces(row).map(|piece| (piece.start, piece.len)).collect())
            .collect();
        assert_eq!(
            rows,
            [
                vec![(100, 10)],
                vec![(109, 10)],
                vec![(0, 7), (400, 3)],
                vec![(200, 6), (300, 4)],
                vec![(118, 5), (500, 2)],
            ]
        );
    }
}
