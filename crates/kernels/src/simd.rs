//! One plain body per kernel, compiled for AVX-512, AVX2 and the baseline, chosen at run time.
//!
//! The crate is built for baseline x86-64. A kernel body is an `#[inline(always)]` function over
//! slices, generic over `FMA` (whether [`madd`] may use the fused instruction, which without the
//! CPU feature would be a library call); [`multiversion`] clones it per instruction set and LLVM
//! vectorises each clone. Sums run over a fixed number of lanes, so their order does not depend
//! on the vector length.

#[cfg(target_arch = "x86_64")]
use std::sync::OnceLock;

/// The instruction sets that kernels are compiled for.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    /// x86-64-v4: AVX-512 F, VL, DQ, BW.
    V4,
    /// x86-64-v3: AVX2 and FMA.
    V3,
    /// What the crate is compiled for.
    Baseline,
}

/// The best instruction set of this CPU, found once.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn isa() -> Isa {
    static ISA: OnceLock<Isa> = OnceLock::new();
    *ISA.get_or_init(|| {
        let v3 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let v4 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512bw");
        match (v3, v4) {
            (true, true) => Isa::V4,
            (true, false) => Isa::V3,
            _ => Isa::Baseline,
        }
    })
}

/// Declares `fn name(args)` that runs the best clone of `body::<FMA>(args)` for this CPU.
macro_rules! multiversion {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:ident) => {
        $(#[$doc])*
        #[allow(unsafe_code, reason = "calls of clones that `isa` found the CPU able to run")]
        #[allow(clippy::too_many_arguments, reason = "the clones cannot take a closure's captures")]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
                fn v4($($arg: $ty),*) $(-> $ret)? { $body::<true>($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn v3($($arg: $ty),*) $(-> $ret)? { $body::<true>($($arg),*) }
                match $crate::simd::isa() {
                    // SAFETY: `isa` found every feature of the clone on this CPU.
                    $crate::simd::Isa::V4 => return unsafe { v4($($arg),*) },
                    // SAFETY: as above.
                    $crate::simd::Isa::V3 => return unsafe { v3($($arg),*) },
                    $crate::simd::Isa::Baseline => {}
                }
            }
            $body::<{ cfg!(target_arch = "aarch64") }>($($arg),*)
        }
    };
}
pub(crate) use multiversion;

/// `a * b + c`, in one rounding where the target has the instruction.
#[inline(always)]
pub(crate) fn madd<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Below this the result of [`exp`] is 0; `e^-87.3` is the smallest normal number.
const EXP_UNDERFLOW: f32 = -87.3;
/// Above this [`exp`] stays at `e^88`, close to the largest number.
const EXP_OVERFLOW: f32 = 88.0;

/// `e^x` without branches, so that it vectorises; within 2 units in the last place of `f32::exp`.
///
/// Below -87.3 it gives 0 and no denormal number (they are slow), above 88 it stays at `e^88`.
///
/// # Reference
/// Cephes `expf`: `x = n ln 2 + r`, a polynomial of degree 7 in `r`, then `2^n` through the exponent.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer in the low bits
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x < EXP_OVERFLOW { x } else { EXP_OVERFLOW };
    let clamped = if clamped > EXP_UNDERFLOW { clamped } else { EXP_UNDERFLOW };
    let shifted = madd::<FMA>(clamped, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = madd::<FMA>(-n, LN_2_HIGH, clamped);
    let r = madd::<FMA>(-n, LN_2_LOW, r);
    let p = madd::<FMA>(1.987_569_1e-4, r, 1.398_2e-3);
    let p = madd::<FMA>(p, r, 8.333_452e-3);
    let p = madd::<FMA>(p, r, 4.166_579_6e-2);
    let p = madd::<FMA>(p, r, 1.666_666_6e-1);
    let p = madd::<FMA>(p, r, 0.5);
    let p = madd::<FMA>(p, r * r, r) + 1.0;
    let power = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    let y = p * f32::from_bits(power);
    if x > EXP_UNDERFLOW { y } else { 0.0 }
}

/// Partial sums of a reduction; fixed, so that the order of a sum is the same for every CPU.
pub(crate) const LANES: usize = 32;

/// `sum f(i, x[i])` over [`LANES`] interleaved partial sums, then the tail.
#[inline(always)]
pub(crate) fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut acc = [0.0; LANES];
    let chunks = x.chunks_exact(LANES);
    let tail = chunks.remainder();
    for chunk in chunks {
        for i in 0..LANES {
            acc[i] += f(chunk[i]);
        }
    }
    fold(acc) + tail.iter().fold(0.0, |sum, &x| sum + f(x))
}

/// The largest element, or negative infinity of an empty slice. NaN is passed over.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let mut acc = [f32::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let tail = chunks.remainder();
    for chunk in chunks {
        for i in 0..LANES {
            acc[i] = if chunk[i] > acc[i] { chunk[i] } else { acc[i] };
        }
    }
    let larger = |m: f32, &x: &f32| if x > m { x } else { m };
    tail.iter().fold(acc.iter().fold(f32::NEG_INFINITY, larger), larger)
}

/// `sum x[i] * y[i]`; the slices have equal lengths.
#[inline(always)]
pub(crate) fn dot<const FMA: bool>(x: &[f32], y: &[f32]) -> f32 {
    let mut acc = [0.0; LANES];
    let (xs, ys) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
    let (mut tail_x, mut tail_y) = (xs.remainder(), ys.remainder());
    for (x, y) in xs.zip(ys) {
        for i in 0..LANES {
            acc[i] = madd::<FMA>(x[i], y[i], acc[i]);
        }
    }
    // Head dims such as 48 leave half of the lanes: not one by one.
    if let Some((x, rest)) = tail_x.split_first_chunk::<{ LANES / 2 }>()
        && let Some((y, rest_y)) = tail_y.split_first_chunk::<{ LANES / 2 }>()
    {
        for i in 0..LANES / 2 {
            acc[i] = madd::<FMA>(x[i], y[i], acc[i]);
        }
        (tail_x, tail_y) = (rest, rest_y);
    }
    let tail = tail_x.iter().zip(tail_y).fold(0.0, |sum, (&x, &y)| madd::<FMA>(x, y, sum));
    fold(acc) + tail
}

/// The sum of the lanes, halving.
#[inline(always)]
pub(crate) fn fold(mut acc: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            acc[i] += acc[i + width];
        }
        width /= 2;
    }
    acc[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2 units in the last place: half a unit of the last rounding, the rest from the polynomial
    /// and the reduction.
    const EXP_TOLERANCE: f64 = 2.0 * f32::EPSILON as f64;

    fn worst_exp_error<const FMA: bool>() -> f64 {
        (-870_000..880_000)
            .map(|i| i as f32 * 1e-4)
            .map(|x| ((f64::from(exp::<FMA>(x)) - f64::from(x).exp()) / f64::from(x).exp()).abs())
            .fold(0.0, f64::max)
    }

    #[test]
    fn exp_is_within_two_units() {
        assert!(worst_exp_error::<false>() < EXP_TOLERANCE, "{:e}", worst_exp_error::<false>());
        assert!(worst_exp_error::<true>() < EXP_TOLERANCE, "{:e}", worst_exp_error::<true>());
    }

    #[test]
    fn exp_at_the_ends() {
        for x in [f32::NEG_INFINITY, -1e30, -1e4, -88.0] {
            assert_eq!(exp::<false>(x), 0.0);
        }
        assert_eq!(exp::<false>(0.0), 1.0);
        assert!(exp::<false>(f32::INFINITY).is_finite());
        assert!(exp::<false>(1e4) > 1e38);
    }

    #[test]
    fn reductions_equal_plain_sums_at_every_length() {
        for n in 0..100 {
            let x: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin()).collect();
            let y: Vec<f32> = (0..n).map(|i| (i as f32 * 0.91).cos()).collect();
            let plain_sum: f64 = x.iter().map(|&x| f64::from(x)).sum();
            let plain_dot: f64 = x.iter().zip(&y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
            assert!((f64::from(sum(&x, |x| x)) - plain_sum).abs() < 1e-5);
            assert!((f64::from(dot::<true>(&x, &y)) - plain_dot).abs() < 1e-5);
            assert!((f64::from(dot::<false>(&x, &y)) - plain_dot).abs() < 1e-5);
            assert_eq!(max(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
