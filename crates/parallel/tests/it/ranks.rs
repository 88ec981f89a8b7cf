//! A model over the ranks of a tensor axis, held against the whole model.

use burn::module::Module;
use burn::tensor::{Int, Tensor, TensorData};
use caravan_collective::{Communicator, threads};
use caravan_model::{Forward, Kernels, Llama, LlamaConfig, Positions, preset};
use caravan_parallel::tensor::{self, finish_tensor_gradients, slice_of, whole_shape};
use caravan_parallel::{Activations, Gradients, MicroBatch, forward_backward};

use crate::common::{batch, device, host};

/// Of each tensor's largest element: what the order of sums may change.
pub(crate) const TOLERANCE: f32 = 1e-5;

const SEED: u64 = 11;
const ROWS: usize = 3;
const SEQ_LEN: usize = 24;

/// One way to cut one model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) ranks: usize,
    pub(crate) n_heads: usize,
    pub(crate) n_kv_heads: usize,
    pub(crate) d_ff: usize,
    pub(crate) vocab_size: usize,
    pub(crate) tie: bool,
    pub(crate) sequence_parallel: bool,
    pub(crate) documents: bool,
    pub(crate) kernels: Kernels,
    pub(crate) activations: Activations,
}

impl Layout {
    pub(crate) fn config(&self) -> LlamaConfig {
        LlamaConfig {
            vocab_size: self.vocab_size,
            d_model: 48,
            n_layers: 2,
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            head_dim: 8,
            d_ff: self.d_ff,
            max_seq_len: 64,
            tie_embeddings: self.tie,
            // Gradients of a fresh model are nearly those of a model without blocks: larger weights make all parts count.
            init_std: 0.2,
            ..preset("8m").unwrap()
        }
    }

    pub(crate) fn batch(&self) -> MicroBatch {
        batch(self.vocab_size, ROWS, SEQ_LEN, 5, self.documents)
    }

    /// The rank's part of the model.
    pub(crate) fn part(&self, group: &Communicator) -> Llama {
        let (config, sequence_parallel) = (self.config(), self.sequence_parallel);
        tensor::init(&config, SEED, self.kernels, &device(), group, sequence_parallel).unwrap()
    }

    /// The whole model.
    pub(crate) fn whole(&self) -> Llama {
        Llama::init(&self.config(), SEED, self.kernels, &device()).unwrap()
    }
}

/// What is compared: loss, gradients in visit order, losses by token, and a greedy continuation.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) nats: f64,
    pub(crate) gradients: Vec<Named>,
    pub(crate) token_losses: Vec<f32>,
    pub(crate) continuation: Vec<i32>,
}

impl Outcome {
    fn new(nats: f64, gradients: &Gradients, reading: &Llama, batch: &MicroBatch) -> Self {
        Self {
            nats,
            gradients: named(gradients),
            token_losses: token_losses(reading, batch),
            continuation: greedy(reading, 12),
        }
    }
}

/// The whole model's outcome.
pub(crate) fn expected(layout: &Layout) -> Outcome {
    let (model, batch) = (layout.whole(), layout.batch());
    let (gradients, loss) = forward_backward(&model, &batch, layout.activations);
    Outcome::new(loss.nats, &gradients.finish(), &model.valid(), &batch)
}

/// The outcome of every rank.
///
/// # Errors
/// If a rank failed.
pub(crate) fn found(layout: &Layout) -> Result<Vec<Outcome>, String> {
    let run = threads::run(layout.ranks, |group| {
        let (model, batch) = (layout.part(&group), layout.batch());
        let (gradients, loss) = forward_backward(&model, &batch, layout.activations);
        let gradients = gradients.finish();
        let gradients = finish_tensor_gradients(gradients, &group, layout.sequence_parallel);
        let reading = tensor::reading(model.valid(), &group);
        Outcome::new(loss.nats, &gradients, &reading, &batch)
    });
    run.map_err(|failed| failed.to_string())
}

/// Runs the layout and returns its largest difference, relative to each tensor's largest element.
///
/// # Errors
/// What differs first.
pub(crate) fn compare(layout: &Layout, expected: &Outcome) -> Result<f32, String> {
    let ranks = found(layout)?;
    let mut worst = 0f32;
    for (rank, outcome) in ranks.iter().enumerate() {
        if (outcome.nats / expected.nats - 1.0).abs() > f64::from(TOLERANCE) {
            return Err(format!("loss {} on rank {rank} for {}", outcome.nats, expected.nats));
        }
        let name = format!("token losses on rank {rank}");
        worst = worst.max(close(&name, &outcome.token_losses, &expected.token_losses)?);
        if outcome.continuation != expected.continuation {
            return Err(format!(
                "rank {rank} continues with {:?} for {:?}",
                outcome.continuation, expected.continuation
            ));
        }
    }
    let of_ranks: Vec<_> = ranks.iter().map(|outcome| outcome.gradients.as_slice()).collect();
    Ok(worst.max(compare_gradients(&layout.config(), &of_ranks, &expected.gradients)?))
}

/// A gradient's path, shape and values.
pub(crate) type Named = (String, Vec<usize>, Vec<f32>);

/// Puts the ranks' slices together and returns the largest difference from the whole model's gradients.
///
/// # Errors
/// What differs first, also between ranks that have the same.
pub(crate) fn compare_gradients(
    config: &LlamaConfig,
    of_ranks: &[&[Named]],
    expected: &[Named],
) -> Result<f32, String> {
    let mut worst = 0f32;
    for (index, (path, shape, gradient)) in expected.iter().enumerate() {
        let mut whole = vec![f32::NAN; gradient.len()];
        for (rank, gradients) in of_ranks.iter().enumerate() {
            let slice = slice_of(path, shape, config, rank, of_ranks.len());
            let (part_path, part_shape, part) = &gradients[index];
            assert_eq!((part_path, part_shape), (path, &slice.shape(shape)), "rank {rank}");
            assert_eq!(&whole_shape(path, part_shape, config), shape, "{path}");
            if slice.is_replicated() {
                worst = worst.max(close(&format!("{path} on rank {rank}"), part, gradient)?);
                if part != &of_ranks[0][index].2 {
                    return Err(format!("{path}: rank {rank} has other bits than rank 0"));
                }
            }
            let runs = slice.runs(shape);
            let len = part.len() / runs.len();
            for (run, part) in runs.zip(part.chunks_exact(len)) {
                whole[run].copy_from_slice(part);
            }
        }
        worst = worst.max(close(path, &whole, gradient)?);
    }
    Ok(worst)
}

pub(crate) fn named(gradients: &Gradients) -> Vec<Named> {
    gradients.iter().map(|g| (g.path.clone(), g.shape.clone(), host(&g.values))).collect()
}

/// Largest difference over the largest element expected; an error above the tolerance, or where a value is missing.
pub(crate) fn close(name: &str, found: &[f32], expected: &[f32]) -> Result<f32, String> {
    assert_eq!(found.len(), expected.len(), "{name}");
    let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    let mut worst = 0f32;
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let difference = (found - expected).abs() / largest;
        if difference.is_nan() || difference > TOLERANCE {
            return Err(format!("{name}[{i}] is {found:e} for {expected:e} of {largest:e}"));
        }
        worst = worst.max(difference);
    }
    Ok(worst)
}

pub(crate) fn token_losses(model: &Llama, batch: &MicroBatch) -> Vec<f32> {
    let plain = |ids: &Tensor<2, Int>| ids.clone();
    let starts = batch.document_starts.as_ref().map(plain);
    let losses = Forward::token_losses(model, plain(&batch.tokens), plain(&batch.targets), starts);
    losses.into_data().try_into_vec().unwrap()
}

/// The most likely tokens after two prompts of five, `n` of each.
pub(crate) fn greedy(model: &Llama, n: usize) -> Vec<i32> {
    let vocab_size = model.config().vocab_size;
    let device = model.device();
    let ids = |values: Vec<i32>| {
        let s = values.len() / 2;
        Tensor::<2, Int>::from_data(TensorData::new(values, [2, s]), &device)
    };
    let mut cache = model.new_cache(2, 5 + n);
    let mut next = ids((0..10).map(|i| (i * 31 % vocab_size) as i32).collect());
    let mut all = Vec::new();
    for _ in 0..n {
        let logits = model.extend(next, &mut cache, Positions::Last);
        assert_eq!(logits.dims(), [2, 1, vocab_size]);
        let best: Vec<i32> = logits.argmax(2).into_data().try_into_vec_as().unwrap();
        all.extend(&best);
        next = ids(best);
    }
    all
}
