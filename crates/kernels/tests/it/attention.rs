//! Attention: shapes, grouped queries, document masks, caches.

use burn::tensor::{DType, Device, Tensor};
use caravan_kernels::Kernels;
use proptest::prelude::*;

use crate::plain::{self, AttentionDims};
use crate::support::{F32_TOLERANCE, Layout, assert_close, host, input, ints, values, variants};

struct Case {
    dims: AttentionDims,
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    dout: Vec<f64>,
    starts: Option<Vec<i64>>,
}

impl Case {
    fn new(dims: AttentionDims, starts: Option<Vec<i64>>) -> Self {
        let AttentionDims { b, n_heads, n_kv_heads, s, t, head_dim } = dims;
        let (n_q, n_k) = (b * n_heads * s * head_dim, b * n_kv_heads * t * head_dim);
        let seed = (n_q * 31 + n_k) as u64;
        Self {
            dims,
            q: values(n_q, seed),
            k: values(n_k, seed + 1),
            v: values(n_k, seed + 2),
            dout: values(n_q, seed + 3),
            starts,
        }
    }

    fn expected(&self) -> [Vec<f64>; 4] {
        plain::attention(self.dims, [&self.q, &self.k, &self.v, &self.dout], self.starts.as_deref())
    }

    /// `[out, dq, dk, dv]`.
    fn run(&self, kernels: Kernels, dtype: DType, layout: Layout) -> [Vec<f64>; 4] {
        self.run_on(&Device::flex().autodiff(), kernels, dtype, layout)
    }

    fn run_on(
        &self,
        device: &Device,
        kernels: Kernels,
        dtype: DType,
        layout: Layout,
    ) -> [Vec<f64>; 4] {
        let AttentionDims { b, n_heads, n_kv_heads, s, t, head_dim } = self.dims;
        let (q_shape, k_shape) = ([b, n_heads, s, head_dim], [b, n_kv_heads, t, head_dim]);
        let leaf =
            |values: &[f64], shape| input::<4>(values, shape, layout, dtype, device).require_grad();
        let (q, k, v) = (leaf(&self.q, q_shape), leaf(&self.k, k_shape), leaf(&self.v, k_shape));
        let dout = input::<4>(&self.dout, q_shape, layout, dtype, device);
        let starts = self.starts.as_ref().map(|starts| ints(starts, [b, s], device));
        let out = kernels.attention(q.clone(), k.clone(), v.clone(), starts);
        assert_eq!(out.dims(), q_shape);
        let grads = (out.clone() * dout).sum().backward();
        let [dq, dk, dv] = [q, k, v].map(|x| x.grad(&grads).expect("every input is tracked"));
        [host(out), host(dq), host(dk), host(dv)]
    }

    fn check(&self, layout: Layout) {
        let expected = self.expected();
        for (kernels, dtype, tolerance, device) in variants() {
            let found = self.run_on(&device, kernels, dtype, layout);
            for (name, (found, expected)) in
                ["out", "dq", "dk", "dv"].iter().zip(found.iter().zip(&expected))
            {
                let what =
                    format!("{name} {kernels:?} {dtype:?} {device:?} {layout:?} {:?}", self.dims);
                assert_close(&what, found, expected, tolerance);
            }
        }
    }
}

fn dims(heads: [usize; 2], s: usize, t: usize, head_dim: usize) -> AttentionDims {
    AttentionDims { b: 2, n_heads: heads[0], n_kv_heads: heads[1], s, t, head_dim }
}

/// Documents of the given lengths, over and over, in every row.
fn documents(b: usize, s: usize, lengths: &[usize]) -> Vec<i64> {
    let mut row = vec![];
    for &length in lengths.iter().cycle() {
        let start = row.len() as i64;
        row.extend(std::iter::repeat_n(start, length));
        if row.len() >= s {
            break;
        }
    }
    row.truncate(s);
    row.repeat(b)
}

#[test]
fn equals_plain_loops_at_every_head_layout() {
    for heads in [[8, 2], [6, 6], [4, 1]] {
        for head_dim in [8, 48, 64, 5] {
            Case::new(dims(heads, 70, 70, head_dim), None).check(Layout::Swapped(1, 2));
        }
    }
}

#[test]
fn equals_plain_loops_at_every_length() {
    for s in [1, 7, 64, 130, 257] {
        Case::new(dims([4, 2], s, s, 16), None).check(Layout::Dense);
    }
}

#[test]
fn documents_do_not_see_each_other() {
    for (s, lengths) in
        [(7, &[1][..]), (64, &[1, 63]), (130, &[5, 1, 70, 1, 1]), (257, &[129, 3]), (200, &[64])]
    {
        let starts = documents(2, s, lengths);
        Case::new(dims([4, 2], s, s, 16), Some(starts)).check(Layout::Swapped(1, 2));
    }
}

#[test]
fn a_cache_holds_more_keys_than_queries() {
    for (s, t) in [(1, 1), (1, 2), (1, 100), (3, 65), (64, 130), (65, 300)] {
        Case::new(dims([4, 2], s, t, 24), None).check(Layout::Dense);
        let starts = (0..2 * s).map(|i| ((i % s) + (t - s)) as i64 / 2).collect();
        Case::new(dims([4, 2], s, t, 24), Some(starts)).check(Layout::Dense);
    }
}

#[test]
fn strided_inputs() {
    for layout in
        [Layout::Dense, Layout::Swapped(1, 2), Layout::Swapped(2, 3), Layout::Swapped(0, 1)]
    {
        Case::new(dims([4, 2], 70, 70, 12), None).check(layout);
    }
}

#[test]
fn an_expanded_gradient() {
    let mut case = Case::new(dims([4, 2], 70, 70, 8), None);
    case.dout.fill(1.0);
    let [_, dq, dk, dv] = case.expected();
    let device = Device::flex().autodiff();
    let leaf = |values: &[f64], shape| {
        input::<4>(values, shape, Layout::Dense, DType::F32, &device).require_grad()
    };
    let q = leaf(&case.q, [2, 4, 70, 8]);
    let (k, v) = (leaf(&case.k, [2, 2, 70, 8]), leaf(&case.v, [2, 2, 70, 8]));
    let grads = Kernels::Fused.attention(q.clone(), k.clone(), v.clone(), None).sum().backward();
    for (x, expected) in [(q, dq), (k, dk), (v, dv)] {
        assert_close("gradient", &host(x.grad(&grads).expect("tracked")), &expected, F32_TOLERANCE);
    }
}

#[test]
fn large_scores_stay_finite() {
    let mut case = Case::new(dims([2, 1], 70, 70, 8), None);
    case.q.iter_mut().chain(&mut case.k).for_each(|x| *x *= 100.0);
    let expected = case.expected();
    let found = case.run(Kernels::Fused, DType::F32, Layout::Dense);
    // Scores reach 1e4 and keep an absolute error of 1e-3, so probabilities a relative one.
    assert_close("out", &found[0], &expected[0], 5e-3);
    assert!(found.iter().flatten().all(|x| x.is_finite()));
}

#[test]
fn only_the_tracked_inputs_get_gradients() {
    let case = Case::new(dims([4, 2], 5, 5, 8), None);
    let device = Device::flex().autodiff();
    let plain =
        |values: &[f64], shape| input::<4>(values, shape, Layout::Dense, DType::F32, &device);
    let (q, k) = (plain(&case.q, [2, 4, 5, 8]), plain(&case.k, [2, 2, 5, 8]));
    let v = plain(&case.v, [2, 2, 5, 8]).require_grad();
    let out = Kernels::Fused.attention(q.clone(), k.clone(), v.clone(), None);
    let grads = out.sum().backward();
    assert!(v.grad(&grads).is_some() && q.grad(&grads).is_none() && k.grad(&grads).is_none());

    let untracked =
        Kernels::Fused.attention(q.clone(), k, v.detach().set_require_grad(false), None);
    assert!(!untracked.is_tracked(), "without a tracked input nothing is kept");
    let inner: Tensor<4> = q.inner();
    assert!(!Kernels::Fused.attention(inner.clone(), inner.clone(), inner, None).is_autodiff());
}

#[test]
#[should_panic(expected = "document_starts[0, 1] is 2, but must be in 0..=1")]
fn a_document_cannot_start_after_its_query() {
    let case = Case::new(dims([2, 1], 2, 2, 8), Some(vec![0, 2, 0, 0]));
    case.run(Kernels::Fused, DType::F32, Layout::Dense);
}

#[test]
#[should_panic(expected = "6 query heads are no multiple of 4 key heads")]
fn heads_must_divide() {
    let case = Case::new(dims([6, 4], 2, 2, 8), None);
    case.run(Kernels::Fused, DType::F32, Layout::Dense);
}

#[test]
#[should_panic(expected = "3 queries, but only 2 keys")]
fn queries_are_the_last_of_the_keys() {
    let case = Case::new(dims([2, 2], 3, 2, 8), None);
    case.run(Kernels::Fused, DType::F32, Layout::Dense);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_shape_and_any_documents(
        b in 1usize..3, kv in 1usize..3, group in 1usize..4, s in 1usize..150, before in 0usize..80,
        head_dim in 1usize..20, seed in 0u64..1000, masked in any::<bool>(),
    ) {
        let t = s + before;
        let dims = AttentionDims { b, n_heads: kv * group, n_kv_heads: kv, s, t, head_dim };
        let random = values(b * s, seed);
        let starts = (0..b * s)
            .map(|i| ((before + i % s) as f64 * random[i].abs().min(1.0)) as i64)
            .collect();
        let case = Case::new(dims, masked.then_some(starts));
        let found = case.run(Kernels::Fused, DType::F32, Layout::Swapped(1, 2));
        for (found, expected) in found.iter().zip(&case.expected()) {
            assert_close("random shape", found, expected, F32_TOLERANCE);
        }
    }
}
