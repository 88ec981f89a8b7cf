//! Blocks of 14 by 32 in AVX-512 registers: 28 for the block, two for the right factor, one for the left.

use std::arch::x86_64::*;

use super::super::lanes::Lanes;
use super::block::{AHEAD, LINE, vector};
use super::{Vector, pack};

/// The instructions of `avx512f`.
pub(in super::super) struct Avx512;

vector!(
    Avx512, "avx512f", 16, rows 1 2 3 4 5 6 7 8 9 10 11 12 13 14,
    wide, _mm512_setzero_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_set1_ps, _mm512_fmadd_ps
);
