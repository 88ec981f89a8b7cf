//! Against float64, beside Burn's own product, in every layout and with edges everywhere.

use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::TensorData;

use super::{Output, SPLIT, dense, lanes_of, product, tile};
use crate::flex_data::{floats, tensor, unwritten, written};

/// What a test on a CPU without AMX says instead of passing.
fn missing(name: &str) -> bool {
    if !tile::is_available() {
        eprintln!("NOT RUN: {name}: this CPU has no AMX");
    }
    !tile::is_available()
}

fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((z >> 11) as f64 / (1u64 << 53) as f64 * 2.0 - 1.0) as f32
    };
    (0..n).map(|_| next()).collect()
}

fn matrix(rows: usize, columns: usize, transposed: bool, seed: u64) -> FlexTensor {
    let values = noise(rows * columns, seed);
    if transposed {
        FlexTensor::from_data(TensorData::new(values, [columns, rows])).transpose(0, 1)
    } else {
        FlexTensor::from_data(TensorData::new(values, [rows, columns]))
    }
}

/// The product here, also of sizes that `takes` leaves to Burn.
fn ours(a: &FlexTensor, b: &FlexTensor) -> FlexTensor {
    parts::<SPLIT>(a, b)
}

fn parts<const P: usize>(a: &FlexTensor, b: &FlexTensor) -> FlexTensor {
    let (a, b) = (dense(a), dense(b));
    let (m, k, n) = (a.shape()[0], a.shape()[1], b.shape()[1]);
    let mut c = unwritten(m * n);
    product::<P>(lanes_of(&a, false), lanes_of(&b, true), k, Output::new(&mut c, n));
    // SAFETY: the product writes every element.
    tensor(unsafe { written(c) }, [m, n])
}

/// Largest error against float64, in units of the sum of absolute products.
fn error(a: &FlexTensor, b: &FlexTensor, c: &FlexTensor) -> f64 {
    let (m, k, n) = (a.shape()[0], a.shape()[1], b.shape()[1]);
    let (a, b, c) = (a.to_contiguous(), b.to_contiguous(), c.to_contiguous());
    let (a, b, c) = (floats(&a), floats(&b), floats(&c));
    let mut worst = 0.0f64;
    for i in 0..m {
        for j in 0..n {
            let terms = (0..k).map(|p| f64::from(a[i * k + p]) * f64::from(b[p * n + j]));
            let (sum, size) = terms.fold((0.0, 0.0), |(s, z), t| (s + t, z + t.abs()));
            worst = worst.max((f64::from(c[i * n + j]) - sum).abs() / size);
        }
    }
    worst
}

#[test]
fn as_exact_as_the_product_with_fma() {
    if missing("as_exact_as_the_product_with_fma") {
        return;
    }
    let shapes = [
        (32, 32, 32),
        (1, 1, 1),
        (33, 31, 65),
        (70, 130, 513),
        (129, 40, 1100),
        (24, 300, 48),
        (257, 96, 288),
    ];
    for (case, (m, n, k)) in shapes.into_iter().enumerate() {
        for layout in 0..4 {
            let a = matrix(m, k, layout & 1 != 0, 1 + case as u64);
            let b = matrix(k, n, layout & 2 != 0, 100 + case as u64);
            let (here, burns) = (ours(&a, &b), Flex::float_matmul(a.clone(), b.clone()));
            let (here, burns) = (error(&a, &b, &here), error(&a, &b, &burns));
            // 2^-23 is one unit in the last place; Burn's error is the yardstick where sums are long.
            assert!(
                here <= burns.max(1.2e-7),
                "[{m}, {k}] x [{k}, {n}], layout {layout}: {here:e}, Burn {burns:e}"
            );
        }
    }
}

#[test]
fn each_part_counts() {
    if missing("each_part_counts") {
        return;
    }
    // One factor needs all of its 24 bits, the other is 1: the result is that factor, bit for bit.
    let a = matrix(40, 32, false, 5);
    let mut identity = vec![0.0; 32 * 32];
    for i in 0..32 {
        identity[i * 33] = 1.0;
    }
    let one = tensor(identity, [32, 32]);
    assert_eq!(floats(&ours(&a, &one)), floats(&a));
    let b = matrix(32, 40, true, 6);
    assert_eq!(floats(&ours(&one, &b)), floats(&b.to_contiguous()));
}

#[test]
fn the_bits_do_not_depend_on_the_threads() {
    if missing("the_bits_do_not_depend_on_the_threads") {
        return;
    }
    let (a, b) = (matrix(300, 700, true, 7), matrix(700, 190, false, 8));
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| ours(&a, &b))
    };
    let one = with(1);
    for threads in [2, 3, 5] {
        assert_eq!(floats(&one), floats(&with(threads)), "{threads} threads");
    }
}

#[test]
fn views_with_an_offset_and_rows_further_apart() {
    if missing("views_with_an_offset_and_rows_further_apart") {
        return;
    }
    let wide = matrix(64, 200, false, 9);
    let a = wide.narrow(1, 17, 96);
    let b = matrix(96, 50, false, 10);
    let copied = ours(&a.to_contiguous(), &b);
    assert_eq!(floats(&ours(&a, &b)), floats(&copied));
}

/// A matrix of values that bf16 has.
fn rounded(t: &FlexTensor) -> FlexTensor {
    let shape = t.shape();
    let values: Vec<f32> =
        floats(&t.to_contiguous()).iter().map(|x| half::bf16::from_f32(*x).to_f32()).collect();
    tensor(values, [shape[0], shape[1]])
}

#[test]
fn bf16_is_the_product_of_the_rounded_factors() {
    if missing("bf16_is_the_product_of_the_rounded_factors") {
        return;
    }
    for (case, (m, n, k)) in
        [(1, 1, 1), (33, 31, 65), (70, 130, 513), (129, 40, 1100), (257, 96, 288)]
            .into_iter()
            .enumerate()
    {
        for layout in 0..4 {
            let a = matrix(m, k, layout & 1 != 0, 1 + case as u64);
            let b = matrix(k, n, layout & 2 != 0, 100 + case as u64);
            let (here, exact) = (parts::<1>(&a, &b), (rounded(&a), rounded(&b)));
            // The sums alone: one unit in the last place of the absolute sum, and more where they are long.
            let found = error(&exact.0, &exact.1, &here);
            let sums =
                error(&exact.0, &exact.1, &Flex::float_matmul(exact.0.clone(), exact.1.clone()));
            assert!(
                found <= sums.max(1.2e-7),
                "[{m}, {k}] x [{k}, {n}], layout {layout}: {found:e}, {sums:e}"
            );
        }
    }
}

#[test]
fn bf16_bits_do_not_depend_on_the_threads() {
    if missing("bf16_bits_do_not_depend_on_the_threads") {
        return;
    }
    let (a, b) = (matrix(300, 700, true, 7), matrix(700, 190, false, 8));
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| parts::<1>(&a, &b))
    };
    let one = with(1);
    for threads in [2, 3, 5] {
        assert_eq!(floats(&one), floats(&with(threads)), "{threads} threads");
    }
}
