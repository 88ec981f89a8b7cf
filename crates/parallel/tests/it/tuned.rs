//! A model with adapters and a head for classes over the ranks of a tensor axis, held against the whole one.

use burn::tensor::{Int, Tensor, TensorData};
use caravan_collective::{Communicator, threads};
use caravan_model::{Forward, Kernels, Llama, LlamaConfig, LoraConfig, TARGETS, params};
use caravan_parallel::tensor::{self, finish_tensor_gradients};
use caravan_parallel::{Activations, MicroBatch, forward_backward};

use crate::common::{batch, config, device, model};
use crate::ranks::{Named, close, compare_gradients, named};

const N_CLASSES: usize = 3;

/// What of a model is tuned, and over how many ranks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tuned {
    pub(crate) ranks: usize,
    pub(crate) sequence_parallel: bool,
    /// Everything is trained, not adapters and head alone.
    pub(crate) full: bool,
    /// Classes; else tokens.
    pub(crate) classes: bool,
    pub(crate) mean_pool: bool,
    pub(crate) layer_mix: bool,
    /// The model that is tuned has a tied embedding.
    pub(crate) tie: bool,
}

impl Default for Tuned {
    fn default() -> Self {
        Self {
            ranks: 2,
            sequence_parallel: false,
            full: false,
            classes: true,
            mean_pool: true,
            layer_mix: true,
            tie: true,
        }
    }
}

impl Tuned {
    /// The whole model; adapters are not zero, so that both sides of them have gradients.
    fn whole(&self) -> Llama {
        let base =
            LlamaConfig { n_kv_heads: self.ranks, d_ff: 102, init_std: 0.2, ..config(self.tie) };
        let mut model = model(&base, Kernels::Fused);
        if self.classes {
            model = model.with_classes(N_CLASSES, 5).unwrap();
            model = if self.mean_pool { model.with_mean_pool() } else { model };
            model = if self.layer_mix { model.with_layer_mix() } else { model };
        }
        let targets = TARGETS.map(str::to_owned).to_vec();
        let lora = LoraConfig { rank: 5, alpha: 7.0, targets };
        let model = model.with_lora(&lora, 3).unwrap();
        let model = model.map_flat(&mut |path, _, values| {
            if !path.ends_with(".lora.b") {
                return values;
            }
            let n = values.dims()[0];
            let some: Vec<f32> =
                (0..n).map(|i| ((i * 29 + path.len()) % 17) as f32 * 0.02 - 0.15).collect();
            Tensor::from_data(TensorData::new(some, [n]), &values.device())
        });
        let is_new = |path: &str| {
            path.contains(".lora.") || path.starts_with("head.output") || path.ends_with(".mix")
        };
        model.freeze(&|path| self.full || is_new(path))
    }

    /// Sequences with a target at some positions, a class where the model has classes.
    fn batch(&self) -> MicroBatch {
        let whole = batch(97, 3, 24, 5, true);
        if !self.classes {
            return whole;
        }
        let targets: Vec<i32> =
            (0..72).map(|i| if i % 12 == 11 { i / 12 % N_CLASSES as i32 } else { -1 }).collect();
        let targets = Tensor::<2, Int>::from_data(TensorData::new(targets, [3, 24]), &device());
        MicroBatch { targets, n_targets: 6, ..whole }
    }

    fn outcome(&self, model: Llama, group: &Communicator) -> Outcome {
        let batch = self.batch();
        let (gradients, loss) = forward_backward(&model, &batch, Activations::Keep);
        let gradients = gradients.finish();
        let gradients = finish_tensor_gradients(gradients, group, self.sequence_parallel);
        let model = tensor::reading(model, group);
        let logits = Forward::logits(&model, batch.tokens, batch.document_starts);
        Outcome {
            nats: loss.nats,
            gradients: with_mixes_joined(named(&gradients)),
            logits: logits.into_data().try_into_vec().unwrap(),
        }
    }
}

/// The weights of a mix of layers are single numbers, whose gradients are sums that cancel out: together they have the scale
/// that rounding is measured by.
fn with_mixes_joined(gradients: Vec<Named>) -> Vec<Named> {
    let (mixes, mut rest): (Vec<Named>, Vec<Named>) =
        gradients.into_iter().partition(|(path, ..)| path.ends_with(".mix"));
    if !mixes.is_empty() {
        let values: Vec<f32> = mixes.into_iter().flat_map(|(.., values)| values).collect();
        rest.push(("all.mix".to_owned(), vec![values.len()], values));
    }
    rest
}

struct Outcome {
    nats: f64,
    gradients: Vec<Named>,
    logits: Vec<f32>,
}

/// The largest difference between what ranks and one rank compute.
///
/// # Errors
/// What differs first.
pub(crate) fn compare_tuned(tuned: &Tuned) -> Result<f32, String> {
    let whole = tuned.whole();
    let expected = tuned.outcome(whole.clone(), &Communicator::alone());
    let trained: usize =
        params::trained(&whole).iter().map(|info| info.shape.iter().product::<usize>()).sum();
    let n: usize = expected.gradients.iter().map(|(.., values)| values.len()).sum();
    assert_eq!(n, trained, "a gradient for all that is trained");
    for (path, _, values) in &expected.gradients {
        assert!(values.iter().any(|v| *v != 0.0), "{path} has no gradient to compare");
    }
    let run = threads::run(tuned.ranks, |group| {
        let model = tensor::cut(tuned.whole(), &group, tuned.sequence_parallel).unwrap();
        tuned.outcome(model, &group)
    });
    let ranks = run.map_err(|failed| failed.to_string())?;
    let mut worst = 0f32;
    for outcome in &ranks {
        worst = worst.max(close("loss", &[outcome.nats as f32], &[expected.nats as f32])?);
        worst = worst.max(close("logits", &outcome.logits, &expected.logits)?);
    }
    let of_ranks: Vec<_> = ranks.iter().map(|outcome| outcome.gradients.as_slice()).collect();
    Ok(worst.max(compare_gradients(whole.config(), &of_ranks, &expected.gradients)?))
}
