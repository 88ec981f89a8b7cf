//! Against float64, beside Burn's own product, in every layout and with edges everywhere.

use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::TensorData;

use super::vector::{Fma, few, narrow};
use super::{Amx, Avx2, Avx512, Isa, SPLIT, amx, isa, product, with};
use crate::flex_data::{floats, tensor};

/// A way to multiply that this CPU has.
type Product = fn(&FlexTensor, &FlexTensor) -> FlexTensor;

/// What a test on a CPU without AMX says instead of passing.
fn missing(name: &str) -> bool {
    if !amx::is_available() {
        eprintln!("NOT RUN: {name}: this CPU has no AMX");
    }
    !amx::is_available()
}

/// Every vector engine that this CPU has, cut for many rows and for few.
fn vectors(name: &str) -> Vec<(&'static str, Product)> {
    let avx2: [(&str, Product); 2] = [
        ("AVX2", |a, b| with(a, b, product::<Fma<Avx2, false>>)),
        ("AVX2, few rows", |a, b| with(a, b, narrow::product::<Avx2, false>)),
    ];
    let avx512: [(&str, Product); 3] = [
        ("AVX-512", |a, b| with(a, b, product::<Fma<Avx512, false>>)),
        ("AVX-512, few rows", |a, b| with(a, b, narrow::product::<Avx512, false>)),
        ("AVX-512, three rows at once", |a, b| with(a, b, few::product)),
    ];
    match isa() {
        Isa::V4 => avx2.into_iter().chain(avx512).collect(),
        Isa::V3 => {
            eprintln!("NOT RUN: {name}: this CPU has no AVX-512");
            avx2.to_vec()
        }
        Isa::Baseline => {
            eprintln!("NOT RUN: {name}: this CPU has no AVX2");
            Vec::new()
        }
    }
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

/// The product on tiles, also of sizes that are left to others.
fn tiles(a: &FlexTensor, b: &FlexTensor) -> FlexTensor {
    with(a, b, product::<Amx<SPLIT>>)
}

fn tiles_bf16(a: &FlexTensor, b: &FlexTensor) -> FlexTensor {
    with(a, b, product::<Amx<1>>)
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
            let (here, burns) = (tiles(&a, &b), Flex::float_matmul(a.clone(), b.clone()));
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
    assert_eq!(floats(&tiles(&a, &one)), floats(&a));
    let b = matrix(32, 40, true, 6);
    assert_eq!(floats(&tiles(&one, &b)), floats(&b.to_contiguous()));
}

#[test]
fn the_bits_do_not_depend_on_the_threads() {
    if missing("the_bits_do_not_depend_on_the_threads") {
        return;
    }
    let (a, b) = (matrix(300, 700, true, 7), matrix(700, 190, false, 8));
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| tiles(&a, &b))
    };
    let one = with(1);
    for threads in [2, 3, 5] {
        assert_eq!(floats(&one), floats(&with(threads)), "{threads} threads");
    }
}

#[test]
fn views_with_an_offset_and_rows_further_apart() {
    let name = "views_with_an_offset_and_rows_further_apart";
    let mut all = vectors(name);
    if !missing(name) {
        all.push(("AMX", tiles));
    }
    let wide = matrix(64, 200, false, 9);
    let a = wide.narrow(1, 17, 96);
    let b = matrix(200, 96, false, 10).narrow(1, 13, 50).narrow(0, 5, 96);
    for (name, multiply) in all {
        let copied = multiply(&a.to_contiguous(), &b.to_contiguous());
        assert_eq!(floats(&multiply(&a, &b)), floats(&copied), "{name}");
    }
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
            let (here, exact) = (tiles_bf16(&a, &b), (rounded(&a), rounded(&b)));
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
        pool.install(|| tiles_bf16(&a, &b))
    };
    let one = with(1);
    for threads in [2, 3, 5] {
        assert_eq!(floats(&one), floats(&with(threads)), "{threads} threads");
    }
}

/// Rows, columns and inner dims around the sizes of blocks, slices and pieces.
const SHAPES: [(usize, usize, usize); 9] = [
    (1, 1, 1),
    (1, 40, 7),
    (14, 32, 256),
    (15, 33, 257),
    (6, 16, 100),
    (70, 130, 513),
    (129, 40, 1100),
    (29, 300, 31),
    (300, 65, 70),
];

/// One product after the other, in one fused operation each.
fn one_by_one(a: &FlexTensor, b: &FlexTensor) -> Vec<f32> {
    let (m, k, n) = (a.shape()[0], a.shape()[1], b.shape()[1]);
    let (a, b) = (a.to_contiguous(), b.to_contiguous());
    let (a, b) = (floats(&a), floats(&b));
    let element =
        |i: usize, j: usize| (0..k).fold(0.0f32, |sum, p| a[i * k + p].mul_add(b[p * n + j], sum));
    (0..m * n).map(|at| element(at / n, at % n)).collect()
}

#[test]
fn vectors_add_one_product_after_the_other() {
    for (name, multiply) in vectors("vectors_add_one_product_after_the_other") {
        for (case, (m, n, k)) in SHAPES.into_iter().enumerate() {
            for layout in 0..4 {
                let a = matrix(m, k, layout & 1 != 0, 1 + case as u64);
                let b = matrix(k, n, layout & 2 != 0, 100 + case as u64);
                let found = multiply(&a, &b);
                assert!(
                    floats(&found) == one_by_one(&a, &b),
                    "{name}: [{m}, {k}] x [{k}, {n}], layout {layout}"
                );
            }
        }
    }
}

#[test]
fn vectors_of_rounded_factors() {
    let bf16: [(&str, Product); 2] = [
        ("AVX-512", |a, b| with(a, b, product::<Fma<Avx512, true>>)),
        ("AVX-512, few rows", |a, b| with(a, b, narrow::product::<Avx512, true>)),
    ];
    let plain: [(&str, Product); 2] = [
        ("AVX2", |a, b| with(a, b, product::<Fma<Avx2, true>>)),
        ("AVX2, few rows", |a, b| with(a, b, narrow::product::<Avx2, true>)),
    ];
    let here = vectors("vectors_of_rounded_factors").len().min(4);
    for (name, multiply) in plain.into_iter().chain(bf16).take(here) {
        for (case, (m, n, k)) in SHAPES.into_iter().enumerate() {
            for layout in 0..4 {
                let a = matrix(m, k, layout & 1 != 0, 1 + case as u64);
                let b = matrix(k, n, layout & 2 != 0, 100 + case as u64);
                let found = multiply(&a, &b);
                let expected = one_by_one(&rounded(&a), &rounded(&b));
                assert!(floats(&found) == expected, "{name}: [{m}, {k}] x [{k}, {n}], {layout}");
            }
        }
    }
    // What has no nearest bf16 stays what it is.
    let odd = tensor(vec![f32::NAN, f32::INFINITY, f32::from_bits(0x7fff_ffff), -0.0], [4, 1]);
    let one = tensor(vec![1.0], [1, 1]);
    for (name, multiply) in plain.into_iter().chain(bf16).take(here) {
        let found = multiply(&odd, &one);
        let found = floats(&found);
        assert!(found[0].is_nan() && found[1] == f32::INFINITY && found[2].is_nan(), "{name}");
    }
}

/// The same bits for any number of threads, and for a row alone or among others.
#[test]
fn a_row_does_not_know_the_others() {
    for (name, multiply) in vectors("a_row_does_not_know_the_others") {
        let (a, b) = (matrix(300, 700, false, 7), matrix(700, 190, true, 8));
        let with = |threads: usize| {
            let pool =
                rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            pool.install(|| multiply(&a, &b))
        };
        let one = with(1);
        for threads in [2, 3, 5] {
            assert_eq!(floats(&one), floats(&with(threads)), "{name}, {threads} threads");
        }
        let row = multiply(&a.narrow(0, 123, 1), &b);
        assert_eq!(floats(&row), &floats(&one)[123 * 190..124 * 190], "{name}");
    }
}
