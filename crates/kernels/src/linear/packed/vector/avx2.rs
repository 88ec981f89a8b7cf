//! Blocks of 6 by 16 in AVX2 registers: 12 for the block, two for the right factor, one for the left.

use std::arch::x86_64::*;

use super::super::lanes::Lanes;
use super::block::{AHEAD, LINE, vector};
use super::{Vector, pack};

/// The instructions of `avx2` and `fma`.
pub(in super::super) struct Avx2;

vector!(
    Avx2, "avx2,fma", 8, rows 1 2 3 4 5 6,
    half, _mm256_setzero_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_set1_ps, _mm256_fmadd_ps
);
