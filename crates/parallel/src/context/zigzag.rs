//! Which positions a rank holds, and what its queries see of another rank's keys.

use std::ops::Range;

use crate::ParallelError;
use crate::mutation;

/// The positions of a sequence that a rank of the context axis holds, ascending: its columns, in order.
///
/// # Errors
/// If `seq_len` is no multiple of `2 * size` (a single rank takes any).
///
/// # Panics
/// If there is no such rank.
pub fn local_positions(
    rank: usize,
    size: usize,
    seq_len: usize,
) -> Result<Vec<usize>, ParallelError> {
    Ok(local_ranges(rank, size, seq_len)?.into_iter().flatten().collect())
}

/// The rank that holds a position of a sequence, and the column it has there: the inverse of [`local_positions`].
///
/// # Errors
/// As [`local_positions`].
///
/// # Panics
/// If the sequence has no such position.
pub fn owner(
    position: usize,
    size: usize,
    seq_len: usize,
) -> Result<(usize, usize), ParallelError> {
    assert!(position < seq_len, "position {position} of {seq_len}");
    let ranges = |rank| local_ranges(rank, size, seq_len);
    for rank in 0..size {
        let mut before = 0;
        for range in ranges(rank)? {
            if range.contains(&position) {
                return Ok((rank, before + position - range.start));
            }
            before += range.len();
        }
    }
    unreachable!("the ranks hold every position")
}

/// As [`local_positions`], as ranges.
pub(super) fn local_ranges(
    rank: usize,
    size: usize,
    seq_len: usize,
) -> Result<Vec<Range<usize>>, ParallelError> {
    assert!(rank < size, "rank {rank} of {size}");
    if size == 1 {
        return Ok(vec![Range { start: 0, end: seq_len }]);
    }
    if seq_len == 0 || !seq_len.is_multiple_of(2 * size) {
        return Err(ParallelError::SequenceSplit { seq_len, ranks: size });
    }
    let n = seq_len / (2 * size);
    Ok(chunks(rank, size).map(|chunk| chunk * n..(chunk + 1) * n).to_vec())
}

/// A rank's chunks of the `2 * size`, ascending.
///
/// Rank `r` sees `r` chunks before its first and `2 size - 1 - r` before its second, the same sum for every rank.
pub(super) fn chunks(rank: usize, size: usize) -> [usize; 2] {
    if mutation::on("context_unbalanced") {
        return [2 * rank, 2 * rank + 1];
    }
    [rank, 2 * size - 1 - rank]
}

/// A rectangle of scores: rows of a rank's queries with chunks of another's keys, or its own triangle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Local rows.
    pub(super) queries: Range<usize>,
    /// Local rows of the keys' rank.
    pub(super) keys: Range<usize>,
    /// The chunks that these are.
    pub(super) key_chunks: Vec<usize>,
    /// The triangle; else every query comes after every key.
    pub(super) causal: bool,
}

/// What the queries of a rank see of the keys of rank `keys`, with chunks of `n` positions.
pub(super) fn parts(queries: usize, keys: usize, size: usize, n: usize) -> Vec<Part> {
    let key_chunks = chunks(keys, size);
    if queries == keys {
        let (rows, key_chunks) = (0..2 * n, key_chunks.to_vec());
        return vec![Part { queries: rows.clone(), keys: rows, key_chunks, causal: true }];
    }
    // Of ascending chunks a query sees the first few.
    let seen = chunks(queries, size).map(|own| key_chunks.iter().filter(|key| **key < own).count());
    let part = |first_row: usize, keys: Range<usize>| Part {
        queries: first_row..2 * n,
        keys: keys.start * n..keys.end * n,
        key_chunks: key_chunks[keys].to_vec(),
        causal: false,
    };
    let parts = [part(0, 0..seen[0]), part(n, seen[0]..seen[1])];
    parts.into_iter().filter(|part| !part.keys.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_position_has_one_owner() {
        for size in 1..6 {
            for n in [1, 3] {
                let seq_len = 2 * size * n;
                let mut held = vec![0; seq_len];
                for rank in 0..size {
                    let positions = local_positions(rank, size, seq_len).unwrap();
                    assert_eq!(positions.len(), 2 * n);
                    assert!(positions.is_sorted());
                    for (column, position) in positions.into_iter().enumerate() {
                        held[position] += 1;
                        assert_eq!(owner(position, size, seq_len).unwrap(), (rank, column));
                    }
                }
                assert_eq!(held, vec![1; seq_len]);
            }
        }
        assert_eq!(local_positions(1, 2, 8).unwrap(), [2, 3, 4, 5]);
        assert_eq!(local_positions(0, 1, 7).unwrap(), [0, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn uneven_sequences_are_refused() {
        for seq_len in [0, 4, 9] {
            let error = local_positions(0, 3, seq_len).unwrap_err();
            assert!(
                matches!(error, ParallelError::SequenceSplit { seq_len: n, ranks: 3 } if n == seq_len),
                "{error}"
            );
        }
    }

    /// Every pair of the causal triangle is in exactly one part, and no other pair is in any.
    #[test]
    fn parts_tile_the_triangle() {
        for size in 2..6 {
            let n = 2;
            let seq_len = 2 * size * n;
            let positions: Vec<_> =
                (0..size).map(|r| local_positions(r, size, seq_len).unwrap()).collect();
            let mut seen = vec![0; seq_len * seq_len];
            for (q, k) in (0..size).flat_map(|q| (0..size).map(move |k| (q, k))) {
                for part in parts(q, k, size, n) {
                    assert_eq!(part.keys.len(), part.key_chunks.len() * n);
                    for (i, j) in
                        part.queries.clone().flat_map(|i| part.keys.clone().map(move |j| (i, j)))
                    {
                        if !part.causal || j <= i {
                            seen[positions[q][i] * seq_len + positions[k][j]] += 1;
                        }
                    }
                }
            }
            for (at, times) in seen.into_iter().enumerate() {
                assert_eq!(times, usize::from(at % seq_len <= at / seq_len), "{size} {at}");
            }
        }
    }
}
