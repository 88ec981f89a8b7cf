//! Number formats of stored weights, and the way between them and our f32.

use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;

/// Rows of a transposition that one task works on: 32 f32 fill two cache lines of the source.
const TILE: usize = 32;

/// The number format of exported weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum WeightDtype {
    /// 32 bits: exact.
    #[default]
    F32,
    /// 16 bits with the range of f32, rounded to nearest, ties to even.
    Bf16,
    /// 16 bits up to 65504, rounded to nearest, ties to even.
    F16,
}

impl WeightDtype {
    /// As `config.json` calls it.
    pub(super) fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
        }
    }

    /// As safetensors calls it; `None` for one that is not read or written.
    pub(super) fn from_safetensors(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F32 => Some(Self::F32),
            Dtype::BF16 => Some(Self::Bf16),
            Dtype::F16 => Some(Self::F16),
            _ => None,
        }
    }

    pub(super) fn safetensors(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::Bf16 => Dtype::BF16,
            Self::F16 => Dtype::F16,
        }
    }

    /// Bytes of an element.
    pub(super) fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }

    /// Whether a finite value becomes infinite in this format.
    pub(super) fn overflows(self, value: f32) -> bool {
        let rounded = match self {
            Self::F32 => return false,
            Self::Bf16 => bf16::from_f32(value).to_f32(),
            Self::F16 => f16::from_f32(value).to_f32(),
        };
        value.is_finite() && !rounded.is_finite()
    }

    /// Little-endian bytes of this format to f32, exactly.
    pub(super) fn decode(self, bytes: &[u8]) -> Vec<f32> {
        let mut values = vec![0.0; bytes.len() / self.size()];
        values
            .par_chunks_mut(1 << 14)
            .zip(bytes.par_chunks(self.size() << 14))
            .for_each(|(values, bytes)| self.decode_into(bytes, values));
        values
    }

    /// f32 to little-endian bytes of this format, rounded to nearest, ties to even.
    pub(super) fn encode(self, values: &[f32]) -> Vec<u8> {
        let mut bytes = vec![0; values.len() * self.size()];
        bytes.par_chunks_mut(self.size() << 14).zip(values.par_chunks(1 << 14)).for_each(
            |(bytes, values)| match self {
                Self::F32 => each(bytes, values, f32::to_le_bytes),
                Self::Bf16 => each(bytes, values, |v| bf16::from_f32(v).to_le_bytes()),
                Self::F16 => each(bytes, values, |v| f16::from_f32(v).to_le_bytes()),
            },
        );
        bytes
    }

    fn decode_into(self, bytes: &[u8], values: &mut [f32]) {
        match self {
            Self::F32 => fill(bytes, values, f32::from_le_bytes),
            Self::Bf16 => fill(bytes, values, |b| bf16::from_le_bytes(b).to_f32()),
            Self::F16 => fill(bytes, values, |b| f16::from_le_bytes(b).to_f32()),
        }
    }
}

fn fill<const N: usize>(bytes: &[u8], values: &mut [f32], convert: impl Fn([u8; N]) -> f32) {
    for (bytes, value) in bytes.as_chunks::<N>().0.iter().zip(values) {
        *value = convert(*bytes);
    }
}

fn each<const N: usize>(bytes: &mut [u8], values: &[f32], convert: impl Fn(f32) -> [u8; N]) {
    for (bytes, value) in bytes.as_chunks_mut::<N>().0.iter_mut().zip(values) {
        *bytes = convert(*value);
    }
}

/// The transpose of a row-major `[rows, columns]` matrix.
pub(super) fn transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    assert_eq!(values.len(), rows * columns, "a [{rows}, {columns}] matrix");
    let mut out = vec![0.0; values.len()];
    out.par_chunks_mut(TILE * rows).enumerate().for_each(|(tile, out)| {
        let first = tile * TILE;
        let width = out.len() / rows;
        for (row, values) in values.chunks_exact(columns).enumerate() {
            for (i, value) in values[first..first + width].iter().enumerate() {
                out[i * rows + row] = *value;
            }
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bf16_rounds_to_nearest_and_ties_to_even() {
        // 1 + 2^-8 lies halfway between 1 (even) and 1 + 2^-7; 1 + 3 * 2^-8 between 1 + 2^-7 and 1 + 2^-6 (even).
        let cases: [(f32, u16); 6] = [
            (1.0 + 2f32.powi(-8), 0x3f80),
            (1.0 + 3.0 * 2f32.powi(-8), 0x3f82),
            (1.0 + 2f32.powi(-8) + 2f32.powi(-20), 0x3f81),
            (-(1.0 + 2f32.powi(-8)), 0xbf80),
            (f32::INFINITY, 0x7f80),
            (0.0, 0x0000),
        ];
        for (value, bits) in cases {
            assert_eq!(WeightDtype::Bf16.encode(&[value]), bits.to_le_bytes(), "{value}");
        }
        assert!(
            bf16::from_bits(u16::from_le_bytes(
                WeightDtype::Bf16.encode(&[f32::NAN]).try_into().unwrap()
            ))
            .is_nan()
        );
    }

    #[test]
    fn what_cannot_be_held_is_noticed() {
        assert!(WeightDtype::F16.overflows(65520.0) && !WeightDtype::F16.overflows(65504.0));
        assert!(WeightDtype::Bf16.overflows(f32::MAX) && !WeightDtype::Bf16.overflows(1e38));
        assert!(
            !WeightDtype::F16.overflows(f32::INFINITY) && !WeightDtype::F32.overflows(f32::MAX)
        );
    }

    proptest! {
        #[test]
        fn what_a_format_holds_comes_back(bits in any::<u16>()) {
            for dtype in [WeightDtype::Bf16, WeightDtype::F16] {
                let value = dtype.decode(&bits.to_le_bytes());
                if !value[0].is_nan() {
                    prop_assert_eq!(dtype.encode(&value), bits.to_le_bytes());
                }
            }
        }

        #[test]
        fn transposition_moves_every_element(rows in 1usize..70, columns in 1usize..70) {
            let values: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
            let out = transpose(&values, rows, columns);
            for row in 0..rows {
                for column in 0..columns {
                    prop_assert_eq!(out[column * rows + row], values[row * columns + column]);
                }
            }
        }
    }
}
