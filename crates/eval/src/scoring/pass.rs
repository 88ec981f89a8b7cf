//! One batch through the model.

use burn::tensor::{Int, Tensor, TensorData};
use caravan_model::{Branches, Forward};

use super::Answer;
use super::plan::Unit;
use crate::text::to_host;

/// The answers of a batch, with their slots.
pub(super) fn run(model: &dyn Forward, batch: &[Unit]) -> Vec<(usize, Answer)> {
    let mut branches = Branches::default();
    let mut ids: Vec<u32> = Vec::new();
    let mut answers: Vec<(usize, Answer)> = Vec::new();
    // What each answer asks for: a place in the row and the token after it.
    let (mut asked, mut owners) = (Vec::new(), Vec::new());
    for Unit { shared, members } in batch {
        let beginning = branches.add(None, *shared);
        ids.extend(&members[0].ids[..*shared]);
        for member in members {
            let rest = &member.ids[*shared..];
            let rest_at = branches.n_tokens();
            if !rest.is_empty() {
                branches.add(Some(beginning), rest.len());
                ids.extend(rest);
            }
            for (position, id) in (member.first()..).zip(&member.wanted) {
                let place = match position.checked_sub(*shared) {
                    None => branches.range(beginning).start + position,
                    Some(offset) => rest_at + offset,
                };
                asked.push((place, *id));
                owners.push(answers.len());
            }
            let answer = Answer { log_prob: 0.0, greedy: true, truncated: member.truncated };
            answers.push((member.slot, answer));
        }
    }
    let scores = to_host(model.branch_scores(tokens(model, &ids), &branches, &asked));
    for (owner, score) in owners.into_iter().zip(scores.chunks_exact(2)) {
        let answer = &mut answers[owner].1;
        answer.log_prob -= f64::from(score[0]);
        answer.greedy &= score[1] == 1.0;
    }
    answers
}

/// `[1, n]`
fn tokens(model: &dyn Forward, ids: &[u32]) -> Tensor<2, Int> {
    let ids: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
    let shape = [1, ids.len()];
    Tensor::from_data(TensorData::new(ids, shape), &model.device())
}
