//! Attention to parts of the keys, merged: as attention to all of them.

use burn::tensor::{DType, Device, Tensor};
use caravan_kernels::{AttentionPart, Kernels, SeenKeys};

use crate::plain::{self, AttentionDims};
use crate::support::{Layout, assert_close, host, input, ints, values, variants};

/// Queries over keys `0 .. t`, of which the last `s` are seen causally and the ones before in two parts, the queries of the
/// second of these in two halves.
struct Case {
    dims: AttentionDims,
    cut: usize,
    starts: Option<Vec<i64>>,
}

/// Of a part: its first query and key, their numbers, and whether it is causal.
type Part = ([usize; 2], [usize; 2], bool);

impl Case {
    fn parts(&self) -> Vec<Part> {
        let AttentionDims { s, t, .. } = self.dims;
        let (before, half) = (t - s, s / 2);
        let mut parts = vec![([0, before], [s, s], true), ([0, 0], [s, self.cut], false)];
        for (first, n) in [(0, half), (half, s - half)] {
            parts.push(([first, self.cut], [n, before - self.cut], false));
        }
        parts.retain(|(_, [n, m], _)| n * m > 0);
        parts
    }

    /// What the queries of a part see of its keys.
    fn seen(&self, ([query, key], [n, m], causal): Part, device: &Device) -> SeenKeys {
        let AttentionDims { b, s, .. } = self.dims;
        let first = self.starts.as_ref().map(|starts| {
            let row = |bi: usize| &starts[bi * s + query..][..n];
            let first = |&start: &i64| (start - key as i64).clamp(0, m as i64);
            let first: Vec<i64> = (0..b).flat_map(row).map(first).collect();
            ints(&first, [b, n], device)
        });
        SeenKeys { causal, first }
    }

    /// `[out, dq, dk, dv]`, merged and summed over the parts.
    fn run(
        &self,
        kernels: Kernels,
        dtype: DType,
        device: &Device,
        layout: Layout,
    ) -> [Vec<f64>; 4] {
        let AttentionDims { b, n_heads, n_kv_heads, s, t, head_dim } = self.dims;
        let (q_shape, k_shape) = ([b, n_heads, s, head_dim], [b, n_kv_heads, t, head_dim]);
        let [q, k, v, dout] = self.values();
        let tensor = |values: &[f64], shape| input::<4>(values, shape, layout, dtype, device);
        let (q, k, v) = (tensor(&q, q_shape), tensor(&k, k_shape), tensor(&v, k_shape));
        let dout = tensor(&dout, q_shape);
        let rows = |x: &Tensor<4>, first, n| x.clone().narrow(2, first, n);

        let mut whole: Option<AttentionPart> = None;
        for part @ ([query, key], [n, m], _) in self.parts() {
            let (q, k, v) = (rows(&q, query, n), rows(&k, key, m), rows(&v, key, m));
            let part = kernels.attention_part(q, k, v, &self.seen(part, device));
            whole = Some(match whole {
                None => part,
                Some(whole) => whole.merge(query, part),
            });
        }
        let whole = whole.expect("there is a part");
        let (mut dq, mut dk, mut dv) = (q.zeros_like(), k.zeros_like(), v.zeros_like());
        for part @ ([query, key], [n, m], _) in self.parts() {
            let inputs = [rows(&q, query, n), rows(&k, key, m), rows(&v, key, m)];
            let AttentionPart { out, lse } = whole.clone();
            let whole = AttentionPart { out: rows(&out, query, n), lse: lse.narrow(2, query, n) };
            let seen = self.seen(part, device);
            let parts =
                kernels.attention_part_backward(inputs, &seen, whole, rows(&dout, query, n));
            for (sum, (part, first)) in [&mut dq, &mut dk, &mut dv]
                .into_iter()
                .zip(parts.into_iter().zip([query, key, key]))
            {
                let [b, heads, n, d] = part.dims();
                let added = rows(sum, first, n) + part;
                *sum = sum.clone().slice_assign([0..b, 0..heads, first..first + n, 0..d], added);
            }
        }
        [host(whole.out), host(dq), host(dk), host(dv)]
    }

    /// `[q, k, v, dout]`.
    fn values(&self) -> [Vec<f64>; 4] {
        let AttentionDims { b, n_heads, n_kv_heads, s, t, head_dim } = self.dims;
        let (n_q, n_k) = (b * n_heads * s * head_dim, b * n_kv_heads * t * head_dim);
        [(n_q, 1), (n_k, 2), (n_k, 3), (n_q, 4)].map(|(n, seed)| values(n, seed))
    }

    fn check(&self, layout: Layout) {
        let [q, k, v, dout] = self.values();
        let expected = plain::attention(self.dims, [&q, &k, &v, &dout], self.starts.as_deref());
        for (kernels, dtype, tolerance, device) in variants() {
            let found = self.run(kernels, dtype, &device.clone().without_autodiff(), layout);
            for (name, (found, expected)) in
                ["out", "dq", "dk", "dv"].iter().zip(found.iter().zip(&expected))
            {
                let what = format!("{name} {kernels:?} {dtype:?} {:?} {}", self.dims, self.cut);
                assert_close(&what, found, expected, tolerance);
            }
        }
    }
}

#[test]
fn merged_parts_are_the_whole() {
    for ([n_heads, n_kv_heads], s, t, cut, head_dim) in [
        ([4, 2], 3, 9, 2, 8),
        ([6, 2], 70, 200, 50, 5),
        ([4, 4], 65, 66, 1, 32),
        ([2, 1], 130, 300, 130, 8),
        ([2, 1], 1, 40, 17, 24),
    ] {
        let dims = AttentionDims { b: 2, n_heads, n_kv_heads, s, t, head_dim };
        Case { dims, cut, starts: None }.check(Layout::Dense);
        // Documents that begin in every part, also such that blocks of queries see nothing of one.
        let starts = |i: usize| ((i % s + t - s) * (i / s + 1) / 2) as i64;
        let starts = (0..2 * s).map(starts).collect();
        Case { dims, cut, starts: Some(starts) }.check(Layout::Swapped(1, 2));
    }
}

#[test]
fn a_query_without_keys_has_no_result() {
    let (b, n_heads, s, t, head_dim) = (1, 2, 150, 40, 8);
    // The first block of queries sees nothing; of the others some do.
    let sees = |i: usize| i >= 70 && i.is_multiple_of(3);
    let first: Vec<i64> = (0..s).map(|i| if sees(i) { 7 } else { t as i64 }).collect();
    for (kernels, dtype, _, device) in variants() {
        let device = device.without_autodiff();
        let tensor = |n, seed| {
            input::<4>(
                &values(2 * n * head_dim, seed),
                [b, n_heads, n, head_dim],
                Layout::Dense,
                dtype,
                &device,
            )
        };
        for n in [s, 3] {
            let seen = SeenKeys { causal: false, first: Some(ints(&first[..n], [b, n], &device)) };
            let part = kernels.attention_part(tensor(n, 1), tensor(t, 2), tensor(t, 3), &seen);
            let (out, lse) = (host(part.out.clone()), host(part.lse.clone()));
            for row in 0..n_heads * n {
                let out = &out[row * head_dim..][..head_dim];
                if sees(row % n) {
                    assert!(lse[row].is_finite() && out.iter().all(|x| x.is_finite() && *x != 0.0));
                } else {
                    assert_eq!(lse[row], f64::NEG_INFINITY, "{kernels:?} {dtype:?} {row}");
                    assert!(out.iter().all(|x| *x == 0.0), "{kernels:?} {dtype:?} {row}: {out:?}");
                }
            }
            let merged = part.clone().merge(0, part);
            assert!(host(merged.out).iter().all(|x| x.is_finite()));
        }
    }
}

#[test]
#[should_panic(expected = "document_starts[0, 0] is 4, but must be in 0..=3")]
fn a_document_starts_at_a_key_or_after_the_last() {
    let device = Device::flex();
    let x = Tensor::<4>::zeros([1, 1, 3, 8], &device);
    let seen = SeenKeys { causal: false, first: Some(ints(&[4, 0, 0], [1, 3], &device)) };
    Kernels::Fused.attention_part(x.clone(), x.clone(), x, &seen);
}

#[test]
#[should_panic(expected = "a part is for plain tensors")]
fn parts_have_no_gradient_of_their_own() {
    let x = Tensor::<4>::zeros([1, 1, 3, 8], &Device::flex().autodiff());
    let seen = SeenKeys { causal: true, first: None };
    Kernels::Fused.attention_part(x.clone(), x.clone(), x, &seen);
}
