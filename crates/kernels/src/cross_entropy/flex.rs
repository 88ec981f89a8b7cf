//! Cross-entropy in f32 on the CPU: a row fits the first cache, the gradient replaces the logits.
#![allow(unsafe_code)] // outputs are declared written once every row was

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::{CrossEntropyKernels, composed_backward, composed_rows, composed_scores};
use crate::flex_data::{
    Slot, all_f32, floats, integers, own_floats, owned, tensor, unwritten, written,
};
use crate::simd::{exp, max, multiversion, sum};

/// Rows per task.
const ROWS: usize = 16;
/// Logits whose exponentials are added in f32.
const STRETCH: usize = 1024;
/// A row that does not count.
const IGNORED: i32 = -1;

impl CrossEntropyKernels for Flex {
    fn cross_entropy_rows(logits: FlexTensor, targets: FlexTensor) -> (FlexTensor, FlexTensor) {
        let [n, vocab] = logits.layout().shape().dims();
        let classes = integers(&targets);
        check_classes(&classes, vocab);
        if !all_f32(&[&logits]) {
            return composed_rows::<Self>(logits, targets.clone());
        }
        let logits = logits.to_contiguous();
        let (mut losses, mut lse) = (unwritten(n), unwritten(n));
        losses
            .par_chunks_mut(ROWS)
            .zip(lse.par_chunks_mut(ROWS))
            .zip(floats(&logits).par_chunks(ROWS * vocab))
            .zip(classes.par_chunks(ROWS))
            .for_each(|(((losses, lse), logits), classes)| {
                forward_rows(logits, vocab, classes, losses, lse);
            });
        // SAFETY: the tasks cover every row, and `forward_rows` writes both outputs of each.
        unsafe { (tensor(written(losses), [n]), tensor(written(lse), [n])) }
    }

    fn token_scores_rows(logits: FlexTensor, targets: FlexTensor) -> FlexTensor {
        let [n, vocab] = logits.layout().shape().dims();
        let classes = integers(&targets);
        check_classes(&classes, vocab);
        if !all_f32(&[&logits]) {
            return composed_scores::<Self>(logits, targets.clone());
        }
        let logits = logits.to_contiguous();
        let mut scores = unwritten(2 * n);
        scores
            .par_chunks_mut(2 * ROWS)
            .zip(floats(&logits).par_chunks(ROWS * vocab))
            .zip(classes.par_chunks(ROWS))
            .for_each(|((scores, logits), classes)| score_rows(logits, vocab, classes, scores));
        // SAFETY: the tasks cover every row, and `score_rows` writes both numbers of each.
        tensor(unsafe { written(scores) }, [n, 2])
    }

    /// In f64 and in the order of the rows: the sum of a large batch loses nothing.
    fn cross_entropy_sum(losses: FlexTensor) -> FlexTensor {
        if !all_f32(&[&losses]) {
            return <Self as burn::backend::ops::FloatTensorOps<Self>>::float_sum(losses);
        }
        let losses = losses.to_contiguous();
        let total: f64 = floats(&losses).iter().map(|&x| f64::from(x)).sum();
        tensor(vec![total as f32], [1])
    }

    fn cross_entropy_backward(
        logits: FlexTensor,
        targets: FlexTensor,
        lse: FlexTensor,
        dy: FlexTensor,
    ) -> FlexTensor {
        if !all_f32(&[&logits, &lse, &dy]) {
            return composed_backward::<Self>(logits, targets, lse, dy);
        }
        let [_, vocab] = logits.layout().shape().dims();
        let (classes, lse, dy) = (integers(&targets), lse.to_contiguous(), dy.to_contiguous());
        let dy = floats(&dy)[0];
        let mut dlogits = owned(logits);
        own_floats(&mut dlogits)
            .expect("`owned` gives a sole owner")
            .par_chunks_mut(ROWS * vocab)
            .zip(classes.par_chunks(ROWS))
            .zip(floats(&lse).par_chunks(ROWS))
            .for_each(|((rows, classes), lse)| backward_rows(rows, vocab, classes, lse, dy));
        dlogits
    }
}

/// # Panics
/// At the first target that is neither a class nor [`IGNORED`].
fn check_classes(classes: &[i32], vocab: usize) {
    let known = |&class: &i32| class == IGNORED || usize::try_from(class).is_ok_and(|c| c < vocab);
    if let Some(row) = classes.iter().position(|class| !known(class)) {
        panic!(
            "cross_entropy: target {} of row {row} is neither -1 nor below the vocabulary size {vocab}",
            classes[row]
        );
    }
}

multiversion!(fn forward_rows(logits: &[f32], vocab: usize, classes: &[i32], losses: &mut [Slot], lse: &mut [Slot]) = forward_body);
multiversion!(fn score_rows(logits: &[f32], vocab: usize, classes: &[i32], scores: &mut [Slot]) = score_body);
multiversion!(fn backward_rows(rows: &mut [f32], vocab: usize, classes: &[i32], lse: &[f32], dy: f32) = backward_body);

#[inline(always)]
fn forward_body<const FMA: bool>(
    logits: &[f32],
    vocab: usize,
    classes: &[i32],
    losses: &mut [Slot],
    lse: &mut [Slot],
) {
    for (((x, &class), loss), lse) in logits.chunks_exact(vocab).zip(classes).zip(losses).zip(lse) {
        let m = max(x);
        let log_sum = m + sum(x, |x| exp::<FMA>(x - m)).ln();
        lse.write(log_sum);
        loss.write(if class == IGNORED { 0.0 } else { log_sum - x[class as usize] });
    }
}

#[inline(always)]
fn score_body<const FMA: bool>(logits: &[f32], vocab: usize, classes: &[i32], scores: &mut [Slot]) {
    let rows = logits.chunks_exact(vocab).zip(classes);
    for ((x, &class), scores) in rows.zip(scores.chunks_exact_mut(2)) {
        let m = max(x);
        // Scores of many tokens are added up: what a long f32 sum loses would add up, too.
        let mut total = 0.0f64;
        for x in x.chunks(STRETCH) {
            total += f64::from(sum(x, |x| exp::<FMA>(x - m)));
        }
        let log_sum = total.ln();
        let (mut loss, mut is_best) = (0.0, false);
        if class != IGNORED {
            let (before, at) = (&x[..class as usize], x[class as usize]);
            loss = (f64::from(m - at) + log_sum) as f32;
            // Of equal ones the first counts.
            is_best = at == m && !before.contains(&m);
        }
        scores[0].write(loss);
        scores[1].write(if is_best { 1.0 } else { 0.0 });
    }
}

/// `dy (softmax - onehot)` in place of the logits, 0 in ignored rows.
#[inline(always)]
fn backward_body<const FMA: bool>(
    rows: &mut [f32],
    vocab: usize,
    classes: &[i32],
    lse: &[f32],
    dy: f32,
) {
    for ((x, &class), &lse) in rows.chunks_exact_mut(vocab).zip(classes).zip(lse) {
        if class == IGNORED {
            x.fill(0.0);
            continue;
        }
        for x in x.iter_mut() {
            *x = exp::<FMA>(*x - lse) * dy;
        }
        x[class as usize] -= dy;
    }
}
