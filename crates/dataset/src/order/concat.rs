//! Concatenate and split: all documents one behind the other, cut every `seq_len` tokens.
//!
//! Row `r` holds tokens `r * seq_len ..= (r + 1) * seq_len`: neighbours share one token, so that each token but the first is a
//! target in exactly one row. The last row is filled up with padding.

/// Where each document of the order ends in the concatenation.
#[derive(Debug)]
pub(crate) struct Concat {
    ends: Vec<u64>,
}

impl Concat {
    /// From the lengths of the documents, in order.
    pub(crate) fn new(lens: impl Iterator<Item = u64>) -> Self {
        let mut end = 0;
        let ends = lens.map(|len| {
            end += len;
            end
        });
        Self { ends: ends.collect() }
    }

    /// How many rows.
    pub(crate) fn n_rows(&self, seq_len: usize) -> u64 {
        self.ends.last().map_or(0, |total| (total - 1).div_ceil(seq_len as u64))
    }

    /// The pieces of row `row`: `(place in the order, first token in the document)`, each up to the end of its document or of the row.
    pub(crate) fn pieces(&self, row: u64, seq_len: usize) -> impl Iterator<Item = (u64, u64)> {
        let first = row * seq_len as u64;
        let place = self.ends.partition_point(|&end| end <= first);
        let start = if place == 0 { 0 } else { self.ends[place - 1] };
        let places = place as u64..self.ends.len() as u64;
        places.map(move |k| (k, if k == place as u64 { first - start } else { 0 }))
    }
}
