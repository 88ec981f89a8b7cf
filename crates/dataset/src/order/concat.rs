//! Concatenate and split: all documents one behind the other, cut every `seq_len` tokens.
//!
//! Row `r` holds tokens `r * seq_len ..= (r + 1) * seq_len`: neighbours share one token, so that
//! each token but the first is a target in exactly one row. The last row is filled up with padding.

use super::stream::Piece;

/// Where the documents lie, in their order, and which of them each row begins in.
#[derive(Debug)]
pub(crate) struct Concat {
    /// Per document: where it begins in the concatenation, and in the shards; at last, where the
    /// concatenation ends.
    documents: Vec<(u64, u64)>,
    /// Per row, the document that its first token is in.
    rows: Vec<usize>,
}

impl Concat {
    /// From the documents in order: `(place in the shards, length)`.
    pub(crate) fn new(documents: impl Iterator<Item = (u64, u64)>, seq_len: usize) -> Self {
        let mut total = 0;
        let mut rows = Vec::new();
        let mut placed = Vec::with_capacity(documents.size_hint().0 + 1);
        for (i, (start, len)) in documents.enumerate() {
            placed.push((total, start));
            total += len;
            // Rows that begin in this document.
            while ((rows.len() * seq_len) as u64) < total {
                rows.push(i);
            }
        }
        // A row of the last token alone has nothing to predict.
        rows.truncate(total.saturating_sub(1).div_ceil(seq_len as u64) as usize);
        placed.push((total, 0));
        Self { documents: placed, rows }
    }

    /// How many rows.
    pub(crate) fn n_rows(&self) -> u64 {
        self.rows.len() as u64
    }

    /// The pieces of row `row`.
    pub(crate) fn pieces(&self, row: u64, seq_len: usize) -> impl Iterator<Item = Piece> {
        let first = row * seq_len as u64;
        let end = first + seq_len as u64 + 1;
        let documents = self.documents[self.rows[row as usize]..].windows(2);
        let documents = documents.take_while(move |pair| pair[0].0 < end);
        documents.map(move |pair| {
            let (from, to) = (pair[0].0.max(first), pair[1].0.min(end));
            let start = pair[0].1 + (from - pair[0].0);
            Piece { start, len: (to - from) as u32, ends: to == pair[1].0 }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: documents of 3, 5 and 2 tokens that lie at 100, 0 and 50; rows of 4 + 1 tokens.
    #[test]
    fn cut_by_hand() {
        let concat = Concat::new([(100, 3), (0, 5), (50, 2)].into_iter(), 4);
        let piece = |start, len, ends| Piece { start, len, ends };
        let rows: Vec<Vec<_>> =
            (0..concat.n_rows()).map(|r| concat.pieces(r, 4).collect()).collect();
        assert_eq!(
            rows,
            [
                vec![piece(100, 3, true), piece(0, 2, false)],
                vec![piece(1, 4, true), piece(50, 1, false)],
                vec![piece(50, 2, true)],
            ]
        );
        // Nine tokens: the second row ends with the last of them.
        assert_eq!(Concat::new([(0, 9)].into_iter(), 4).n_rows(), 2);
    }
}
