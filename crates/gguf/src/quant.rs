//! How numbers are stored, and their way to f32.
//!
//! A quantised row is cut into blocks of 32 or 256 numbers, each with its own scales. The arithmetic is in f32 and in the
//! order of ggml's `dequantize_row_*`, so the numbers are the same bits.
//!
//! # Reference
//! `ggml/src/ggml-common.h` (block layouts) and `ggml/src/ggml-quants.c` (formulas) of ggml-org/llama.cpp.

use std::fmt;

use half::{bf16, f16};
use rayon::prelude::*;

/// The storage of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, reason = "the names of the format")]
#[non_exhaustive]
pub enum Quant {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// 16-bit floats with the range of f32.
    Bf16,
    /// 32 numbers `d q`, `q` of 4 bits from -8.
    Q4_0,
    /// 32 numbers `d q + m`, `q` of 4 bits.
    Q4_1,
    /// 32 numbers `d q`, `q` of 5 bits from -16.
    Q5_0,
    /// 32 numbers `d q + m`, `q` of 5 bits.
    Q5_1,
    /// 32 numbers `d q`, `q` of 8 bits.
    Q8_0,
    /// 256 numbers, `q` of 4 bits, a scale and a minimum of 6 bits for every 32.
    Q4_K,
    /// 256 numbers, `q` of 5 bits, a scale and a minimum of 6 bits for every 32.
    Q5_K,
    /// 256 numbers, `q` of 6 bits from -32, a scale of 8 bits for every 16.
    Q6_K,
}

/// Blocks that one task decodes.
const TASK_BLOCKS: usize = 1 << 10;

impl Quant {
    /// The type with ggml's number `code`, if it is decoded here.
    pub(crate) fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            12 => Self::Q4_K,
            13 => Self::Q5_K,
            14 => Self::Q6_K,
            30 => Self::Bf16,
            _ => return None,
        })
    }

    /// What ggml calls a type that is not decoded.
    pub(crate) fn name_of(code: u32) -> String {
        let name = match code {
            9 => "Q8_1",
            10 => "Q2_K",
            11 => "Q3_K",
            15 => "Q8_K",
            16 => "IQ2_XXS",
            17 => "IQ2_XS",
            18 => "IQ3_XXS",
            19 => "IQ1_S",
            20 => "IQ4_NL",
            21 => "IQ3_S",
            22 => "IQ2_S",
            23 => "IQ4_XS",
            24 => "I8",
            25 => "I16",
            26 => "I32",
            27 => "I64",
            28 => "F64",
            29 => "IQ1_M",
            34 => "TQ1_0",
            35 => "TQ2_0",
            39 => "MXFP4",
            _ => return format!("number {code}"),
        };
        name.to_owned()
    }

    /// Numbers of a block.
    pub fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q4_K | Self::Q5_K | Self::Q6_K => 256,
            _ => 32,
        }
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q4_0 => 2 + 16,
            Self::Q4_1 => 4 + 16,
            Self::Q5_0 => 2 + 4 + 16,
            Self::Q5_1 => 4 + 4 + 16,
            Self::Q8_0 => 2 + 32,
            Self::Q4_K => 4 + 12 + 128,
            Self::Q5_K => 4 + 12 + 32 + 128,
            Self::Q6_K => 128 + 64 + 16 + 2,
        }
    }

    /// The numbers of whole blocks, on all cores.
    ///
    /// # Panics
    /// If the bytes are no whole number of blocks.
    pub fn decode(self, bytes: &[u8]) -> Vec<f32> {
        let (size, n) = (self.block_bytes(), self.block_len());
        assert!(
            bytes.len().is_multiple_of(size),
            "{} bytes are whole blocks of {size}",
            bytes.len()
        );
        let mut values = vec![0.0; bytes.len() / size * n];
        values.par_chunks_mut(n * TASK_BLOCKS).zip(bytes.par_chunks(size * TASK_BLOCKS)).for_each(
            |(values, bytes)| {
                for (values, block) in values.chunks_exact_mut(n).zip(bytes.chunks_exact(size)) {
                    self.block(block, values);
                }
            },
        );
        values
    }

    fn block(self, block: &[u8], y: &mut [f32]) {
        match self {
            Self::F32 => y[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]),
            Self::F16 => y[0] = half_at(block, 0),
            Self::Bf16 => y[0] = bf16::from_le_bytes([block[0], block[1]]).to_f32(),
            Self::Q4_0 => nibbles(&block[2..], [0; 4], half_at(block, 0), -8.0, 0.0, y),
            Self::Q4_1 => {
                nibbles(&block[4..], [0; 4], half_at(block, 0), 0.0, half_at(block, 2), y)
            }
            Self::Q5_0 => nibbles(&block[6..], four(block, 2), half_at(block, 0), -16.0, 0.0, y),
            Self::Q5_1 => {
                nibbles(&block[8..], four(block, 4), half_at(block, 0), 0.0, half_at(block, 2), y);
            }
            Self::Q8_0 => {
                let d = half_at(block, 0);
                for (y, q) in y.iter_mut().zip(&block[2..]) {
                    *y = f32::from(q.cast_signed()) * d;
                }
            }
            Self::Q4_K => k_block(block, &[0; 32], &block[16..], y),
            Self::Q5_K => k_block(block, &block[16..48], &block[48..], y),
            Self::Q6_K => six(block, y),
        }
    }
}

impl fmt::Display for Quant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bf16 => write!(f, "BF16"),
            other => write!(f, "{other:?}"),
        }
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn four(block: &[u8], at: usize) -> [u8; 4] {
    [block[at], block[at + 1], block[at + 2], block[at + 3]]
}

/// 32 numbers: the low halves of 16 bytes, then the high ones, with a fifth bit each from `fifth`.
fn nibbles(bytes: &[u8], fifth: [u8; 4], d: f32, from: f32, m: f32, y: &mut [f32]) {
    let fifth = u32::from_le_bytes(fifth);
    let bit = |i: usize| (fifth >> i & 1) as u8 * 16;
    for (j, byte) in bytes.iter().take(16).enumerate() {
        y[j] = (f32::from(byte & 0xf | bit(j)) + from) * d + m;
        y[j + 16] = (f32::from(byte >> 4 | bit(j + 16)) + from) * d + m;
    }
}

/// `Q4_K` and `Q5_K`: eight groups of 32; two groups share 32 bytes, and every group has a bit of each byte of `fifth`.
fn k_block(block: &[u8], fifth: &[u8], quants: &[u8], y: &mut [f32]) {
    let (d, d_min) = (half_at(block, 0), half_at(block, 2));
    let packed = &block[4..16];
    for (group, y) in y.chunks_exact_mut(32).enumerate() {
        let (scale, min) = if group < 4 {
            (packed[group] & 63, packed[group + 4] & 63)
        } else {
            (
                packed[group + 4] & 0xf | packed[group - 4] >> 6 << 4,
                packed[group + 4] >> 4 | packed[group] >> 6 << 4,
            )
        };
        let (scale, min) = (d * f32::from(scale), d_min * f32::from(min));
        let bytes = &quants[group / 2 * 32..][..32];
        for (i, y) in y.iter_mut().enumerate() {
            let low = if group % 2 == 0 { bytes[i] & 0xf } else { bytes[i] >> 4 };
            let q = low + (fifth[i] >> group & 1) * 16;
            *y = scale * f32::from(q) - min;
        }
    }
}

fn six(block: &[u8], y: &mut [f32]) {
    let d = half_at(block, 208);
    for (half, y) in y.chunks_exact_mut(128).enumerate() {
        let (low, high) = (&block[half * 64..][..64], &block[128 + half * 32..][..32]);
        let scales = &block[192 + half * 8..][..8];
        for (i, y) in y.iter_mut().enumerate() {
            let (quarter, l) = (i / 32, i % 32);
            let byte = low[l + quarter % 2 * 32];
            let nibble = if quarter < 2 { byte & 0xf } else { byte >> 4 };
            let q = (nibble | (high[l] >> (2 * quarter) & 3) << 4).cast_signed() - 32;
            let scale = scales[i / 16].cast_signed();
            *y = d * f32::from(scale) * f32::from(q);
        }
    }
}
