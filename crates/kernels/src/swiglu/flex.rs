//! SwiGLU in f32 on the CPU: one pass forward, one backward, in place where nobody else looks.
#![allow(unsafe_code)] // outputs are declared written once every element was

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::{SwigluKernels, composed_backward, composed_forward};
use crate::flex_data::{Slot, all_f32, floats, own_floats, owned, tensor, unwritten, written};
use crate::simd::{exp, madd, multiversion};

/// Elements per task: 64 KiB of each array, a few tasks per thread at usual sizes.
const CHUNK: usize = 16 * 1024;

impl SwigluKernels for Flex {
    fn swiglu_forward(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        if !all_f32(&[&gate, &up]) {
            return composed_forward::<Self>(gate, up);
        }
        let (gate, up) = (gate.to_contiguous(), up.to_contiguous());
        let mut y = unwritten(floats(&gate).len());
        y.par_chunks_mut(CHUNK)
            .zip(floats(&gate).par_chunks(CHUNK))
            .zip(floats(&up).par_chunks(CHUNK))
            .for_each(|((y, gate), up)| forward_chunk(gate, up, y));
        // SAFETY: the tasks cover every element, and `forward_chunk` writes its whole chunk.
        tensor(unsafe { written(y) }, gate.layout().shape().clone())
    }

    fn swiglu_backward(
        gate: FlexTensor,
        up: FlexTensor,
        dy: FlexTensor,
    ) -> (FlexTensor, FlexTensor) {
        if !all_f32(&[&gate, &up, &dy]) {
            return composed_backward::<Self>(gate, up, dy);
        }
        let dy = dy.to_contiguous();
        // Each gradient takes the place of its input if the graph was the last to hold it.
        let (mut dgate, mut dup) = (owned(gate), owned(up));
        let (a, b) = (own_floats(&mut dgate), own_floats(&mut dup));
        let (a, b) = a.zip(b).expect("`owned` made both sole owners");
        a.par_chunks_mut(CHUNK)
            .zip(b.par_chunks_mut(CHUNK))
            .zip(floats(&dy).par_chunks(CHUNK))
            .for_each(|((gate, up), dy)| backward_chunk(gate, up, dy));
        (dgate, dup)
    }
}

multiversion!(fn forward_chunk(gate: &[f32], up: &[f32], y: &mut [Slot]) = forward_body);
multiversion!(fn backward_chunk(gate: &mut [f32], up: &mut [f32], dy: &[f32]) = backward_body);

#[inline(always)]
fn forward_body<const FMA: bool>(gate: &[f32], up: &[f32], y: &mut [Slot]) {
    for ((y, &a), &b) in y.iter_mut().zip(gate).zip(up) {
        y.write(a * b / (1.0 + exp::<FMA>(-a)));
    }
}

/// The formula of `composed_backward`; gradients replace the inputs.
#[inline(always)]
fn backward_body<const FMA: bool>(gate: &mut [f32], up: &mut [f32], dy: &[f32]) {
    for ((a, b), &g) in gate.iter_mut().zip(up).zip(dy) {
        let s = 1.0 / (1.0 + exp::<FMA>(-*a));
        let h = *a * s;
        *a = g * *b * madd::<FMA>(h, 1.0 - s, s);
        *b = g * h;
    }
}
