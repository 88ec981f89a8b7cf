//! Which keys a query sees, and which parts of a block of scores that makes worth computing.

use std::ops::Range;

use burn::backend::flex::FlexTensor;

use super::super::Dims;
use crate::flex_data::integers;

/// Query rows per block. Fixed, as the next two: they decide the order of sums.
pub(super) const ROWS: usize = 64;
/// Queries of a vector.
pub(super) const LANES: usize = 16;
/// Keys of a tile.
pub(super) const KEYS: usize = 8;

/// The causal rule, where it holds, and the starts of documents.
pub(super) struct Visible {
    /// `[b, s]`; none means that all documents start at key 0.
    starts: Option<Vec<usize>>,
    /// Whether queries are the last of the keys and see none after themselves; else they see them to the end.
    causal: bool,
    dims: Dims,
}

/// A block of queries and the keys it sees, counted from the first that any of them sees.
pub(super) struct Block {
    /// The first query of the block.
    pub(super) first: usize,
    /// Its number of queries, at most [`ROWS`].
    pub(super) n: usize,
    /// The first key that any of them sees.
    pub(super) from: usize,
    /// The number of keys from there up to the last that any sees.
    pub(super) width: usize,
    /// Per query the keys it sees; none for the lanes past the last query.
    first_key: [i32; ROWS],
    end_key: [i32; ROWS],
    /// Per vector the keys that any of its queries sees, in whole tiles.
    key_ranges: [Range<usize>; ROWS / LANES],
}

impl Visible {
    /// # Panics
    /// If a document starts before key 0 or after its query; without the causal rule, after the last key, where the query
    /// sees none.
    pub(super) fn new(starts: Option<&FlexTensor>, causal: bool, dims: Dims) -> Self {
        let starts = starts.map(|starts| {
            let checked = |(i, &start): (usize, &i32)| {
                let (b, row) = (i / dims.s, i % dims.s);
                let last = if causal { dims.t - dims.s + row } else { dims.t };
                match usize::try_from(start) {
                    Ok(start) if start <= last => start,
                    _ => panic!(
                        "attention: document_starts[{b}, {row}] is {start}, but must be in 0..={last}"
                    ),
                }
            };
            integers(starts).iter().enumerate().map(checked).collect()
        });
        Self { starts, causal, dims }
    }

    /// The keys that query `row` of sequence `b` sees.
    pub(super) fn keys(&self, b: usize, row: usize) -> Range<usize> {
        let Dims { s, t, .. } = self.dims;
        let end = if self.causal { t - s + row + 1 } else { t };
        self.starts.as_ref().map_or(0, |starts| starts[b * s + row])..end
    }

    /// Block `index` of the queries of sequence `b`.
    pub(super) fn block(&self, b: usize, index: usize) -> Block {
        let first = index * ROWS;
        let n = ROWS.min(self.dims.s - first);
        let from = (0..n).map(|i| self.keys(b, first + i).start).min().unwrap_or(0);
        let width = self.keys(b, first + n - 1).end - from;
        let (mut first_key, mut end_key) = ([0; ROWS], [0; ROWS]);
        for i in 0..n {
            let keys = self.keys(b, first + i);
            (first_key[i], end_key[i]) = ((keys.start - from) as i32, (keys.end - from) as i32);
        }
        let mut key_ranges = std::array::from_fn(|vector| {
            let lanes = (vector * LANES).min(n)..(vector * LANES + LANES).min(n);
            let start = first_key[lanes.clone()].iter().min().map_or(0, |&key| key as usize);
            let end = end_key[lanes].iter().max().map_or(0, |&key| key as usize);
            start / KEYS * KEYS..end.next_multiple_of(KEYS).min(width)
        });
        // Ends grow by the causal rule or are equal. Starts that do, too, make the vectors of a tile neighbours.
        for vector in (1..n.div_ceil(LANES)).rev() {
            let next = key_ranges[vector].start;
            key_ranges[vector - 1].start = key_ranges[vector - 1].start.min(next);
        }
        Block { first, n, from, width, first_key, end_key, key_ranges }
    }
}

impl Block {
    /// The part of the block over at most `n` keys from `start` on, `start` a multiple of [`KEYS`].
    pub(super) fn part(&self, start: usize, n: usize) -> Self {
        let end = (start + n).min(self.width);
        let shift = |keys: &Range<usize>| {
            keys.start.clamp(start, end) - start..keys.end.clamp(start, end) - start
        };
        Self {
            first: self.first,
            n: self.n,
            from: self.from + start,
            width: end - start,
            first_key: self.first_key.map(|key| key - start as i32),
            end_key: self.end_key.map(|key| key - start as i32),
            key_ranges: std::array::from_fn(|vector| shift(&self.key_ranges[vector])),
        }
    }

    /// The queries, rounded up to whole vectors.
    pub(super) fn lanes(&self) -> usize {
        self.n.next_multiple_of(LANES)
    }

    /// Per vector of queries the keys that any of them sees, in whole tiles.
    pub(super) fn key_ranges(&self) -> &[Range<usize>] {
        &self.key_ranges[..self.lanes() / LANES]
    }

    /// The first key that each query of a vector sees, and the end of its keys.
    pub(super) fn lane_keys(&self, vector: usize) -> (&[i32; LANES], &[i32; LANES]) {
        let lanes = vector * LANES..;
        (
            self.first_key[lanes.clone()].first_chunk().expect("a whole vector"),
            self.end_key[lanes].first_chunk().expect("a whole vector"),
        )
    }

    /// The tiles of keys with the vectors of queries of which any sees any of its keys.
    pub(super) fn tiles(&self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        (0..self.width).step_by(KEYS).map(|start| {
            let sees = |keys: &Range<usize>| keys.start <= start && start < keys.end;
            let first = self.key_ranges().iter().position(sees);
            let last = self.key_ranges().iter().rposition(sees);
            let vectors = first.zip(last).map_or(0..0, |(first, last)| first..last + 1);
            (start..(start + KEYS).min(self.width), vectors)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::TensorData;

    fn dims(s: usize, t: usize) -> Dims {
        Dims { b: 1, n_heads: 1, n_kv_heads: 1, s, t, head_dim: 1 }
    }

    /// Every visible pair lies in a tile, each vector of a tile has the tile in its range, and
    /// every tile in a vector's range has the vector.
    fn check(visible: &Visible, s: usize) {
        for index in 0..s.div_ceil(ROWS) {
            let block = visible.block(0, index);
            let mut in_tiles = vec![false; block.width * block.lanes()];
            for (keys, vectors) in block.tiles() {
                for (key, vector) in keys.flat_map(|k| vectors.clone().map(move |v| (k, v))) {
                    assert!(block.key_ranges()[vector].contains(&key));
                    in_tiles[key * block.lanes() + vector * LANES..][..LANES].fill(true);
                }
            }
            for (vector, keys) in block.key_ranges().iter().enumerate() {
                for key in keys.clone() {
                    assert!(in_tiles[key * block.lanes() + vector * LANES]);
                }
            }
            for i in 0..block.n {
                for key in visible.keys(0, block.first + i) {
                    assert!(in_tiles[(key - block.from) * block.lanes() + i]);
                }
            }
        }
    }

    #[test]
    fn tiles_cover_what_is_visible_and_agree_with_the_ranges() {
        for (s, t) in [(1, 1), (1, 9), (64, 64), (65, 65), (100, 333), (257, 257)] {
            for causal in [true, false] {
                check(&Visible::new(None, causal, dims(s, t)), s);
                for seed in 1..20 {
                    let n_starts = |i: usize| if causal { t - s + i + 1 } else { t + 1 };
                    let start = |i: usize| (i * 7919 * seed % 1009) as i32 % n_starts(i) as i32;
                    let starts = TensorData::new((0..s).map(start).collect(), [1, s]);
                    let starts = FlexTensor::from_data(starts);
                    check(&Visible::new(Some(&starts), causal, dims(s, t)), s);
                }
            }
        }
    }

    #[test]
    fn parts_see_what_the_block_sees() {
        let start = |i: usize| (i * 7919 % 1009) as i32 % (33 + i) as i32;
        let starts = TensorData::new((0..100).map(start).collect(), [1, 100]);
        let visible = Visible::new(Some(&FlexTensor::from_data(starts)), true, dims(100, 132));
        for index in 0..2 {
            let block = visible.block(0, index);
            for (n_part, part_start) in (0..block.width).step_by(24).enumerate() {
                let part = block.part(n_part * 24, 24);
                assert_eq!(part.from, block.from + part_start);
                for (vector, keys) in part.key_ranges().iter().enumerate() {
                    for key in 0..part.width {
                        let seen = block.key_ranges()[vector].contains(&(key + part_start));
                        assert_eq!(keys.contains(&key), seen);
                    }
                    assert_eq!(
                        part.lane_keys(vector).0[0] + part_start as i32,
                        block.lane_keys(vector).0[0]
                    );
                }
            }
        }
    }

    #[test]
    fn whole_blocks_cost_little_more_than_the_triangle() {
        let visible = Visible::new(None, true, dims(256, 256));
        let tiles = |index| {
            visible.block(0, index).tiles().map(|(k, v)| k.len() * v.len() * LANES).sum::<usize>()
        };
        let computed: usize = (0..4).map(tiles).sum();
        assert!(computed < 256 * 257 / 2 * 108 / 100, "{computed}");
    }

    #[test]
    #[should_panic(expected = "document_starts[0, 1] is -1")]
    fn starts_are_not_negative() {
        let starts = FlexTensor::from_data(TensorData::new(vec![0i32, -1], [1, 2]));
        Visible::new(Some(&starts), true, dims(2, 2));
    }
}
