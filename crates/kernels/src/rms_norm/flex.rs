//! RMSNorm in f32 on the CPU: one pass over the rows forward, one backward.
#![allow(unsafe_code)] // outputs are declared written once every row was

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::{RmsNormKernels, composed_backward, composed_forward};
use crate::flex_data::{Slot, all_f32, floats, tensor, unwritten, written};
use crate::simd::{LANES, dot, fold, madd, multiversion};

/// Rows per task. Fixed, so that the order of the sum in `dweight` never depends on the threads.
const ROWS: usize = 32;

impl RmsNormKernels for Flex {
    fn rms_norm_forward(x: FlexTensor, weight: FlexTensor, eps: f64) -> (FlexTensor, FlexTensor) {
        if !all_f32(&[&x, &weight]) {
            return composed_forward::<Self>(x, weight, eps);
        }
        let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
        let (xs, w) = (floats(&x), floats(&weight));
        let (d, eps) = (w.len().max(1), eps as f32);
        let mut y = unwritten(xs.len());
        let mut rstd = unwritten(xs.len() / d);
        y.par_chunks_mut(ROWS * d)
            .zip(rstd.par_chunks_mut(ROWS))
            .zip(xs.par_chunks(ROWS * d))
            .for_each(|((y, rstd), x)| forward_rows(x, w, eps, y, rstd));
        // SAFETY: the tasks cover every row, and `forward_rows` writes all of its outputs.
        let (y, rstd) = unsafe { (written(y), written(rstd)) };
        let mut rstd_dims = x.layout().shape().to_vec();
        *rstd_dims.last_mut().expect("x has a last dim") = 1;
        (tensor(y, x.layout().shape().clone()), tensor(rstd, rstd_dims))
    }

    fn rms_norm_backward(
        x: FlexTensor,
        weight: FlexTensor,
        rstd: FlexTensor,
        dy: FlexTensor,
    ) -> (FlexTensor, FlexTensor) {
        if !all_f32(&[&x, &weight, &rstd, &dy]) {
            return composed_backward::<Self>(x, weight, rstd, dy);
        }
        let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
        let (rstd, dy) = (rstd.to_contiguous(), dy.to_contiguous());
        let (xs, w) = (floats(&x), floats(&weight));
        let d = w.len().max(1);
        let mut dx = unwritten(xs.len());
        let mut partial = vec![0.0; xs.len().div_ceil(ROWS * d) * d]; // [tasks, d]
        dx.par_chunks_mut(ROWS * d)
            .zip(partial.par_chunks_mut(d))
            .zip(xs.par_chunks(ROWS * d))
            .zip(floats(&dy).par_chunks(ROWS * d))
            .zip(floats(&rstd).par_chunks(ROWS))
            .for_each(|((((dx, dw), x), dy), rstd)| backward_rows(x, w, rstd, dy, dx, dw));
        let mut dweight = vec![0.0; w.len()];
        for partial in partial.chunks_exact(d) {
            for (sum, part) in dweight.iter_mut().zip(partial) {
                *sum += part;
            }
        }
        // SAFETY: the tasks cover every row, and `backward_rows` writes each row whole.
        let dx = unsafe { written(dx) };
        (tensor(dx, x.layout().shape().clone()), tensor(dweight, weight.layout().shape().clone()))
    }
}

multiversion!(fn forward_rows(x: &[f32], w: &[f32], eps: f32, y: &mut [Slot], rstd: &mut [Slot]) = forward_body);
multiversion!(fn backward_rows(x: &[f32], w: &[f32], rstd: &[f32], dy: &[f32], dx: &mut [Slot], dw: &mut [f32]) = backward_body);

#[inline(always)]
fn forward_body<const FMA: bool>(
    x: &[f32],
    w: &[f32],
    eps: f32,
    y: &mut [Slot],
    rstd: &mut [Slot],
) {
    let d = w.len();
    for ((x, y), rstd) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)).zip(rstd) {
        let r = 1.0 / (dot::<FMA>(x, x) / d as f32 + eps).sqrt();
        rstd.write(r);
        for ((y, &x), &w) in y.iter_mut().zip(x).zip(w) {
            y.write(x * r * w);
        }
    }
}

/// The formula of `composed_backward`; adds the rows' share to `dw`.
#[inline(always)]
fn backward_body<const FMA: bool>(
    x: &[f32],
    w: &[f32],
    rstd: &[f32],
    dy: &[f32],
    dx: &mut [Slot],
    dw: &mut [f32],
) {
    let d = w.len();
    let dw = &mut dw[..d];
    let rows = x.chunks_exact(d).zip(dy.chunks_exact(d)).zip(dx.chunks_exact_mut(d)).zip(rstd);
    for (((x, dy), dx), &r) in rows {
        let mean = dot3::<FMA>(dy, w, x) * r / d as f32;
        for i in 0..d {
            let n = x[i] * r;
            dw[i] = madd::<FMA>(dy[i], n, dw[i]);
            dx[i].write(r * madd::<FMA>(dy[i], w[i], -(n * mean)));
        }
    }
}

/// `sum a[i] * b[i] * c[i]`.
#[inline(always)]
fn dot3<const FMA: bool>(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    let mut acc = [0.0; LANES];
    let n = a.len();
    let (b, c) = (&b[..n], &c[..n]);
    let whole = n - n % LANES;
    for start in (0..whole).step_by(LANES) {
        let (a, b, c) = (&a[start..][..LANES], &b[start..][..LANES], &c[start..][..LANES]);
        for i in 0..LANES {
            acc[i] = madd::<FMA>(a[i] * b[i], c[i], acc[i]);
        }
    }
    let tail = (whole..n).fold(0.0, |sum, i| madd::<FMA>(a[i] * b[i], c[i], sum));
    fold(acc) + tail
}
