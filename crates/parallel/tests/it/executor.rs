use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use caravan_model::{Forward, Kernels, Llama};
use caravan_parallel::{Activations, ExactSum, Gradients, LossSum, MicroBatch, forward_backward};

use crate::common::{assert_close, batch, bits, config, host, model};

const KERNELS: [Kernels; 2] = [Kernels::Reference, Kernels::Fused];

/// Value and gradients of one graph over the whole model.
fn one_graph(model: &Llama, batch: &MicroBatch) -> (f64, Vec<(String, Vec<f32>)>) {
    let logits = model.logits(batch.tokens.clone(), batch.document_starts.clone());
    let [b, s, v] = logits.dims();
    let targets = batch.targets.clone().reshape([b * s]);
    let loss = Kernels::Reference.cross_entropy(logits.reshape([b * s, v]), targets);
    let nats = f64::from(loss.clone().inner().into_scalar::<f32>());
    let grads = GradientsParams::from_grads(loss.backward(), model);
    let mut collect = Collect { grads, path: Vec::new(), out: Vec::new() };
    model.visit(&mut collect);
    (nats, collect.out)
}

/// Gradients by dotted path.
struct Collect {
    grads: GradientsParams,
    path: Vec<String>,
    out: Vec<(String, Vec<f32>)>,
}

impl ModuleVisitor for Collect {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let gradient = self.grads.get::<D>(param.id).unwrap().flatten(0, D - 1);
        self.out.push((self.path.join("."), host(&gradient)));
    }
}

#[test]
fn segments_give_the_gradients_of_one_graph() {
    for tie in [false, true] {
        for documents in [false, true] {
            let model = model(&config(tie), Kernels::Reference);
            let batch = batch(97, 3, 20, 0, documents);
            let (nats, expected) = one_graph(&model, &batch);
            let (gradients, loss) = forward_backward(&model, &batch, Activations::Keep);
            let gradients = gradients.finish();
            assert_eq!((loss.nats, loss.tokens), (nats, batch.n_targets));
            assert_eq!(gradients.len(), expected.len());
            for (gradient, (path, expected)) in gradients.iter().zip(&expected) {
                assert_eq!(&gradient.path, path);
                let found = host(&gradient.values);
                if tie && path == "embed.weight" {
                    // The two uses meet in another order.
                    assert_close(path, &found, expected, 1e-6);
                } else {
                    let equal = found.iter().zip(expected).all(|(a, b)| a == b);
                    assert!(equal, "{path}: other bits");
                }
            }
        }
    }
}

#[test]
fn paths_and_shapes_are_those_of_the_model() {
    for tie in [false, true] {
        let model = model(&config(tie), Kernels::Fused);
        let (gradients, _) =
            forward_backward(&model, &batch(97, 1, 8, 0, false), Activations::Keep);
        let found: Vec<_> =
            gradients.finish().iter().map(|g| (g.path.clone(), g.shape.clone())).collect();
        let expected: Vec<_> = model.parameters().into_iter().map(|p| (p.path, p.shape)).collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn recompute_gives_the_bits_of_keep() {
    for kernels in KERNELS {
        for tie in [false, true] {
            for documents in [false, true] {
                let model = model(&config(tie), kernels);
                let batch = batch(97, 3, 33, 1, documents);
                let run = |activations| {
                    let (gradients, loss) = forward_backward(&model, &batch, activations);
                    (bits(&gradients.finish()), loss)
                };
                let (kept, recomputed) = (run(Activations::Keep), run(Activations::Recompute));
                assert!(kept == recomputed, "{kernels:?}, tied {tie}, documents {documents}");
            }
        }
    }
}

#[test]
fn the_uses_of_a_tied_weight_accumulate_apart() {
    let model = model(&config(true), Kernels::Fused);
    let parts: Vec<_> = (0..3)
        .map(|i| forward_backward(&model, &batch(97, 2, 16, i, false), Activations::Keep))
        .collect();
    // (a + b) + c of each use, then both.
    let mut sum = ExactSum::new();
    for (index, (gradients, loss)) in (0..).zip(&parts) {
        assert!(!gradients.is_finished());
        sum.push(index, gradients.clone(), *loss);
    }
    let (gradients, loss) = sum.finish();
    let use_of = |i: usize, finished: bool| {
        let (mut lookup, head) = parts[i].0.clone().into_parts();
        if finished { head.unwrap().1 } else { lookup.remove(0).values }
    };
    let add = |finished| use_of(0, finished).add(use_of(1, finished)).add(use_of(2, finished));
    let expected: Tensor<1> = add(false).add(add(true));
    assert_eq!(host(&gradients.get("embed.weight").unwrap().values), host(&expected));
    assert_eq!(loss.tokens, parts.iter().map(|(_, l)| l.tokens).sum::<u64>());
}

#[test]
#[should_panic(expected = "call finish()")]
fn half_a_tied_gradient_is_not_handed_out() {
    let model = model(&config(true), Kernels::Fused);
    let (gradients, _) = forward_backward(&model, &batch(97, 1, 8, 0, false), Activations::Keep);
    let _ = gradients.scale(0.5);
}

/// Ranks that own any ranges of the micro-batches, one after the other, and a single rank.
#[test]
fn any_split_over_ranks_gives_the_same_bits() {
    let model = model(&config(true), Kernels::Fused);
    let n = 6u64;
    let part = |index: u64| {
        let batch = batch(97, 1, 16, index as usize, false);
        forward_backward(&model, &batch, Activations::Recompute)
    };
    let mut one = ExactSum::new();
    for index in 0..n {
        let (gradients, loss) = part(index);
        one.push(index, gradients, loss);
        assert!(one.n_pending() <= 3);
    }
    let (expected, expected_loss) = one.finish();
    for cuts in [vec![0, 3, 6], vec![0, 1, 5, 6], vec![0, 2, 4, 6]] {
        let mut owner = ExactSum::new();
        for rank in cuts.windows(2).rev() {
            let mut mine = ExactSum::new();
            for index in rank[0]..rank[1] {
                let (gradients, loss) = part(index);
                mine.push(index, gradients, loss);
            }
            for (id, (gradients, loss)) in mine.into_blocks() {
                owner.push_block(id, gradients, loss);
            }
        }
        let (gradients, loss): (_, LossSum) = owner.finish();
        assert_eq!(loss, expected_loss);
        assert!(bits(&gradients) == bits(&expected), "{cuts:?}");
    }
}

#[test]
fn a_frozen_parameter_has_no_gradient() {
    for tie in [false, true] {
        let mut frozen = model(&config(tie), Kernels::Fused);
        let all = bits(&run_finished(&frozen));
        frozen.embed = frozen.embed.no_grad();
        frozen.blocks[1].wk = frozen.blocks[1].wk.clone().no_grad();
        let left: Vec<_> = all
            .into_iter()
            .filter(|(path, ..)| path != "embed.weight" && path != "blocks.1.wk.weight")
            .collect();
        assert!(bits(&run_finished(&frozen)) == left, "tied {tie}");
    }
}

fn run_finished(model: &Llama) -> Gradients {
    forward_backward(model, &batch(97, 2, 12, 0, false), Activations::Recompute).0.finish()
}
