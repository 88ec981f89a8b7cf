//! Paths, flat parameters, regions, kernels, documents.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::module::Module;
use burn::tensor::Tensor;
use caravan_model::{Forward, Kernels, Llama, LlamaConfig, Region, Vocab, Whole, preset};

use crate::support::{difference, flex, host, ids, int, parameters, tiny, wide};

#[test]
fn the_module_has_the_parameters_that_the_configuration_lists() {
    let device = flex();
    for tie_embeddings in [false, true] {
        let config = LlamaConfig { tie_embeddings, ..preset("tiny").unwrap() };
        let model = Llama::init(&config, 0, Kernels::Fused, &device).unwrap();
        assert_eq!(model.parameters(), config.parameters());
        assert_eq!(model.num_params() as u64, config.param_count());
        let mut flat = Vec::new();
        model.flat(&mut |path, shape, values| {
            assert_eq!(values.dims(), [shape.iter().product::<usize>()]);
            flat.push(path.to_owned());
        });
        assert!(flat.iter().eq(config.parameters().iter().map(|info| &info.path)));
    }
}

#[test]
fn a_bad_configuration_makes_no_model() {
    let config = LlamaConfig { n_kv_heads: 3, ..preset("tiny").unwrap() };
    let error = Llama::init(&config, 0, Kernels::Fused, &flex()).unwrap_err();
    assert!(error.to_string().contains("n_heads"));
}

#[test]
fn mapping_flat_parameters_keeps_ids_and_training() {
    let device = flex().autodiff();
    let model = wide(&device);
    let (before, id) = (parameters(&model), model.blocks[1].w_down.weight.id);
    let model = model.map_flat(&mut |_, shape, values| {
        assert!(!values.is_autodiff());
        assert_eq!(values.dims(), [shape.iter().product::<usize>()]);
        values.mul_scalar(2.0)
    });
    for ((path, old), (_, new)) in before.iter().zip(parameters(&model)) {
        assert!(old.iter().zip(new).all(|(old, new)| 2.0 * old == new), "{path}");
    }
    assert_eq!(model.blocks[1].w_down.weight.id, id);
    let tokens = ids(1, 4, 50, &device);
    let gradients = model.loss(tokens.clone(), tokens, None).backward();
    let weight = model.blocks[1].w_down.weight.val();
    assert!(weight.is_require_grad() && weight.grad(&gradients).is_some());
    let plain = model.valid().map_flat(&mut |_, _, values| values);
    assert!(!plain.embed.weight.val().is_autodiff());
    assert!(plain.train().embed.weight.val().is_require_grad());
}

#[test]
fn the_rotary_tables_are_constants_that_mix_with_autodiff() {
    let device = flex().autodiff();
    for kernels in [Kernels::Reference, Kernels::Fused] {
        let model = wide(&device).with_kernels(kernels);
        let tokens = ids(2, 6, 50, &device);
        let loss = model.loss(tokens.clone(), tokens.clone(), None);
        let tracked = host(loss.clone().inner());
        let gradient = model.blocks[0].wq.weight.val().grad(&loss.backward()).unwrap();
        assert!(host(gradient).iter().any(|g| *g != 0.0));
        // The same after a round trip through the plain state.
        let again = model.valid().train();
        assert_eq!(host(again.loss(tokens.clone(), tokens, None).inner()), tracked);
    }
}

#[test]
fn fused_and_reference_kernels_agree() {
    let device = flex();
    let tokens = ids(2, 30, 50, &device);
    let [fused, reference] = [Kernels::Fused, Kernels::Reference]
        .map(|kernels| host(wide(&device).with_kernels(kernels).logits(tokens.clone(), None)));
    assert!(difference(&fused, &reference) <= 1e-4);
}

#[test]
fn token_losses_are_those_of_the_logits() {
    let device = flex();
    let model = wide(&device);
    let tokens = ids(2, 11, 50, &device);
    let mut targets: Vec<i32> = (0..22).map(|i| (i * 13) % 50).collect();
    (targets[3], targets[21]) = (-1, -1);
    let losses =
        host(model.token_losses(tokens.clone(), int(targets.clone(), [2, 11], &device), None));
    let logits = host(model.logits(tokens.clone(), None));
    for (i, (target, loss)) in targets.iter().zip(&losses).enumerate() {
        let row = logits[50 * i..50 * (i + 1)].iter().map(|l| f64::from(*l));
        let log_sum = row.clone().map(f64::exp).sum::<f64>().ln();
        let expected = match usize::try_from(*target) {
            Ok(target) => log_sum - row.clone().nth(target).unwrap(),
            Err(_) => 0.0,
        };
        assert!((f64::from(*loss) - expected).abs() < 1e-4, "position {i}: {loss}, not {expected}");
    }
    let sum = host(model.loss(tokens, int(targets, [2, 11], &device), None))[0];
    assert!((sum - losses.iter().sum::<f32>()).abs() < 1e-3);
}

/// 16 million logits at most exist at once: with 8,192 ids that is 2,048 rows, so 5,000 positions take three pieces.
#[test]
fn token_losses_in_pieces_are_those_of_short_batches() {
    let device = flex();
    let config = LlamaConfig {
        vocab_size: 8192,
        d_model: 8,
        n_layers: 1,
        n_heads: 1,
        n_kv_heads: 1,
        head_dim: 8,
        d_ff: 8,
        init_std: 1.0,
        ..preset("tiny").unwrap()
    };
    let model = Llama::init(&config, 2, Kernels::Fused, &device).unwrap();
    let (tokens, targets) = (ids(50, 100, 8192, &device), ids(50, 100, 8191, &device));
    let whole = host(model.token_losses(tokens.clone(), targets.clone(), None));
    let rows = (0..50).flat_map(|row| {
        let row = |tensor: &Tensor<2, burn::tensor::Int>| tensor.clone().narrow(0, row, 1);
        host(model.token_losses(row(&tokens), row(&targets), None))
    });
    assert!(difference(&whole, &rows.collect::<Vec<_>>()) < 1e-4);
}

#[test]
fn a_document_sees_nothing_before_it() {
    let device = flex();
    let model = wide(&device);
    let starts: Vec<i32> = (0..14).map(|i| if i < 5 { 0 } else { 5 }).collect();
    let starts = int(starts, [1, 14], &device);
    let masked = |first: i32| {
        let mut row: Vec<i32> = (0..14).map(|i| (7 * i + 3) % 50).collect();
        row[2] = first;
        host(model.logits(int(row, [1, 14], &device), Some(starts.clone())))
    };
    let (a, b) = (masked(1), masked(40));
    assert!(a[5 * 50..] == b[5 * 50..], "the second document changed with the first");
    assert!(a[2 * 50..5 * 50] != b[2 * 50..5 * 50], "the first document did not change");
    // Positions are relative: a document in the middle has the logits it has alone.
    let alone: Vec<i32> = (5..14).map(|i| (7 * i + 3) % 50).collect();
    let alone = host(model.logits(int(alone, [1, 9], &device), None));
    assert!(difference(&a[5 * 50..], &alone) < 1e-4);
}

#[test]
fn nothing_sees_the_future() {
    let device = flex();
    let model = wide(&device);
    let logits = |last: i32| {
        let row: Vec<i32> = (0..10).map(|i| if i == 9 { last } else { i }).collect();
        host(model.logits(int(row, [1, 10], &device), None))
    };
    assert!(logits(20)[..9 * 50] == logits(30)[..9 * 50]);
}

/// Counts its calls and splits off nothing.
#[derive(Debug, Default)]
struct Counting {
    enters: AtomicUsize,
    exits: AtomicUsize,
}

impl Region for Counting {
    fn enter(&self, x: Tensor<3>) -> Tensor<3> {
        self.enters.fetch_add(1, Ordering::Relaxed);
        x
    }
    fn exit(&self, x: Tensor<3>) -> Tensor<3> {
        self.exits.fetch_add(1, Ordering::Relaxed);
        x
    }
}

#[test]
fn a_region_is_entered_and_left_twice_per_block_and_once_by_the_ends() {
    let device = flex();
    let region = Arc::new(Counting::default());
    let shared: Arc<dyn Region> = region.clone();
    let whole: Arc<dyn Vocab> = Arc::new(Whole);
    wide(&device).with_ranks(&shared, &whole).logits(ids(1, 3, 50, &device), None);
    assert_eq!(
        (region.enters.load(Ordering::Relaxed), region.exits.load(Ordering::Relaxed)),
        (2 * 2 + 1, 2 * 2 + 1)
    );
}

/// The weights of half the heads make a block of half the heads: local counts come from the weights' shapes.
#[test]
fn half_of_the_heads_is_a_valid_block() {
    let device = flex();
    let mut block = wide(&device).blocks.remove(0);
    for linear in [&mut block.wq, &mut block.wk, &mut block.wv] {
        let half = linear.d_out() / 2;
        linear.weight = linear.weight.clone().map(|w| w.narrow(1, 0, half));
    }
    block.wo.weight = block.wo.weight.clone().map(|w| w.narrow(0, 0, 16));
    let x = Tensor::<3>::ones([1, 4, 24], &device);
    assert_eq!(block.forward(x, None).dims(), [1, 4, 24]);
}

#[test]
fn printing_a_model_is_short() {
    assert!(format!("{:?}", tiny(Kernels::Fused, &flex())).len() < 20_000);
}
