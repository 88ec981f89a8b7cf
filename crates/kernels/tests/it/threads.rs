//! The same bits with any number of threads.

use burn::tensor::{DType, Device};
use caravan_kernels::{Kernels, SeenKeys};

use crate::support::{Layout, host, input, ints, values};

/// Runs `f` in pools of 1, 2, 3 and 7 threads and compares every bit.
fn same_bits(f: impl Fn() -> Vec<Vec<f64>> + Sync) {
    let in_pool = |n| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().expect("a pool");
        let results = pool.install(&f);
        results.into_iter().map(|v| v.into_iter().map(f64::to_bits).collect()).collect()
    };
    let one: Vec<Vec<u64>> = in_pool(1);
    for n in [2, 3, 7] {
        assert_eq!(in_pool(n), one, "{n} threads");
    }
}

#[test]
fn rms_norm() {
    same_bits(|| {
        let device = Device::flex().autodiff();
        let x = input::<2>(&values(999 * 96, 1), [999, 96], Layout::Dense, DType::F32, &device);
        let w = input::<1>(&values(96, 2), [96], Layout::Dense, DType::F32, &device);
        let (x, w) = (x.require_grad(), w.require_grad());
        let y = Kernels::Fused.rms_norm(x.clone(), w.clone(), 1e-5);
        let grads = (y.clone() * y.clone()).sum().backward();
        vec![
            host(y),
            host(x.grad(&grads).expect("tracked")),
            host(w.grad(&grads).expect("tracked")),
        ]
    });
}

#[test]
fn attention() {
    same_bits(|| {
        let device = Device::flex().autodiff();
        let leaf = |heads: usize, seed| {
            let shape = [2, heads, 200, 16];
            let values = values(shape.iter().product(), seed);
            input::<4>(&values, shape, Layout::Swapped(1, 2), DType::F32, &device).require_grad()
        };
        let (q, k, v) = (leaf(6, 1), leaf(2, 2), leaf(2, 3));
        let starts: Vec<i64> = (0..400).map(|i| (i % 200) / 70 * 70).collect();
        let starts = ints(&starts, [2, 200], &device);
        let out = Kernels::Fused.attention(q.clone(), k.clone(), v.clone(), Some(starts));
        let grads = (out.clone() * out.clone()).sum().backward();
        let [dq, dk, dv] = [q, k, v].map(|x| host(x.grad(&grads).expect("tracked")));
        vec![host(out), dq, dk, dv]
    });
}

#[test]
fn attention_part() {
    same_bits(|| {
        let device = Device::flex();
        let tensor = |heads: usize, n: usize, seed| {
            let shape = [2, heads, n, 16];
            let values = values(shape.iter().product(), seed);
            input::<4>(&values, shape, Layout::Swapped(1, 2), DType::F32, &device)
        };
        let (q, dout) = (tensor(6, 200, 1), tensor(6, 200, 4));
        let part = |n: usize, causal| {
            let first: Vec<i64> = (0..400).map(|i| (i % 200) / 2 / 70 * 70).collect();
            let seen = SeenKeys { causal, first: Some(ints(&first, [2, 200], &device)) };
            (tensor(2, n, 2), tensor(2, n, 3), seen)
        };
        let (k, v, seen) = part(200, true);
        let whole = Kernels::Fused.attention_part(q.clone(), k, v, &seen);
        let (k, v, seen) = part(130, false);
        let attended = Kernels::Fused.attention_part(q.clone(), k.clone(), v.clone(), &seen);
        let whole = whole.merge(0, attended);
        let gradients =
            Kernels::Fused.attention_part_backward([q, k, v], &seen, whole.clone(), dout);
        let [dq, dk, dv] = gradients.map(host);
        vec![host(whole.out), host(whole.lse), dq, dk, dv]
    });
}

#[test]
fn cross_entropy() {
    same_bits(|| {
        let device = Device::flex().autodiff();
        let x = input::<2>(&values(300 * 500, 1), [300, 500], Layout::Dense, DType::F32, &device);
        let x = x.require_grad();
        let targets: Vec<i64> = (0..300).map(|i| if i % 7 == 0 { -1 } else { i }).collect();
        let sum = Kernels::Fused.cross_entropy(x.clone(), ints(&targets, [300], &device));
        let grads = sum.clone().backward();
        vec![host(sum), host(x.grad(&grads).expect("tracked"))]
    });
}

#[test]
fn swiglu_and_rope() {
    same_bits(|| {
        let device = Device::flex().autodiff();
        let leaf = |seed| {
            let values = values(2 * 4 * 150 * 64, seed);
            input::<4>(&values, [2, 4, 150, 64], Layout::Dense, DType::F32, &device).require_grad()
        };
        let (a, b) = (leaf(1), leaf(2));
        let table = |seed| {
            input::<2>(&values(150 * 32, seed), [150, 32], Layout::Dense, DType::F32, &device)
        };
        let y =
            Kernels::Fused.rope(Kernels::Fused.swiglu(a.clone(), b.clone()), table(3), table(4));
        let grads = (y.clone() * y.clone()).sum().backward();
        vec![
            host(y),
            host(a.grad(&grads).expect("tracked")),
            host(b.grad(&grads).expect("tracked")),
        ]
    });
}
