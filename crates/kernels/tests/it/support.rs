//! Running an operator and comparing numbers.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use caravan_kernels::Kernels;

/// A value that f32 and f64 share, so that both see the same input.
pub(crate) fn values(n: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03;
    let mut uniform = move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    // The sum of four uniforms has the bell shape and, scaled, the variance of a normal.
    let mut bell = move || (uniform() + uniform() + uniform() + uniform() - 2.0) * 3f64.sqrt();
    (0..n).map(|_| f64::from(bell() as f32)).collect()
}

/// How an input lies in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Layout {
    Dense,
    /// These two dims are swapped in memory.
    Swapped(usize, usize),
}

/// A tensor of the given logical values, lying in memory as `layout` says.
pub(crate) fn input<const D: usize>(
    values: &[f64],
    shape: [usize; D],
    layout: Layout,
    dtype: DType,
    device: &Device,
) -> Tensor<D> {
    let data = TensorData::new(values.to_vec(), shape);
    let dense = Tensor::<D>::from_data(data.convert_dtype(dtype), (device, dtype));
    match layout {
        Layout::Dense => dense,
        // Swapping, copying through the host and swapping back leaves the values where they were.
        Layout::Swapped(a, b) => {
            let copied = dense.swap_dims(a, b).into_data();
            Tensor::<D>::from_data(copied, (device, dtype)).swap_dims(a, b)
        }
    }
}

pub(crate) fn ints<const D: usize>(
    values: &[i64],
    shape: [usize; D],
    device: &Device,
) -> Tensor<D, Int> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

pub(crate) fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().convert::<f64>().iter::<f64>().collect()
}

/// The largest difference in f32, relative to the largest element or, where that is more, to 1: the
/// inputs have unit size, and gradients that cancel keep the rounding of their terms. Sums of up to
/// 20,000 terms of either sign lose some ten units of 1.2e-7 at most, the exponentials another two.
pub(crate) const F32_TOLERANCE: f64 = 3e-6;
/// The same in f64, which runs the composed kernels: 1e4 times its unit of 2.2e-16.
pub(crate) const F64_TOLERANCE: f64 = 2e-12;

/// What every parity test runs: both variants in both dtypes with their tolerances, on every device
/// that is compiled in and needs no accelerator.
pub(crate) fn variants() -> Vec<(Kernels, DType, f64, Device)> {
    let devices = [
        Device::flex(),
        #[cfg(feature = "tch")]
        Device::libtorch(),
    ];
    let mut variants = vec![];
    for device in devices {
        for kernels in [Kernels::Fused, Kernels::Reference] {
            variants.push((kernels, DType::F32, F32_TOLERANCE, device.clone().autodiff()));
            variants.push((kernels, DType::F64, F64_TOLERANCE, device.clone().autodiff()));
        }
    }
    variants
}

/// Panics if the largest difference is above `tolerance` times the largest expected element, or 1.
#[track_caller]
pub(crate) fn assert_close(name: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{name}: number of elements");
    assert!(found.iter().all(|x| x.is_finite()), "{name}: not finite");
    let largest = expected.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
    let difference =
        found.iter().zip(expected).fold(0.0, |m: f64, (found, x)| m.max((found - x).abs()));
    assert!(
        difference <= tolerance * largest.max(1.0),
        "{name}: largest difference {difference:e}, largest element {largest:e}"
    );
}
