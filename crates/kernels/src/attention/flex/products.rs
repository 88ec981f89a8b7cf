//! The matrix products of a block, in register tiles, skipping what no query sees.
//!
//! Scores lie transposed, `[keys, queries]` with [`LANES`](super::visible::LANES) queries to a
//! vector: the softmax then runs down the vectors without sums across lanes, only the few queries
//! are ever transposed, and keys and values are read where they lie.
//!
//! All three are `out[m, n] += a[m, k] b[k, n]`, elements of `a` spread over a vector and rows of `b`
//! read as vectors; each element of `out` is summed over `k` in order, so bits do not depend on the
//! tiles.
#![allow(unsafe_code)] // pointers into views whose bounds are checked once per product

#[cfg(target_arch = "x86_64")]
use super::lanes::{Avx2, Avx512};
use super::lanes::{Lanes, Plain};
use super::matrix::Rows;
use super::visible::{Block, KEYS, LANES};
#[cfg(target_arch = "x86_64")]
use crate::simd::{Isa, isa};

/// Keys per pass of [`add_over_keys`]: their probabilities and values stay in the first cache while
/// all queries use them.
const NEAR_KEYS: usize = 64;

/// Declares a function that runs the best instance of a generic body for this CPU.
macro_rules! for_this_cpu {
    ($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) = $body:ident) => {
        $(#[$doc])*
        pub(super) fn $name($($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
                fn v4($($arg: $ty),*) { $body::<Avx512>($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn v3($($arg: $ty),*) { $body::<Avx2>($($arg),*) }
                match isa() {
                    // SAFETY: `isa` found every feature of the instance on this CPU.
                    Isa::V4 => return unsafe { v4($($arg),*) },
                    // SAFETY: as above.
                    Isa::V3 => return unsafe { v3($($arg),*) },
                    Isa::Baseline => {}
                }
            }
            $body::<Plain>($($arg),*)
        }
    };
}

for_this_cpu!(
    /// `scores[key, query] = keys[key] . queries[.., query]` for the tiles that the block sees.
    ///
    /// `keys` starts at the block's first key; `queries` is `[head_dim, block.lanes()]`.
    fn scores(block: &Block, keys: Rows<'_>, queries: &[f32], scores: &mut [f32]) = scores_body
);
for_this_cpu!(
    /// `out[query] += sum of p[key, query] values[key]` over the keys that the query's vector sees.
    ///
    /// `values` starts at the block's first key, its width a multiple of [`LANES`]; `out` is
    /// `[block.lanes(), width]`.
    fn add_over_keys(block: &Block, p: &[f32], values: Rows<'_>, out: &mut [f32]) = over_keys_body
);
for_this_cpu!(
    /// `out[key] += sum of p[key, query] rows[query]` over the vectors that see the key's tile.
    ///
    /// `rows` is `[block.lanes(), width]`, the width a multiple of [`LANES`]; `out` is
    /// `[block.width, width]`.
    fn add_over_queries(block: &Block, p: &[f32], rows: &[f32], out: &mut [f32]) = over_queries_body
);

#[inline(always)]
fn scores_body<L: Lanes>(block: &Block, keys: Rows<'_>, queries: &[f32], scores: &mut [f32]) {
    let lanes = block.lanes();
    let head_dim = queries.len() / lanes;
    keys.check(block.width, head_dim);
    assert_eq!(scores.len(), block.width * lanes, "one score per key and lane");
    for (tile, vectors) in block.tiles() {
        let product = Product {
            k: head_dim,
            a: keys.at(tile.start),
            a_row: keys.stride,
            a_k: 1,
            b: queries[vectors.start * LANES..].as_ptr(),
            b_k: lanes as isize,
            out: scores[tile.start * lanes + vectors.start * LANES..].as_mut_ptr(),
            out_row: lanes,
            add: false,
        };
        // SAFETY: the keys of the tile and the vectors lie within the checked sizes.
        unsafe { product.run::<L>(tile.len(), vectors.len()) };
    }
}

#[inline(always)]
fn over_keys_body<L: Lanes>(block: &Block, p: &[f32], values: Rows<'_>, out: &mut [f32]) {
    let lanes = block.lanes();
    let width = out.len() / lanes;
    values.check(block.width, width);
    assert!(p.len() == block.width * lanes && width.is_multiple_of(LANES), "sizes fit");
    for start in (0..block.width).step_by(NEAR_KEYS) {
        for (vector, keys) in block.key_ranges().iter().enumerate() {
            let keys = keys.start.max(start)..keys.end.min(start + NEAR_KEYS);
            if keys.is_empty() {
                continue;
            }
            let product = Product {
                k: keys.len(),
                a: p[keys.start * lanes + vector * LANES..].as_ptr(),
                a_row: 1,
                a_k: lanes as isize,
                b: values.at(keys.start),
                b_k: values.stride,
                out: out[vector * LANES * width..].as_mut_ptr(),
                out_row: width,
                add: true,
            };
            // SAFETY: the vector's queries and keys lie within the checked sizes.
            unsafe { product.run::<L>(LANES, width / LANES) };
        }
    }
}

#[inline(always)]
fn over_queries_body<L: Lanes>(block: &Block, p: &[f32], rows: &[f32], out: &mut [f32]) {
    let lanes = block.lanes();
    let width = rows.len() / lanes;
    assert!(p.len() == block.width * lanes && out.len() == block.width * width, "sizes fit");
    assert!(width.is_multiple_of(LANES), "whole vectors");
    for (tile, vectors) in block.tiles() {
        let product = Product {
            k: vectors.len() * LANES,
            a: p[tile.start * lanes + vectors.start * LANES..].as_ptr(),
            a_row: lanes as isize,
            a_k: 1,
            b: rows[vectors.start * LANES * width..].as_ptr(),
            b_k: width as isize,
            out: out[tile.start * width..].as_mut_ptr(),
            out_row: width,
            add: true,
        };
        // SAFETY: the keys of the tile and the vectors lie within the checked sizes.
        unsafe { product.run::<L>(tile.len(), width / LANES) };
    }
}

/// `out[m, n] (+)= a[m, k] b[k, n]`, rows of `b` and `out` dense.
#[derive(Clone, Copy)]
struct Product {
    k: usize,
    a: *const f32,
    a_row: isize,
    a_k: isize,
    b: *const f32,
    b_k: isize,
    out: *mut f32,
    out_row: usize,
    add: bool,
}

impl Product {
    /// Runs it for `m` rows (at most [`KEYS`] or [`LANES`]) and `n` vectors.
    ///
    /// # Safety
    /// The pointers must cover these sizes, and the CPU must have the instructions of `L`.
    #[inline(always)]
    unsafe fn run<L: Lanes>(self, m: usize, n: usize) {
        debug_assert!(m <= KEYS || m == LANES, "a tile of keys or a vector of queries");
        let mut done = 0;
        while done < n {
            // Four vectors go as two pairs: a tile of one row and one vector would wait for itself.
            let left = n - done;
            let take = if left == 4 { 2 } else { left };
            let take = take.min(L::VECTORS);
            // SAFETY: the part lies within the caller's sizes.
            unsafe {
                let part =
                    Self { b: self.b.add(done * LANES), out: self.out.add(done * LANES), ..self };
                match take {
                    1 => part.rows::<L, 1>(m),
                    2 => part.rows::<L, 2>(m),
                    _ => part.rows::<L, 3>(m),
                }
            }
            done += take;
        }
    }

    #[inline(always)]
    unsafe fn rows<L: Lanes, const N: usize>(self, m: usize) {
        let mut row = 0;
        // SAFETY: each tile lies within the caller's sizes.
        unsafe {
            while m - row >= 8 && L::ROWS >= 8 {
                self.skip_rows(row).tile::<L, 8, N>();
                row += 8;
            }
            while m - row >= 4 {
                self.skip_rows(row).tile::<L, 4, N>();
                row += 4;
            }
            while m - row >= 1 {
                self.skip_rows(row).tile::<L, 1, N>();
                row += 1;
            }
        }
    }

    #[inline(always)]
    unsafe fn skip_rows(self, row: usize) -> Self {
        // SAFETY: the row lies within the caller's sizes.
        unsafe {
            Self {
                a: self.a.offset(row as isize * self.a_row),
                out: self.out.add(row * self.out_row),
                ..self
            }
        }
    }

    /// `M` rows of `N` vectors, summed in registers.
    #[inline(always)]
    unsafe fn tile<L: Lanes, const M: usize, const N: usize>(self) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut sums = [[L::splat(0.0); N]; M];
            if self.add {
                for (i, sums) in sums.iter_mut().enumerate() {
                    for (v, sum) in sums.iter_mut().enumerate() {
                        *sum = L::load(self.out.add(i * self.out_row + v * LANES));
                    }
                }
            }
            let (mut a, mut b) = (self.a, self.b);
            for _ in 0..self.k {
                let mut row = [L::splat(0.0); N];
                for (v, row) in row.iter_mut().enumerate() {
                    *row = L::load(b.add(v * LANES));
                }
                for (i, sums) in sums.iter_mut().enumerate() {
                    let x = L::splat(*a.offset(i as isize * self.a_row));
                    for (sum, &row) in sums.iter_mut().zip(&row) {
                        *sum = x.madd(row, *sum);
                    }
                }
                a = a.wrapping_offset(self.a_k);
                b = b.wrapping_offset(self.b_k);
            }
            for (i, sums) in sums.iter().enumerate() {
                for (v, &sum) in sums.iter().enumerate() {
                    sum.store(self.out.add(i * self.out_row + v * LANES));
                }
            }
        }
    }
}
