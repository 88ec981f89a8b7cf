//! The AdamW update as one pass over host memory.
//!
//! Every element is updated by the same few correctly rounded f32 operations as in the composed form of
//! `adamw.rs`, in the same order, so both give the same bits. Work is cut into fixed chunks only to
//! spread it over threads; no value crosses from one element to another.

use rayon::prelude::*;

/// Elements per task: about 50 us of work, and small enough that a chunk of all four arrays fits L2.
const CHUNK: usize = 16_384;

/// The f32 factors of one update, rounded once from f64.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Factors {
    pub(crate) grad_scale: Option<f32>,
    pub(crate) beta1: f32,
    pub(crate) one_minus_beta1: f32,
    pub(crate) beta2: f32,
    pub(crate) one_minus_beta2: f32,
    /// `1 / sqrt(1 - beta2^t)`.
    pub(crate) inverse_root_correction: f32,
    pub(crate) eps: f32,
    /// `1 - lr * decay`, absent where nothing decays.
    pub(crate) keep: Option<f32>,
    /// `lr / (1 - beta1^t)`.
    pub(crate) step_size: f32,
}

/// Updates `param`, `moment1` and `moment2` (all of one length) in place.
pub(crate) fn update(
    param: &mut [f32],
    grad: &[f32],
    moment1: &mut [f32],
    moment2: &mut [f32],
    f: Factors,
) {
    param
        .par_chunks_mut(CHUNK)
        .zip(grad.par_chunks(CHUNK))
        .zip(moment1.par_chunks_mut(CHUNK))
        .zip(moment2.par_chunks_mut(CHUNK))
        .for_each(|(((p, g), m), v)| update_chunk(p, g, m, v, f));
}

fn update_chunk(param: &mut [f32], grad: &[f32], m1: &mut [f32], m2: &mut [f32], f: Factors) {
    // Multiplying by one changes no bit (signalling NaN aside), so the absent factors need no branch.
    let (grad_scale, keep) = (f.grad_scale.unwrap_or(1.0), f.keep.unwrap_or(1.0));
    for (((p, &g), m), v) in param.iter_mut().zip(grad).zip(m1).zip(m2) {
        let g = g * grad_scale;
        *m = *m * f.beta1 + g * f.one_minus_beta1;
        *v = *v * f.beta2 + (g * g) * f.one_minus_beta2;
        let denominator = v.sqrt() * f.inverse_root_correction + f.eps;
        *p = *p * keep - (*m / denominator) * f.step_size;
    }
}
