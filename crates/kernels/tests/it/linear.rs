//! The linear layer against plain loops in float64: value and both gradients, small products and
//! such as run on matrix tiles where the CPU has them.

use burn::tensor::{Device, Tensor, TensorData};
use caravan_kernels::Kernels;

/// Rounding of f32 sums of up to 300 products of numbers below 1, relative to the largest element.
const TOLERANCE: f64 = 3e-6;

fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f64 / f64::from(1u32 << 24) * 2.0 - 1.0) as f32
    };
    (0..n).map(|_| next()).collect()
}

/// `a b` with `a: [m, k]`, `b: [k, n]`.
fn product(a: &[f64], b: &[f64], m: usize, k: usize, n: usize) -> Vec<f64> {
    let at = |i: usize, j: usize| (0..k).map(|p| a[i * k + p] * b[p * n + j]).sum();
    (0..m * n).map(|i| at(i / n, i % n)).collect()
}

fn transposed(a: &[f64], rows: usize, columns: usize) -> Vec<f64> {
    (0..rows * columns).map(|i| a[i % rows * columns + i / rows]).collect()
}

fn assert_close<const D: usize>(what: &str, found: Tensor<D>, expected: &[f64]) {
    let found = found.into_data();
    let found = found.as_slice::<f32>().expect("f32");
    let largest = expected.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    let worst =
        found.iter().zip(expected).map(|(f, e)| (f64::from(*f) - e).abs()).fold(0.0, f64::max);
    assert_eq!(found.len(), expected.len(), "{what}");
    assert!(worst <= TOLERANCE * largest, "{what}: off by {worst:e}, largest {largest:e}");
}

#[test]
fn value_and_gradients() {
    let device = Device::flex().autodiff();
    for (b, s, k, n) in
        [(1, 1, 3, 2), (2, 7, 5, 9), (2, 130, 97, 161), (1, 300, 64, 300), (3, 64, 256, 40)]
    {
        let m = b * s;
        let (x, w, g) = (noise(m * k, 1), noise(k * n, 2), noise(m * n, 3));
        let wide = |v: &[f32]| v.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
        let (xd, wd, gd) = (wide(&x), wide(&w), wide(&g));
        for kernels in [Kernels::Reference, Kernels::Fused, Kernels::FusedBf16] {
            // Large products see rounded factors (`src/linear/mod.rs` has the rule).
            let rounds =
                kernels == Kernels::FusedBf16 && m.min(k).min(n) >= 24 && m * k * n >= 96 * 96 * 96;
            let seen = |v: &[f64]| match rounds {
                true => v.iter().map(|x| half::bf16::from_f32(*x as f32).to_f64()).collect(),
                false => v.to_vec(),
            };
            let (xd, wd, gd) = (seen(&xd), seen(&wd), seen(&gd));
            let name = |part: &str| format!("{kernels:?} [{b}, {s}, {k}] x [{k}, {n}]: {part}");
            let x = Tensor::<3>::from_data(TensorData::new(x.clone(), [b, s, k]), &device)
                .require_grad();
            let w =
                Tensor::<2>::from_data(TensorData::new(w.clone(), [k, n]), &device).require_grad();
            let g = Tensor::<3>::from_data(TensorData::new(g.clone(), [b, s, n]), &device);
            let y = kernels.linear(x.clone(), w.clone());
            assert_eq!(y.dims(), [b, s, n]);
            let grads = (y.clone() * g).sum().backward();
            assert_close(&name("value"), y.inner(), &product(&xd, &wd, m, k, n));
            let dx = x.grad(&grads).expect("x is tracked");
            assert_close(&name("dx"), dx, &product(&gd, &transposed(&wd, k, n), m, n, k));
            let dw = w.grad(&grads).expect("the weight is tracked");
            assert_close(&name("dw"), dw, &product(&transposed(&xd, m, k), &gd, k, m, n));
        }
    }
}
