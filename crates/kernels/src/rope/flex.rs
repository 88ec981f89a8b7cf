//! The rotary embedding in f32 on the CPU: one pass over views of any strides, in place where
//! nobody else looks.
#![allow(unsafe_code)] // the output is declared written once every row was

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::{RopeKernels, Turn, composed_turn};
use crate::flex_data::{Slot, all_f32, floats, own_floats, tensor, unwritten, written};
use crate::simd::{madd, multiversion};

/// Positions per task.
const ROWS: usize = 32;

impl RopeKernels for Flex {
    /// The result lies in memory as `[b, s, heads, head_dim]`, the order of the projections.
    fn rope_turn(x: FlexTensor, cos: FlexTensor, sin: FlexTensor, turn: Turn) -> FlexTensor {
        if !all_f32(&[&x, &cos, &sin]) {
            return composed_turn::<Self>(x, cos, sin, turn);
        }
        let (cos, sin) = (cos.to_contiguous(), sin.to_contiguous());
        let [b, heads, s, head_dim] = x.layout().shape().dims();
        let tables =
            Tables { cos: floats(&cos), sin: floats(&sin), sign: turn.sign(), half: head_dim / 2 };
        let width = (heads * head_dim).max(1);

        let mut x = swap_positions_and_heads(x);
        if let Some(values) = own_floats(&mut x) {
            values.par_chunks_mut(ROWS * width).enumerate().for_each(|(task, rows)| {
                turn_in_place(rows, width, tables, task * ROWS, s);
            });
            return swap_positions_and_heads(x);
        }
        let x = if x.layout().strides()[3] == 1 { x } else { x.to_contiguous() };
        let strides = x.layout().strides();
        let rows = Rows {
            storage: x.storage::<f32>(),
            start: x.layout().start_offset() as isize,
            strides: [strides[0], strides[1], strides[2]],
            n_positions: s,
        };
        let mut y = unwritten(b * s * heads * head_dim);
        y.par_chunks_mut(ROWS * width).enumerate().for_each(|(task, y)| {
            turn_rows(rows, width, tables, task * ROWS, y);
        });
        // SAFETY: the tasks cover every row, and `turn_rows` writes each of them whole.
        let y = tensor(unsafe { written(y) }, [b, s, heads, head_dim]);
        swap_positions_and_heads(y)
    }
}

impl Turn {
    fn sign(self) -> f32 {
        match self {
            Turn::Forward => 1.0,
            Turn::Back => -1.0,
        }
    }
}

/// `[b, heads, s, d]` to `[b, s, heads, d]` and back, without touching the values or their count
/// of owners.
fn swap_positions_and_heads(x: FlexTensor) -> FlexTensor {
    let layout = x.layout().transpose(1, 2);
    x.with_layout(layout)
}

/// The tables `[s, half]` and the sense of the rotation.
#[derive(Clone, Copy)]
struct Tables<'a> {
    cos: &'a [f32],
    sin: &'a [f32],
    sign: f32,
    half: usize,
}

/// A view `[b, s, heads, head_dim]` whose last dim is dense.
#[derive(Clone, Copy)]
struct Rows<'a> {
    storage: &'a [f32],
    start: isize,
    strides: [isize; 3],
    n_positions: usize,
}

impl<'a> Rows<'a> {
    #[inline(always)]
    fn head(&self, row: usize, head: usize, head_dim: usize) -> &'a [f32] {
        let (b, s) = (row / self.n_positions, row % self.n_positions);
        let [b_stride, s_stride, head_stride] = self.strides;
        let offset = b as isize * b_stride + s as isize * s_stride + head as isize * head_stride;
        &self.storage[(self.start + offset) as usize..][..head_dim]
    }
}

multiversion!(fn turn_in_place(rows: &mut [f32], width: usize, tables: Tables<'_>, first_row: usize, n_positions: usize) = in_place_body);
multiversion!(fn turn_rows(x: Rows<'_>, width: usize, tables: Tables<'_>, first_row: usize, y: &mut [Slot]) = rows_body);

#[inline(always)]
fn in_place_body<const FMA: bool>(
    rows: &mut [f32],
    width: usize,
    tables: Tables<'_>,
    first_row: usize,
    n_positions: usize,
) {
    let half = tables.half;
    for (i, row) in rows.chunks_exact_mut(width).enumerate() {
        let position = (first_row + i) % n_positions;
        let cos = &tables.cos[position * half..][..half];
        let sin = &tables.sin[position * half..][..half];
        for head in row.chunks_exact_mut(2 * half) {
            let (a, b) = head.split_at_mut(half);
            for (((a, b), &c), &s) in a.iter_mut().zip(b).zip(cos).zip(sin) {
                let s = s * tables.sign;
                (*a, *b) = (madd::<FMA>(*a, c, -(*b * s)), madd::<FMA>(*b, c, *a * s));
            }
        }
    }
}

#[inline(always)]
fn rows_body<const FMA: bool>(
    x: Rows<'_>,
    width: usize,
    tables: Tables<'_>,
    first_row: usize,
    y: &mut [Slot],
) {
    let half = tables.half;
    for (i, row) in y.chunks_exact_mut(width).enumerate() {
        let position = (first_row + i) % x.n_positions;
        let cos = &tables.cos[position * half..][..half];
        let sin = &tables.sin[position * half..][..half];
        for (head, y) in row.chunks_exact_mut(2 * half).enumerate() {
            let (a, b) = x.head(first_row + i, head, 2 * half).split_at(half);
            let (ya, yb) = y.split_at_mut(half);
            for i in 0..half {
                let s = sin[i] * tables.sign;
                ya[i].write(madd::<FMA>(a[i], cos[i], -(b[i] * s)));
                yb[i].write(madd::<FMA>(b[i], cos[i], a[i] * s));
            }
        }
    }
}
