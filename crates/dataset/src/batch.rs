//! A batch of token rows in host memory, with what attention and loss must know about documents.

/// The target of a position that predicts nothing.
pub const IGNORE: i32 = -1;

/// Rows of `seq_len + 1` tokens. Inputs are the first `seq_len` of a row, targets the last
/// `seq_len`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenBatch {
    /// Sequences.
    pub rows: usize,
    /// Tokens that go into the model per sequence.
    pub seq_len: usize,
    /// `[rows, seq_len + 1]`. Padding is EOS.
    pub tokens: Vec<u32>,
    /// Per row, rising positions in `1..=seq_len + 1`: one past the last token of each document, or
    /// piece of one, that ends in the row. Padding counts as one more document, which does not end.
    pub document_ends: Vec<Vec<u32>>,
    /// Per row, how many tokens are no padding.
    pub n_tokens: Vec<u32>,
    /// Whether attention stays inside documents.
    pub document_mask: bool,
}

impl TokenBatch {
    /// What goes into the model, `[rows, seq_len]`.
    pub fn inputs(&self) -> Vec<i32> {
        let mut inputs = Vec::with_capacity(self.rows * self.seq_len);
        for row in self.token_rows() {
            inputs.extend(row[..self.seq_len].iter().map(|&id| id as i32));
        }
        inputs
    }

    /// The next token of each position, `[rows, seq_len]`; [`IGNORE`] where that begins another
    /// document or is padding.
    pub fn targets(&self) -> Vec<i32> {
        let mut targets = Vec::with_capacity(self.rows * self.seq_len);
        for (i, row) in self.token_rows().enumerate() {
            let start = targets.len();
            targets.extend(row[1..].iter().map(|&id| id as i32));
            let targets = &mut targets[start..];
            // The target of position p is token p + 1.
            for &end in &self.document_ends[i] {
                if let Some(target) = targets.get_mut(end as usize - 1) {
                    *target = IGNORE;
                }
            }
            targets[(self.n_tokens[i] as usize).saturating_sub(1)..].fill(IGNORE);
        }
        targets
    }

    /// The first position of the row that each position may attend to, `[rows, seq_len]`: where its
    /// document begins, or 0 if that was in an earlier row. All 0 without `document_mask`.
    pub fn document_starts(&self) -> Vec<i32> {
        let mut starts = vec![0; self.rows * self.seq_len];
        if self.document_mask && self.seq_len > 0 {
            for (row, ends) in starts.chunks_exact_mut(self.seq_len).zip(&self.document_ends) {
                let ends = ends.iter().map(|&end| end as usize);
                let nexts = ends.clone().skip(1).chain([self.seq_len]);
                for (start, next) in ends.zip(nexts).filter(|&(start, _)| start < self.seq_len) {
                    row[start..next.min(self.seq_len)].fill(start as i32);
                }
            }
        }
        starts
    }

    /// How many targets are not [`IGNORE`].
    pub fn n_targets(&self) -> u64 {
        let rows = self.document_ends.iter().zip(&self.n_tokens);
        rows.map(|(ends, &n)| {
            let crossings = ends.iter().filter(|&&end| end < n).count() as u64;
            u64::from(n).saturating_sub(1) - crossings
        })
        .sum()
    }

    fn token_rows(&self) -> impl Iterator<Item = &[u32]> {
        self.tokens.chunks_exact(self.seq_len + 1)
    }

    /// Makes room for `rows` rows, keeping allocations.
    pub(crate) fn reset(&mut self, rows: usize, seq_len: usize, document_mask: bool) {
        (self.rows, self.seq_len, self.document_mask) = (rows, seq_len, document_mask);
        self.tokens.resize(rows * (seq_len + 1), 0);
        self.document_ends.resize_with(rows, Vec::new);
        self.document_ends.iter_mut().for_each(Vec::clear);
        self.n_tokens.resize(rows, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: tokens 5 6 | 1 2 | 1 and a row that is padded after its only document.
    fn batch() -> TokenBatch {
        TokenBatch {
            rows: 2,
            seq_len: 4,
            tokens: vec![5, 6, 1, 2, 1, 1, 2, 2, 2, 2],
            document_ends: vec![vec![2, 4], vec![2]],
            n_tokens: vec![5, 2],
            document_mask: true,
        }
    }

    #[test]
    fn targets_stay_in_documents() {
        let batch = batch();
        assert_eq!(batch.inputs(), [5, 6, 1, 2, 1, 2, 2, 2]);
        assert_eq!(batch.targets(), [6, IGNORE, 2, IGNORE, 2, IGNORE, IGNORE, IGNORE]);
        assert_eq!(batch.n_targets(), 3);
    }

    #[test]
    fn starts_follow_the_mask() {
        let mut batch = batch();
        assert_eq!(batch.document_starts(), [0, 0, 2, 2, 0, 0, 2, 2]);
        batch.document_mask = false;
        assert_eq!(batch.document_starts(), [0; 8]);
    }
}
