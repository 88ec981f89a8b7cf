//! RMSNorm, the rotary embedding and SwiGLU.

use burn::tensor::{DType, Device, Tensor};
use caravan_kernels::Kernels;

use crate::plain;
use crate::support::{F32_TOLERANCE, Layout, assert_close, host, input, values, variants};

/// Compares `y` and the gradients of `inputs` for the incoming gradient `dy`.
fn check<const D: usize>(
    what: &str,
    y: Tensor<D>,
    dy: Tensor<D>,
    inputs: &[Box<dyn Fn(&burn::tensor::Gradients) -> Vec<f64>>],
    expected: &[Vec<f64>],
    tolerance: f64,
) {
    assert_close(&format!("y of {what}"), &host(y.clone()), &expected[0], tolerance);
    let grads = (y * dy).sum().backward();
    for (i, (gradient, expected)) in inputs.iter().zip(&expected[1..]).enumerate() {
        assert_close(&format!("gradient {i} of {what}"), &gradient(&grads), expected, tolerance);
    }
}

fn gradient<const D: usize>(x: &Tensor<D>) -> Box<dyn Fn(&burn::tensor::Gradients) -> Vec<f64>> {
    let x = x.clone();
    Box::new(move |grads| host(x.grad(grads).expect("tracked")))
}

#[test]
fn rms_norm_equals_plain_loops() {
    for ([a, b], d, layout) in [
        ([1, 1], 1, Layout::Dense),
        ([1, 3], 5, Layout::Dense),
        ([2, 33], 64, Layout::Dense),
        ([4, 65], 320, Layout::Dense),
        ([3, 7], 100, Layout::Swapped(0, 1)),
        ([3, 7], 100, Layout::Swapped(1, 2)),
    ] {
        let (x, w, dy) = (values(a * b * d, 1), values(d, 2), values(a * b * d, 3));
        let expected = plain::rms_norm(&x, &w, 1e-5, &dy);
        for (kernels, dtype, tolerance, device) in variants() {
            let x = input::<3>(&x, [a, b, d], layout, dtype, &device).require_grad();
            let w = input::<1>(&w, [d], Layout::Dense, dtype, &device).require_grad();
            let dy = input::<3>(&dy, [a, b, d], layout, dtype, &device);
            let y = kernels.rms_norm(x.clone(), w.clone(), 1e-5);
            let what = format!("rms_norm {kernels:?} {dtype:?} {device:?} {a} {b} {d} {layout:?}");
            check(&what, y, dy, &[gradient(&x), gradient(&w)], &expected, tolerance);
        }
    }
}

#[test]
fn rope_equals_plain_loops() {
    for ([b, heads, s, d], layout) in [
        ([1, 1, 1, 2], Layout::Dense),
        ([2, 3, 7, 48], Layout::Dense),
        ([2, 6, 64, 48], Layout::Swapped(1, 2)),
        ([2, 2, 130, 6], Layout::Swapped(2, 3)),
        ([1, 4, 257, 64], Layout::Swapped(1, 2)),
    ] {
        let n = b * heads * s * d;
        let (x, dy) = (values(n, 1), values(n, 2));
        let angles = values(s * d / 2, 3);
        let single = |f: fn(f64) -> f64| -> Vec<f64> {
            angles.iter().map(|&x| f64::from(f(x) as f32)).collect()
        };
        let (cos, sin) = (single(f64::cos), single(f64::sin));
        let expected = plain::rope(&x, &cos, &sin, s, &dy);
        for (kernels, dtype, tolerance, device) in variants() {
            let x = input::<4>(&x, [b, heads, s, d], layout, dtype, &device).require_grad();
            let dy = input::<4>(&dy, [b, heads, s, d], layout, dtype, &device);
            let table = |t: &[f64]| input::<2>(t, [s, d / 2], Layout::Dense, dtype, &device);
            let y = kernels.rope(x.clone(), table(&cos), table(&sin));
            let what =
                format!("rope {kernels:?} {dtype:?} {device:?} {b} {heads} {s} {d} {layout:?}");
            check(&what, y, dy, &[gradient(&x)], &expected, tolerance);
        }
    }
}

#[test]
fn rope_turns_in_place_only_when_alone() {
    let device = Device::flex();
    let table = |t: f64| input::<2>(&[t; 12], [3, 4], Layout::Dense, DType::F32, &device);
    for layout in [Layout::Dense, Layout::Swapped(1, 2)] {
        let x = input::<4>(&values(48, 1), [1, 2, 3, 8], layout, DType::F32, &device);
        let held = x.clone();
        let shared = host(Kernels::Fused.rope(x, table(0.6), table(0.8)));
        assert_eq!(host(held.clone()), values(48, 1), "the input is still the caller's");
        let alone = input::<4>(&host(held), [1, 2, 3, 8], layout, DType::F32, &device);
        assert_eq!(host(Kernels::Fused.rope(alone, table(0.6), table(0.8))), shared);
    }
}

#[test]
fn swiglu_equals_plain_loops() {
    for ([a, b], layout) in [
        ([1, 1], Layout::Dense),
        ([3, 7], Layout::Dense),
        ([130, 257], Layout::Dense),
        ([70, 64], Layout::Swapped(0, 1)),
    ] {
        let (gate, up, dy) = (values(a * b, 1), values(a * b, 2), values(a * b, 3));
        let expected = plain::swiglu(&gate, &up, &dy);
        for (kernels, dtype, tolerance, device) in variants() {
            let leaf = |x: &[f64]| input::<2>(x, [a, b], layout, dtype, &device).require_grad();
            let (gate, up) = (leaf(&gate), leaf(&up));
            let y = kernels.swiglu(gate.clone(), up.clone());
            let dy = input::<2>(&dy, [a, b], layout, dtype, &device);
            let what = format!("swiglu {kernels:?} {dtype:?} {device:?} {a} {b} {layout:?}");
            check(&what, y, dy, &[gradient(&gate), gradient(&up)], &expected, tolerance);
        }
    }
}

#[test]
fn swiglu_of_large_gates_is_finite() {
    let device = Device::flex();
    let gate = [-1e4, -100.0, 100.0, 1e4];
    let x = |v: &[f64]| input::<1>(v, [4], Layout::Dense, DType::F32, &device);
    let y = host(Kernels::Fused.swiglu(x(&gate), x(&[1.0; 4])));
    assert_close("swiglu", &y, &[0.0, 0.0, 100.0, 1e4], 1e-7);
}

#[test]
fn expanded_gradients() {
    let device = Device::flex().autodiff();
    let leaf = |n, seed| {
        input::<2>(&values(n, seed), [n / 8, 8], Layout::Dense, DType::F32, &device).require_grad()
    };
    let (x, up) = (leaf(40, 1), leaf(40, 2));
    let w = input::<1>(&values(8, 3), [8], Layout::Dense, DType::F32, &device).require_grad();
    let ones = [1.0; 40];
    let y = Kernels::Fused.rms_norm(x.clone(), w.clone(), 1e-5);
    let grads = y.sum().backward();
    let [_, dx, dw] = plain::rms_norm(&values(40, 1), &values(8, 3), 1e-5, &ones);
    assert_close("dx", &host(x.grad(&grads).expect("tracked")), &dx, F32_TOLERANCE);
    assert_close("dw", &host(w.grad(&grads).expect("tracked")), &dw, F32_TOLERANCE);

    let grads = Kernels::Fused.swiglu(x.clone(), up.clone()).sum().backward();
    let [_, dgate, dup] = plain::swiglu(&values(40, 1), &values(40, 2), &ones);
    assert_close("dgate", &host(x.grad(&grads).expect("tracked")), &dgate, F32_TOLERANCE);
    assert_close("dup", &host(up.grad(&grads).expect("tracked")), &dup, F32_TOLERANCE);

    let x = input::<4>(&values(40, 1), [1, 1, 5, 8], Layout::Dense, DType::F32, &device);
    let x = x.require_grad();
    let (cos, sin) = (values(20, 5), values(20, 6));
    let table = |t: &[f64]| input::<2>(t, [5, 4], Layout::Dense, DType::F32, &device);
    let grads = Kernels::Fused.rope(x.clone(), table(&cos), table(&sin)).sum().backward();
    let [_, dx] = plain::rope(&values(40, 1), &cos, &sin, 5, &ones);
    assert_close("dx", &host(x.grad(&grads).expect("tracked")), &dx, F32_TOLERANCE);
}

#[test]
fn an_input_used_twice_keeps_its_values() {
    // The backward writes in place only into buffers that the graph alone holds.
    let device = Device::flex().autodiff();
    let x = input::<2>(&values(64, 1), [8, 8], Layout::Dense, DType::F32, &device).require_grad();
    let grads = Kernels::Fused.swiglu(x.clone(), x.clone()).sum().backward();
    let [_, dgate, dup] = plain::swiglu(&values(64, 1), &values(64, 1), &[1.0; 64]);
    let expected: Vec<f64> = dgate.iter().zip(&dup).map(|(a, b)| a + b).collect();
    assert_close("dx", &host(x.grad(&grads).expect("tracked")), &expected, F32_TOLERANCE);
    assert_eq!(host(x), values(64, 1));
}

#[test]
#[should_panic(expected = "rms_norm: x is [2, 3], but the weight has 4 elements")]
fn the_weight_must_fit() {
    let device = Device::flex();
    let x = input::<2>(&values(6, 1), [2, 3], Layout::Dense, DType::F32, &device);
    let w = input::<1>(&values(4, 1), [4], Layout::Dense, DType::F32, &device);
    let _ = Kernels::Fused.rms_norm(x, w, 1e-5);
}

#[test]
#[should_panic(expected = "rope: head_dim 5 of [1, 1, 2, 5] is odd")]
fn pairs_need_an_even_dim() {
    let device = Device::flex();
    let x = input::<4>(&values(10, 1), [1, 1, 2, 5], Layout::Dense, DType::F32, &device);
    let table = input::<2>(&values(4, 1), [2, 2], Layout::Dense, DType::F32, &device);
    let _ = Kernels::Fused.rope(x, table.clone(), table);
}
