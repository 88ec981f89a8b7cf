use burn::module::Module;
use burn::tensor::{Int, Tensor, TensorData};
use caravan_collective::{Communicator, threads};
use caravan_model::{Forward, Kernels, Llama, Positions, Vocab};
use caravan_parallel::tensor::{self, SplitVocab, TensorError, part, slice_of};
use caravan_parallel::{Activations, Gradients, LossSum, MicroBatch, forward_backward};

use crate::common::{bits, device, host};
use crate::ranks::{Layout, close, compare, expected, greedy};
use crate::tuned::{Tuned, compare_tuned};

/// Ranks, query heads, key heads, `d_ff`, vocabulary: grouped and plain attention, vocabularies that divide and do not.
const SHAPES: [(usize, usize, usize, usize, usize); 6] = [
    (2, 6, 2, 100, 97),
    (2, 12, 12, 96, 96),
    (3, 6, 3, 99, 97),
    (3, 12, 6, 96, 98),
    (4, 12, 4, 100, 98),
    (4, 4, 4, 96, 99),
];

fn layouts() -> Vec<Layout> {
    let mut layouts = Vec::new();
    for (ranks, n_heads, n_kv_heads, d_ff, vocab_size) in SHAPES {
        for tie in [false, true] {
            for sequence_parallel in [false, true] {
                let odd = layouts.len() % 3;
                layouts.push(Layout {
                    ranks,
                    n_heads,
                    n_kv_heads,
                    d_ff,
                    vocab_size,
                    tie,
                    sequence_parallel,
                    documents: layouts.len() % 5 % 2 == 0,
                    kernels: if odd == 2 { Kernels::Reference } else { Kernels::Fused },
                    activations: if odd == 0 { Activations::Recompute } else { Activations::Keep },
                });
            }
        }
    }
    layouts
}

#[test]
fn any_cut_gives_the_loss_gradients_and_words_of_one_rank() {
    for layout in layouts() {
        match compare(&layout, &expected(&layout)) {
            Ok(worst) => println!("{worst:.1e} {layout:?}"),
            Err(what) => panic!("{what}\n{layout:?}"),
        }
    }
}

#[test]
fn initial_values_are_those_of_the_whole_model() {
    for layout in layouts().into_iter().step_by(2) {
        let config = layout.config();
        let mut whole = Vec::new();
        layout.whole().flat(&mut |path, shape, values| {
            whole.push((path.to_owned(), shape.to_vec(), host(&values)));
        });
        let parts = threads::run(layout.ranks, |group| {
            let mut part = Vec::new();
            layout.part(&group).flat(&mut |path, _, values| {
                part.push((path.to_owned(), host(&values)));
            });
            part
        });
        for (rank, part) in parts.unwrap().into_iter().enumerate() {
            assert_eq!(part.len(), whole.len());
            for ((path, part), (whole_path, shape, whole)) in part.iter().zip(&whole) {
                assert_eq!(path, whole_path);
                let slice = slice_of(path, shape, &config, rank, layout.ranks);
                assert!(slice.cut(shape, whole) == *part, "{path} on rank {rank}: other values");
            }
        }
    }
}

#[test]
fn a_group_of_one_gives_the_bits_of_no_group() {
    for layout in layouts().into_iter().take(4) {
        let run = |model: &Llama| {
            let (gradients, loss): (Gradients, LossSum) =
                forward_backward(model, &layout.batch(), layout.activations);
            (bits(&gradients.finish()), loss)
        };
        assert!(run(&layout.part(&Communicator::alone())) == run(&layout.whole()), "{layout:?}");
    }
}

/// Logits of every position, at once and in pieces through the cache; the model of a training with sequence parallelism.
#[test]
fn a_split_model_reads_as_the_whole_one() {
    for layout in layouts().into_iter().filter(|layout| layout.sequence_parallel) {
        let MicroBatch { tokens, document_starts, .. } = layout.batch();
        let all = |model: &Llama| -> Vec<f32> {
            let logits = model.logits(tokens.clone(), document_starts.clone());
            logits.into_data().try_into_vec().unwrap()
        };
        let pieces = |model: &Llama| -> Vec<f32> {
            let mut cache = model.new_cache(tokens.dims()[0], 24);
            let mut piece = |start, n| {
                model.extend(tokens.clone().narrow(1, start, n), &mut cache, Positions::All)
            };
            let logits = Tensor::cat(vec![piece(0, 13), piece(13, 1), piece(14, 10)], 1);
            logits.into_data().try_into_vec().unwrap()
        };
        let whole = layout.whole().valid();
        let ranks = threads::run(layout.ranks, |group| {
            let model = layout.part(&group).valid();
            // A sequence that divides can also be read as it is trained on.
            let as_trained = all(&model);
            let model = tensor::reading(model, &group);
            let cut = model.logits(tokens.clone().narrow(1, 0, 7), None).dims();
            assert_eq!(cut, [tokens.dims()[0], 7, layout.vocab_size]);
            (as_trained, all(&model), pieces(&model))
        });
        let ranks = ranks.unwrap();
        for (as_trained, logits, in_pieces) in &ranks {
            close("logits as trained", as_trained, &all(&whole)).unwrap();
            close("logits", logits, &all(&whole)).unwrap();
            close("logits in pieces", in_pieces, &pieces(&whole)).unwrap();
            assert!((as_trained, logits, in_pieces) == (&ranks[0].0, &ranks[0].1, &ranks[0].2));
        }
    }
}

/// Greedy words of one rank are not all the same, or the comparison would say little.
#[test]
fn the_compared_continuation_has_variety() {
    for layout in layouts() {
        let mut words = greedy(&layout.whole().valid(), 12);
        words.sort_unstable();
        words.dedup();
        assert!(words.len() > 4, "{words:?}");
    }
}

/// Value, gradient and losses by token for logits of which some would overflow without a common maximum.
#[test]
fn the_split_loss_is_the_whole_one_for_any_logits() {
    let (n, vocab_size) = (9, 11);
    let value =
        |i: usize| ((i * 37 % 101) as f32 - 50.0) * if i.is_multiple_of(4) { 3.0 } else { 0.1 };
    let values: Vec<f32> = (0..n * vocab_size).map(value).collect();
    let targets: Vec<i32> =
        (0..n).map(|i| if i == 4 { -1 } else { (i * 5 % vocab_size) as i32 }).collect();
    let targets = || Tensor::<1, Int>::from_data(TensorData::new(targets.clone(), [n]), &device());
    let leaf = |columns: std::ops::Range<usize>| {
        let all =
            Tensor::<2>::from_data(TensorData::new(values.clone(), [n, vocab_size]), &device());
        all.narrow(1, columns.start, columns.len()).require_grad()
    };
    let flat = |tensor: Tensor<2>| -> Vec<f32> { tensor.into_data().try_into_vec().unwrap() };

    let logits = leaf(0..vocab_size);
    let loss = Kernels::Reference.cross_entropy(logits.clone(), targets());
    let whole = flat(logits.grad(&loss.clone().mul_scalar(0.5).backward()).unwrap());
    let nats = host(&loss);
    let by_token = host(&Kernels::Reference.token_losses(logits, targets()));
    for ranks in [2, 3, 4] {
        for kernels in [Kernels::Reference, Kernels::Fused] {
            let parts = threads::run(ranks, |group| {
                let vocab = SplitVocab::new(vocab_size, &group);
                let logits = leaf(part(vocab_size, group.rank(), ranks));
                let loss = vocab.cross_entropy(kernels, logits.clone(), targets());
                let gradient = logits.grad(&loss.clone().mul_scalar(0.5).backward()).unwrap();
                let by_token = vocab.token_losses(kernels, logits, targets());
                (host(&loss), host(&by_token), gradient.into_data())
            });
            let gradients = parts.unwrap().into_iter().map(|(loss, losses, gradient)| {
                close("loss", &loss, &nats).unwrap();
                close("losses by token", &losses, &by_token).unwrap();
                Tensor::<2>::from_data(gradient, &device())
            });
            let gradient = flat(Tensor::cat(gradients.collect(), 1));
            close("gradient of the logits", &gradient, &whole).unwrap();
        }
    }
}

/// The message of the first rank that fails.
fn failure(change: impl Fn(&mut MicroBatch) + Sync, layout: &Layout) -> String {
    let run = threads::run(layout.ranks, |group| {
        let mut batch = layout.batch();
        change(&mut batch);
        forward_backward(&layout.part(&group), &batch, Activations::Keep);
    });
    run.unwrap_err().to_string()
}

#[test]
fn what_no_rank_can_do_ends_all_ranks() {
    let layouts = layouts();
    let (whole, split) = (&layouts[0], &layouts[1]);
    assert!(!whole.sequence_parallel && split.sequence_parallel);
    for bad in [97, -2] {
        let message = failure(
            |batch| {
                batch.targets =
                    batch.targets.clone().mask_fill(batch.targets.clone().equal_elem(-1), bad)
            },
            whole,
        );
        assert!(message.contains("neither -1 nor below the vocabulary size 97"), "{message}");
    }
    // An id past the end is refused, as in a whole table, and not taken for a token of another rank.
    for offset in [1000, -1000] {
        let message =
            failure(|batch| batch.tokens = batch.tokens.clone().add_scalar(offset), whole);
        assert!(message.contains("out of bounds"), "{message}");
    }
    let message = failure(
        |batch| {
            batch.tokens = batch.tokens.clone().narrow(1, 0, 23);
            batch.targets = batch.targets.clone().narrow(1, 0, 23);
            batch.document_starts = None;
        },
        split,
    );
    assert!(message.contains("cannot cut 23 positions into 2 equal parts"), "{message}");
}

#[test]
fn a_model_that_cannot_be_cut_is_refused() {
    let layout = Layout { n_kv_heads: 3, ..layouts()[0] };
    let refused = threads::run(2, |group| {
        let config = layout.config();
        let made = tensor::init(&config, 1, Kernels::Fused, &device(), &group, false);
        matches!(made, Err(TensorError::Indivisible { key: "n_kv_heads", degree: 2, found: 3, .. }))
    });
    assert_eq!(refused.unwrap(), [true, true]);
}

#[test]
fn adapters_and_classes_over_tensor_ranks_are_those_of_one_rank() {
    for (i, sequence_parallel) in [false, true, false, true].into_iter().enumerate() {
        let ranks = 2 + i / 2;
        for (full, classes, mean_pool, layer_mix, tie) in [
            (false, true, true, true, true),
            (true, true, true, true, false),
            (false, true, false, false, false),
            (true, true, false, true, true),
            (false, false, false, false, true),
            (true, false, false, false, true),
            (true, false, false, false, false),
        ] {
            let tuned =
                Tuned { ranks, sequence_parallel, full, classes, mean_pool, layer_mix, tie };
            match compare_tuned(&tuned) {
                Ok(worst) => println!("{worst:.1e} {tuned:?}"),
                Err(what) => panic!("{what}\n{tuned:?}"),
            }
        }
    }
}
