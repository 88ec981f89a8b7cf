//! One batch through the model.

use burn::tensor::{Int, Tensor, TensorData};
use caravan_model::{Forward, Positions};
use rayon::prelude::*;

use super::Answer;
use super::plan::{Member, Unit, stretches};
use crate::text::to_host;

/// At most this many logits exist at once (256 MiB in f32), or one column of them.
const CHUNK_LOGITS: usize = 1 << 26;

/// What the model says about one token of one member.
struct Scored {
    row: usize,
    log_prob: f64,
    greedy: bool,
}

/// The answers of a batch, with their slots.
pub(super) fn run(
    model: &dyn Forward,
    batch: &[Unit],
    batch_tokens: usize,
) -> Vec<(usize, Answer)> {
    let vocab_size = model.config().vocab_size;
    let shared = batch.iter().map(|unit| unit.shared).min().expect("a batch has a unit");
    let members: Vec<(usize, &Member)> = batch
        .iter()
        .enumerate()
        .flat_map(|(unit, Unit { members, .. })| members.iter().map(move |member| (unit, member)))
        .collect();

    let prefixes: Vec<&[u32]> = batch.iter().map(|unit| &unit.members[0].ids[..shared]).collect();
    let mut cache = model.new_cache(batch.len(), shared);
    let logits = model.extend(tokens(model, &prefixes, shared), &mut cache, Positions::Last);
    let logits = to_host(logits); // [units, vocab]
    let first = members.iter().enumerate().filter(|(_, (_, member))| member.first() + 1 == shared);
    let wanted = first.map(|(row, (unit, member))| {
        (row, &logits[unit * vocab_size..][..vocab_size], member.wanted[0])
    });
    let mut scored = score(wanted.collect());

    // What is left of the members that are longer than the prefix.
    let mut rows: Vec<usize> =
        (0..members.len()).filter(|row| members[*row].1.ids.len() > shared).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(members[*row].1.ids.len()));
    let lengths: Vec<usize> = rows.iter().map(|row| members[*row].1.ids.len() - shared).collect();
    for range in stretches(&lengths, batch_tokens) {
        let columns = lengths[range.start];
        let rows = &rows[range];
        let units: Vec<usize> = rows.iter().map(|row| members[*row].0).collect();
        let mut cache = cache.select(&units, columns);
        // Some columns at a time.
        let step = (CHUNK_LOGITS / vocab_size / rows.len()).max(1);
        for from in (shared..shared + columns).step_by(step) {
            let width = step.min(shared + columns - from);
            let stretch = |row: &usize| members[*row].1.ids.get(from..).unwrap_or(&[]);
            let stretches: Vec<&[u32]> = rows.iter().map(stretch).collect();
            let logits = model.extend(tokens(model, &stretches, width), &mut cache, Positions::All);
            let logits = to_host(logits); // [rows, width, vocab]
            let mut wanted = Vec::new();
            for (i, row) in rows.iter().enumerate() {
                let member = members[*row].1;
                let end = member.ids.len().min(from + width);
                for position in member.first().max(from)..end {
                    let at = (i * width + position - from) * vocab_size;
                    let id = member.wanted[position - member.first()];
                    wanted.push((*row, &logits[at..at + vocab_size], id));
                }
            }
            scored.extend(score(wanted));
        }
    }

    let mut answers: Vec<(usize, Answer)> = members
        .iter()
        .map(|(_, member)| {
            let answer = Answer { log_prob: 0.0, greedy: true, truncated: member.truncated };
            (member.slot, answer)
        })
        .collect();
    for Scored { row, log_prob, greedy } in scored {
        answers[row].1.log_prob += log_prob;
        answers[row].1.greedy &= greedy;
    }
    answers
}

/// `[rows, width]`; padding comes last, where causal attention never sees it.
fn tokens(model: &dyn Forward, rows: &[&[u32]], width: usize) -> Tensor<2, Int> {
    let mut ids = vec![0i32; rows.len() * width];
    for (slots, row) in ids.chunks_exact_mut(width).zip(rows) {
        slots.iter_mut().zip(*row).for_each(|(slot, id)| *slot = *id as i32);
    }
    Tensor::from_data(TensorData::new(ids, [rows.len(), width]), &model.device())
}

/// In the order given, each by itself, so that the number of threads changes nothing.
fn score(wanted: Vec<(usize, &[f32], u32)>) -> Vec<Scored> {
    wanted
        .into_par_iter()
        .map(|(row, logits, id)| {
            let id = id as usize;
            Scored { row, log_prob: log_prob(logits, id), greedy: argmax(logits) == id }
        })
        .collect()
}

/// `ln softmax(logits)[id]`: exponentials in f32, as exact as the logits are, their sum in float64.
fn log_prob(logits: &[f32], id: usize) -> f64 {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from((l - highest).exp())).sum();
    f64::from(logits[id]) - f64::from(highest) - sum.ln()
}

/// The lowest index of the highest logit.
fn argmax(logits: &[f32]) -> usize {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = id;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_prob_is_that_of_a_softmax() {
        // softmax of (0, ln 3) is (1/4, 3/4)
        let logits = [0.0, 3f32.ln()];
        assert!((log_prob(&logits, 0) - 0.25f64.ln()).abs() < 1e-7);
        assert!((log_prob(&logits, 1) - 0.75f64.ln()).abs() < 1e-7);
        assert!((log_prob(&[1000.0, 0.0], 1) + 1000.0).abs() < 1e-9);
        assert_eq!(argmax(&[1.0, 2.0, 2.0]), 1);
    }
}
