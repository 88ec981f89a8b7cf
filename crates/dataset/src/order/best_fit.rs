//! Best-fit packing: rows hold whole documents wherever they can ("Fewer Truncations Improve Language Modeling", Ding et al. 2024).
//!
//! A document of more than `seq_len + 1` tokens is cut into pieces of that length, each beginning with the last token of the one before, so that each token but
//! BOS is a target in exactly one piece. Pieces are placed from the longest to the shortest, equal ones in the order of documents, each into the row
//! that it leaves the least room in (the one opened last among equals), or into a new row. Rows are filled up with padding.

use std::collections::BTreeMap;

/// The pieces of each row.
#[derive(Debug)]
pub(crate) struct BestFit {
    /// First piece of each row, and one past the last.
    first: Vec<usize>,
    /// `(place of the document in the order, first token in it)`.
    pieces: Vec<(u64, u64)>,
}

impl BestFit {
    /// From the lengths of the documents, in order.
    pub(crate) fn new(lens: impl Iterator<Item = u64>, seq_len: usize) -> Self {
        let (step, room) = (seq_len as u64, seq_len + 1);
        let mut by_len: BTreeMap<usize, Vec<(u64, u64)>> = BTreeMap::new();
        for (place, len) in (0..).zip(lens) {
            // A document has at least BOS and EOS.
            for first in (0..len - 1).step_by(seq_len) {
                let piece = (len - first).min(step + 1) as usize;
                by_len.entry(piece).or_default().push((place, first));
            }
        }
        let n_pieces = by_len.values().map(Vec::len).sum();
        let (mut placed, mut n_rows) = (Vec::with_capacity(n_pieces), 0);
        let mut open: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (len, pieces) in by_len.into_iter().rev() {
            for piece in pieces {
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
                placed.push((row, piece));
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

    /// The pieces of row `row`: `(place in the order, first token in the document)`, each up to the end of its document or of the row.
    pub(crate) fn pieces(&self, row: u64) -> impl Iterator<Item = (u64, u64)> {
        self.pieces[self.first[row as usize]..self.first[row as usize + 1]].iter().copied()
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

    /// By hand, for rows of 10 tokens: document 1 (23 tokens) gives pieces of 10, 10 and 5; placed are 10, 10, 7, 6, 5, 4, 3, 2.
    /// 5 fits neither 7 nor 6 and opens a row; 4 fits best with 6, 3 with 7, 2 with 5.
    #[test]
    fn packed_by_hand() {
        let packing = BestFit::new([7, 23, 6, 4, 3, 2].into_iter(), 9);
        let rows: Vec<Vec<_>> = (0..packing.n_rows()).map(|r| packing.pieces(r).collect()).collect();
        assert_eq!(
            rows,
            [
                vec![(1, 0)],
                vec![(1, 9)],
                vec![(0, 0), (4, 0)],
                vec![(2, 0), (3, 0)],
                vec![(1, 18), (5, 0)],
            ]
        );
    }
}
