//! What can be sent, and how it is reduced.

use half::bf16;

/// An element type that travels between ranks.
pub trait Element: bytemuck::Pod + Send + Sync + private::Sealed {
    /// Its number format.
    const DTYPE: DType;
}

mod private {
    pub trait Sealed {}
}

/// The number formats that travel between ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DType {
    /// Unsigned byte.
    U8,
    /// Signed, 32 bits.
    I32,
    /// Unsigned, 32 bits.
    U32,
    /// Signed, 64 bits.
    I64,
    /// Unsigned, 64 bits.
    U64,
    /// Float, 32 bits.
    F32,
    /// Float, 64 bits.
    F64,
    /// Brain float, 16 bits.
    Bf16,
}

impl DType {
    /// All of them, in the order of their codes.
    pub const ALL: [Self; 8] =
        [Self::U8, Self::I32, Self::U32, Self::I64, Self::U64, Self::F32, Self::F64, Self::Bf16];

    /// Its name in Rust, such as `f32`.
    pub fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::I32 => "i32",
            Self::U32 => "u32",
            Self::I64 => "i64",
            Self::U64 => "u64",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Bf16 => "bf16",
        }
    }

    /// Bytes of one element.
    pub fn n_bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::Bf16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::I64 | Self::U64 | Self::F64 => 8,
        }
    }
}

/// How the values of all ranks become one.
///
/// Integers wrap around in a sum. A sum of bf16 is taken in f32 and rounded once. With a NaN among
/// the values, maximum and minimum are not specified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReduceOp {
    /// Their sum.
    Sum,
    /// The largest.
    Max,
    /// The smallest.
    Min,
}

/// Reduces `parts`, one per rank and all as long as `out`, element by element in the order given.
///
/// `out` holds whole, aligned elements of `dtype`; the parts may lie anywhere.
pub(crate) fn reduce(op: ReduceOp, dtype: DType, parts: &[&[u8]], out: &mut [u8]) {
    match dtype {
        DType::U8 => reduce_as::<u8>(op, parts, out),
        DType::I32 => reduce_as::<i32>(op, parts, out),
        DType::U32 => reduce_as::<u32>(op, parts, out),
        DType::I64 => reduce_as::<i64>(op, parts, out),
        DType::U64 => reduce_as::<u64>(op, parts, out),
        DType::F32 => reduce_as::<f32>(op, parts, out),
        DType::F64 => reduce_as::<f64>(op, parts, out),
        DType::Bf16 => reduce_as::<bf16>(op, parts, out),
    }
}

/// Elements that are reduced at a time, so that the accumulators stay in the first cache.
const BLOCK: usize = 1024;

fn reduce_as<T: Reduce>(op: ReduceOp, parts: &[&[u8]], out: &mut [u8]) {
    let out: &mut [T] = bytemuck::cast_slice_mut(out);
    let Some((first, others)) = parts.split_first() else { return };
    let mut accumulators = [T::default().widen(); BLOCK];
    for (block, out) in out.chunks_mut(BLOCK).enumerate() {
        let accumulators = &mut accumulators[..out.len()];
        let start = block * BLOCK * size_of::<T>();
        let bytes = start..start + size_of_val(out);
        for (accumulator, value) in
            accumulators.iter_mut().zip(elements::<T>(&first[bytes.clone()]))
        {
            *accumulator = value.widen();
        }
        for part in others {
            let values = accumulators.iter_mut().zip(elements::<T>(&part[bytes.clone()]));
            match op {
                ReduceOp::Sum => values.for_each(|(a, b)| *a = T::add(*a, b.widen())),
                ReduceOp::Max => values.for_each(|(a, b)| *a = T::max(*a, b.widen())),
                ReduceOp::Min => values.for_each(|(a, b)| *a = T::min(*a, b.widen())),
            }
        }
        for (out, accumulator) in out.iter_mut().zip(&*accumulators) {
            *out = T::narrow(*accumulator);
        }
    }
}

fn elements<T: bytemuck::AnyBitPattern>(bytes: &[u8]) -> impl Iterator<Item = T> + '_ {
    bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned)
}

/// The arithmetic of a reduction, in a format at least as wide as the element.
trait Reduce: Element + Default {
    type Wide: Copy;
    fn widen(self) -> Self::Wide;
    fn narrow(wide: Self::Wide) -> Self;
    fn add(a: Self::Wide, b: Self::Wide) -> Self::Wide;
    fn max(a: Self::Wide, b: Self::Wide) -> Self::Wide;
    fn min(a: Self::Wide, b: Self::Wide) -> Self::Wide;
}

macro_rules! element {
    ($element:ty, $dtype:expr, $wide:ty, $widen:expr, $narrow:expr, $add:expr) => {
        impl private::Sealed for $element {}
        impl Element for $element {
            const DTYPE: DType = $dtype;
        }
        impl Reduce for $element {
            type Wide = $wide;
            fn widen(self) -> $wide {
                $widen(self)
            }
            fn narrow(wide: $wide) -> Self {
                $narrow(wide)
            }
            fn add(a: $wide, b: $wide) -> $wide {
                $add(a, b)
            }
            fn max(a: $wide, b: $wide) -> $wide {
                a.max(b)
            }
            fn min(a: $wide, b: $wide) -> $wide {
                a.min(b)
            }
        }
    };
    ($element:ty, $dtype:expr, $add:expr) => {
        element!($element, $dtype, $element, |x| x, |x| x, $add);
    };
}

element!(u8, DType::U8, u8::wrapping_add);
element!(i32, DType::I32, i32::wrapping_add);
element!(u32, DType::U32, u32::wrapping_add);
element!(i64, DType::I64, i64::wrapping_add);
element!(u64, DType::U64, u64::wrapping_add);
element!(f32, DType::F32, |a: f32, b: f32| a + b);
element!(f64, DType::F64, |a: f64, b: f64| a + b);
element!(bf16, DType::Bf16, f32, bf16::to_f32, bf16::from_f32, |a: f32, b: f32| a + b);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_sizes_agree_with_the_types() {
        for (code, dtype) in DType::ALL.into_iter().enumerate() {
            assert_eq!(dtype as usize, code);
        }
        assert_eq!(<f64 as Element>::DTYPE.n_bytes(), size_of::<f64>());
        assert_eq!(<bf16 as Element>::DTYPE.n_bytes(), size_of::<bf16>());
    }

    /// Parts may start at any address, and a sum in bf16 would lose the small ones.
    #[test]
    fn bf16_is_summed_wide_from_unaligned_parts() {
        let values: Vec<Vec<bf16>> =
            [256.0, 1.0, 1.0].map(|x| vec![bf16::from_f32(x); 3000]).into();
        let shifted: Vec<Vec<u8>> =
            values.iter().map(|part| [&[0_u8][..], bytemuck::cast_slice(part)].concat()).collect();
        let parts: Vec<&[u8]> = shifted.iter().map(|bytes| &bytes[1..]).collect();
        let mut out = vec![bf16::ZERO; 3000];
        reduce(ReduceOp::Sum, DType::Bf16, &parts, bytemuck::cast_slice_mut(&mut out));
        assert!(out.iter().all(|x| x.to_f32() == 258.0));
    }
}
