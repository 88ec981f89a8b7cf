//! Texts that share beginnings, read in one row, against each text by itself.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData};
use caravan_model::{Branches, Forward, Kernels, Llama};

use crate::support::{flex, host, wide};

/// Logits of `wide` reach about 30; float32 sums in another order move them by less.
const TOLERANCE: f32 = 1e-4;

fn row(ids: &[u32]) -> Tensor<2, Int> {
    let ids: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
    let shape = [1, ids.len()];
    Tensor::from_data(TensorData::new(ids, shape), &flex())
}

/// What the whole text says about `id` after its last token.
fn expected(model: &Llama, text: &[u32], id: u32) -> (f32, bool) {
    let logits = model.logits(row(text), None).narrow(1, text.len() - 1, 1);
    let losses = host(log_softmax(logits.clone(), 2).neg());
    let logits = host(logits);
    let best = (0..logits.len()).fold(0, |b, i| if logits[i] > logits[b] { i } else { b });
    (losses[id as usize], best == id as usize)
}

#[test]
fn every_place_says_what_its_text_alone_says() {
    let id = |i: usize| (i * 37 % 50) as u32;
    let part = |seed: usize, n: usize| -> Vec<u32> { (0..n).map(|i| id(seed * 11 + i)).collect() };
    // A question, two answers of which one goes on in two ways, another question alone, and one token.
    let parts = [
        (None, part(1, 7)),
        (Some(0), part(2, 3)),
        (Some(0), part(3, 5)),
        (Some(2), part(4, 1)),
        (Some(2), part(5, 2)),
        (None, part(6, 9)),
        (None, part(7, 1)),
    ];
    let (mut branches, mut ids) = (Branches::default(), Vec::new());
    let mut texts: Vec<Vec<u32>> = Vec::new();
    for (parent, part) in &parts {
        branches.add(*parent, part.len());
        ids.extend(part);
        let before: Vec<u32> = parent.map_or_else(Vec::new, |at: usize| texts[at].clone());
        texts.push([&before[..], part].concat());
    }
    for kernels in [Kernels::Reference, Kernels::Fused] {
        let model = wide(&flex()).with_kernels(kernels);
        let (mut asked, mut alone) = (Vec::new(), Vec::new());
        for (index, (_, part)) in parts.iter().enumerate() {
            for i in 0..part.len() {
                let text = &texts[index][..texts[index].len() - part.len() + i + 1];
                let likely = (0..50).find(|id| expected(&model, text, *id).1).unwrap();
                // The likeliest token, and another one, at the same place.
                for id in [likely, (likely + 3) % 50] {
                    asked.push((branches.range(index).start + i, id));
                    alone.push(expected(&model, text, id));
                }
            }
        }
        let scores = model.branch_scores(row(&ids), &branches, &asked);
        assert_eq!(scores.dims(), [asked.len(), 2]);
        for ((score, alone), asked) in host(scores).chunks(2).zip(&alone).zip(&asked) {
            assert!((score[0] - alone.0).abs() <= TOLERANCE, "{kernels:?} {asked:?}: {score:?}");
            assert_eq!(score[1] == 1.0, alone.1, "{kernels:?} {asked:?}");
        }
    }
}

#[test]
#[should_panic(expected = "a part has a token")]
fn a_part_is_not_empty() {
    Branches::default().add(None, 0);
}
