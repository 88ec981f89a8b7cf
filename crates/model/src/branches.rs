//! Texts that share beginnings, as one row of tokens.

use std::ops::Range;

use burn::tensor::Tensor;
use caravan_kernels::Kernels;
use rayon::prelude::*;

use crate::block::merged;

/// Parts of texts, one after the other in a row of tokens. A part goes on with another one, its parent, or begins a text:
/// what several texts have in common is there once, and no place is left empty.
///
/// ```
/// # use caravan_model::Branches;
/// let mut branches = Branches::default();
/// let question = branches.add(None, 12);
/// let answers = [3, 5].map(|len| branches.add(Some(question), len));
/// assert_eq!(branches.range(answers[1]), 15..20);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Branches {
    parts: Vec<Part>,
    n_tokens: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    parent: Option<usize>,
    /// Its tokens in the row.
    range: Range<usize>,
    /// The position of its first token in its text.
    position: usize,
}

impl Branches {
    /// Adds a part of `len` tokens behind those that are there, and returns its index.
    ///
    /// # Panics
    /// If the part is empty or there is no such parent.
    pub fn add(&mut self, parent: Option<usize>, len: usize) -> usize {
        assert!(len > 0, "a part has a token");
        let position = parent.map_or(0, |parent| self.parts[parent].end());
        let range = self.n_tokens..self.n_tokens + len;
        self.n_tokens = range.end;
        self.parts.push(Part { parent, range, position });
        self.parts.len() - 1
    }

    /// The tokens of a part in the row.
    ///
    /// # Panics
    /// If there is no such part.
    pub fn range(&self, part: usize) -> Range<usize> {
        self.parts[part].range.clone()
    }

    /// Tokens of the row.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Each part's positions in its text.
    pub fn positions(&self) -> Vec<Range<usize>> {
        self.parts.iter().map(|part| part.position..part.end()).collect()
    }

    /// Causal attention of every part to itself and to what it goes on with.
    ///
    /// # Shapes
    /// - q: `[1, n_heads, n_tokens, head_dim]`
    /// - k, v: `[1, n_kv_heads, n_tokens, head_dim]`
    /// - returns `[1, n_tokens, n_heads * head_dim]`
    pub(crate) fn attend(
        &self,
        kernels: Kernels,
        q: &Tensor<4>,
        k: &Tensor<4>,
        v: &Tensor<4>,
    ) -> Tensor<3> {
        let of_part = |part: usize| {
            let range = self.range(part);
            let q = q.clone().narrow(2, range.start, range.len());
            let seen = self.seen(part);
            let of = |x: &Tensor<4>| {
                let pieces = seen.iter().map(|r| x.clone().narrow(2, r.start, r.len()));
                let mut pieces: Vec<_> = pieces.collect();
                if pieces.len() == 1 { pieces.remove(0) } else { Tensor::cat(pieces, 2) }
            };
            merged(kernels.attention(q, of(k), of(v), None))
        };
        // One by one they are too small for all threads.
        let mixed: Vec<Tensor<3>> = (0..self.parts.len()).into_par_iter().map(of_part).collect();
        Tensor::cat(mixed, 1)
    }

    /// Where the tokens that a part sees lie in the row, neighbours together.
    fn seen(&self, part: usize) -> Vec<Range<usize>> {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        let mut next = Some(part);
        while let Some(index) = next {
            let Part { parent, range, .. } = &self.parts[index];
            match ranges.last_mut().filter(|later| range.end == later.start) {
                Some(later) => later.start = range.start,
                None => ranges.push(range.clone()),
            }
            next = *parent;
        }
        ranges.reverse();
        ranges
    }
}

impl Part {
    fn end(&self) -> usize {
        self.position + self.range.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_sees_its_text_alone() {
        let mut branches = Branches::default();
        let question = branches.add(None, 4);
        let first = branches.add(Some(question), 2);
        let second = branches.add(Some(question), 3);
        let other = branches.add(None, 5);
        let deeper = branches.add(Some(second), 1);
        assert_eq!(branches.n_tokens(), 15);
        assert_eq!(branches.positions(), [0..4, 4..6, 4..7, 0..5, 7..8]);
        // What lies side by side is one range.
        let seen = |part| -> Vec<(usize, usize)> {
            branches.seen(part).into_iter().map(|range| (range.start, range.end)).collect()
        };
        assert_eq!(seen(first), [(0, 6)]);
        assert_eq!(seen(second), [(0, 4), (6, 9)]);
        assert_eq!(seen(other), [(9, 14)]);
        assert_eq!(seen(deeper), [(0, 4), (6, 9), (14, 15)]);
    }
}
