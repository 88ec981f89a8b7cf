//! A sequence over the ranks of a context axis, held against one rank and against float64.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{DType, Int, Tensor, TensorData};
use caravan_collective::{Communicator, threads};
use caravan_model::{Attend, Forward, Kernels, Llama, LlamaConfig, preset};
use caravan_parallel::context::{Ring, finish_context, local_batch, local_positions};
use caravan_parallel::{Activations, Gradients, LossSum, MicroBatch, forward_backward};

use crate::common::{batch, device, host};

/// Of each tensor's largest element: what the order of sums in f32 may change.
pub(crate) const TOLERANCE: f64 = 1e-5;

/// Attention of one shape, over ranks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub(crate) ranks: usize,
    pub(crate) rows: usize,
    pub(crate) n_heads: usize,
    pub(crate) n_kv_heads: usize,
    pub(crate) head_dim: usize,
    /// Positions of a chunk, of which every rank has two.
    pub(crate) chunk: usize,
    pub(crate) documents: bool,
}

impl Heads {
    pub(crate) fn seq_len(&self) -> usize {
        2 * self.ranks * self.chunk
    }

    fn shapes(&self) -> [[usize; 4]; 4] {
        let Self { rows, n_heads, n_kv_heads, head_dim, .. } = *self;
        [n_heads, n_kv_heads, n_kv_heads, n_heads].map(|n| [rows, n, self.seq_len(), head_dim])
    }

    /// `q, k, v` and the gradient of the result.
    fn values(&self) -> [Vec<f64>; 4] {
        let shapes = self.shapes();
        std::array::from_fn(|i| values(shapes[i].iter().product(), i as u64 + 1))
    }

    fn starts(&self) -> Option<Vec<i32>> {
        self.documents.then(|| starts(self.rows, self.seq_len()))
    }
}

/// Values of unit size that f32 and f64 share.
fn values(n: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(seed | 1);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| f64::from(next() * 1.7)).collect()
}

/// Document starts of other lengths in every row, also of a single position, and a document that spans chunks.
pub(crate) fn starts(rows: usize, seq_len: usize) -> Vec<i32> {
    let row = |row: usize| {
        let cuts = [seq_len / 5 + row, seq_len / 5 + row + 1, seq_len * 2 / 3 + 2 * row];
        let start = move |i: usize| cuts.into_iter().filter(|cut| *cut <= i).max().unwrap_or(0);
        (0..seq_len).map(move |i| start(i) as i32)
    };
    (0..rows).flat_map(row).collect()
}

/// `[out, dq, dk, dv]` in f64, straight from the formulas of attention and softmax.
pub(crate) fn float64(heads: &Heads) -> [Vec<f64>; 4] {
    let Heads { rows, n_heads, n_kv_heads, head_dim: d, .. } = *heads;
    let (s, [q, k, v, dout]) = (heads.seq_len(), heads.values());
    let starts = heads.starts().unwrap_or(vec![0; rows * s]);
    let mut result = [&q, &q, &k, &v].map(|x| vec![0.0; x.len()]);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for (row, h, i) in
        (0..rows).flat_map(|r| (0..n_heads).flat_map(move |h| (0..s).map(move |i| (r, h, i))))
    {
        let at = ((row * n_heads + h) * s + i) * d;
        let key = |j: usize| ((row * n_kv_heads + h * n_kv_heads / n_heads) * s + j) * d;
        let seen = starts[row * s + i] as usize..=i;
        let weight = |j: usize| (dot(&q[at..at + d], &k[key(j)..][..d]) / (d as f64).sqrt()).exp();
        let total: f64 = seen.clone().map(weight).sum();
        let p: Vec<f64> = seen.clone().map(|j| weight(j) / total).collect();
        let dp: Vec<f64> =
            seen.clone().map(|j| dot(&dout[at..at + d], &v[key(j)..][..d])).collect();
        let mean = dot(&p, &dp);
        for (j, (p, dp)) in seen.zip(p.iter().zip(&dp)) {
            let ds = p * (dp - mean) / (d as f64).sqrt();
            for x in 0..d {
                result[0][at + x] += p * v[key(j) + x];
                result[1][at + x] += ds * k[key(j) + x];
                result[2][key(j) + x] += ds * q[at + x];
                result[3][key(j) + x] += p * dout[at + x];
            }
        }
    }
    result
}

/// What the ranks compute.
pub(crate) struct Attended {
    /// `[out, dq, dk, dv]` of the whole sequence.
    pub(crate) whole: [Vec<f64>; 4],
    /// Per rank, multiply-adds of every ring step.
    pub(crate) multiply_adds: Vec<Vec<u64>>,
    /// Per rank, bytes sent forward and backward.
    pub(crate) bytes: Vec<[u64; 2]>,
}

/// Ring attention, forward and backward.
///
/// # Errors
/// If a rank failed.
pub(crate) fn attended(heads: &Heads, kernels: Kernels, dtype: DType) -> Result<Attended, String> {
    let ranks = threads::run(heads.ranks, |group| attend(heads, kernels, dtype, &group));
    let ranks = ranks.map_err(|failed| failed.to_string())?;
    let (s, d) = (heads.seq_len(), heads.head_dim);
    let [q, k, v, out] = heads.shapes();
    let mut whole = [out, q, k, v].map(|shape| vec![f64::NAN; shape.iter().product()]);
    for (rank, (found, ..)) in ranks.iter().enumerate() {
        let positions = local_positions(rank, heads.ranks, s).unwrap();
        for (whole, found) in whole.iter_mut().zip(found) {
            for (row, found) in found.chunks_exact(d).enumerate() {
                let (head, column) = (row / positions.len(), row % positions.len());
                whole[(head * s + positions[column]) * d..][..d].copy_from_slice(found);
            }
        }
    }
    let (multiply_adds, bytes) = ranks.into_iter().map(|(_, work, bytes)| (work, bytes)).unzip();
    Ok(Attended { whole, multiply_adds, bytes })
}

/// A rank's `[out, dq, dk, dv]`, multiply-adds, and bytes forward and backward.
fn attend(
    heads: &Heads,
    kernels: Kernels,
    dtype: DType,
    group: &Communicator,
) -> ([Vec<f64>; 4], Vec<u64>, [u64; 2]) {
    let s = heads.seq_len();
    let positions: Vec<i32> = local_positions(group.rank(), heads.ranks, s)
        .unwrap()
        .into_iter()
        .map(|position| position as i32)
        .collect();
    let device = device();
    let columns = Tensor::<1, Int>::from_data(positions.as_slice(), &device);
    let (shapes, values) = (heads.shapes(), heads.values());
    let [q, k, v, dout]: [Tensor<4>; 4] = std::array::from_fn(|i| {
        let data = TensorData::new(values[i].clone(), shapes[i]).convert_dtype(dtype);
        Tensor::from_data(data, (&device, dtype)).select(2, columns.clone())
    });
    let [q, k, v] = [q, k, v].map(|x| Tensor::from_inner(x.inner()).require_grad());
    let starts = heads.starts().map(|starts| {
        let starts = TensorData::new(starts, [heads.rows, s]);
        Tensor::<2, Int>::from_data(starts, &device).select(1, columns)
    });
    let ring = Ring::new(group.clone());
    let out = ring.attend(kernels, q.clone(), k.clone(), v.clone(), starts);
    let forward = group.traffic().bytes_sent;
    let grads = (out.clone() * dout).sum().backward();
    let backward = group.traffic().bytes_sent - forward;
    let gradients = [&q, &k, &v].map(|x| x.grad(&grads).unwrap());
    assert!(gradients.iter().all(|gradient| gradient.dtype() == dtype) && out.dtype() == dtype);
    let [dq, dk, dv] = gradients;
    let found = [out.inner(), dq, dk, dv];
    let found = found.map(|x| x.into_data().convert::<f64>().try_into_vec::<f64>().unwrap());
    (found, ring.multiply_adds(), [forward, backward])
}

/// Whether every rank does the same work as the others at every ring step.
///
/// # Errors
/// The first step at which two differ.
pub(crate) fn balanced(multiply_adds: &[Vec<u64>]) -> Result<(), String> {
    for step in 0..multiply_adds[0].len() {
        let work: Vec<u64> = multiply_adds.iter().map(|rank| rank[step]).collect();
        if work.iter().any(|n| *n != work[0]) || work[0] == 0 {
            return Err(format!("multiply-adds of ring step {step} by rank: {work:?}"));
        }
    }
    Ok(())
}

/// Largest difference over the largest element expected.
///
/// # Errors
/// If it is above the tolerance, or a value is missing.
pub(crate) fn close(
    name: &str,
    found: &[f64],
    expected: &[f64],
    tolerance: f64,
) -> Result<f64, String> {
    assert_eq!(found.len(), expected.len(), "{name}");
    let largest = expected.iter().fold(0f64, |m, v| m.max(v.abs()));
    let mut worst = 0f64;
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let difference = (found - expected).abs() / largest;
        if difference.is_nan() || difference > tolerance {
            return Err(format!("{name}[{i}] is {found:e} for {expected:e} of {largest:e}"));
        }
        worst = worst.max(difference);
    }
    Ok(worst)
}

/// A model over ranks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) ranks: usize,
    pub(crate) chunk: usize,
    pub(crate) tie: bool,
    pub(crate) documents: bool,
    pub(crate) kernels: Kernels,
    pub(crate) activations: Activations,
}

/// Loss, losses by token, and gradients in visit order.
pub(crate) struct Outcome {
    pub(crate) loss: LossSum,
    /// The sum of the losses by token.
    pub(crate) evaluated: f64,
    pub(crate) gradients: Vec<(String, Vec<f64>)>,
}

impl Layout {
    fn model(&self) -> Llama {
        let config = LlamaConfig {
            vocab_size: 97,
            d_model: 48,
            n_layers: 2,
            n_heads: 6,
            n_kv_heads: 2,
            head_dim: 8,
            d_ff: 100,
            max_seq_len: 128,
            tie_embeddings: self.tie,
            // Gradients of a fresh model are nearly those of a model without blocks: larger weights make all parts count.
            init_std: 0.2,
            ..preset("8m").unwrap()
        };
        Llama::init(&config, 11, self.kernels, &device()).unwrap()
    }

    fn batch(&self) -> MicroBatch {
        let seq_len = 2 * self.ranks * self.chunk;
        let mut batch = batch(97, 3, seq_len, 5, false);
        if self.documents {
            let starts = TensorData::new(starts(3, seq_len), [3, seq_len]);
            batch.document_starts = Some(Tensor::from_data(starts, &device()));
        }
        batch
    }

    fn outcome(&self, model: &Llama, batch: &MicroBatch, group: &Communicator) -> Outcome {
        let (gradients, loss) = forward_backward(model, batch, self.activations);
        let (gradients, loss) = finish_context(gradients, loss, group);
        let (tokens, targets) = (batch.tokens.clone().inner(), batch.targets.clone().inner());
        let starts = batch.document_starts.clone().map(Tensor::inner);
        let losses = model.valid().token_losses(tokens, targets, starts);
        let nats = f64::from(losses.sum().into_scalar::<f32>());
        let evaluated = LossSum { nats, tokens: batch.n_targets };
        let nothing = Gradients::new(Vec::new(), None);
        let (_, evaluated) = finish_context(nothing, evaluated, group);
        assert_eq!(evaluated.tokens, loss.tokens);
        let value = |x: &Tensor<1>| host(x).into_iter().map(f64::from).collect();
        let gradients = gradients.finish();
        let gradients = gradients.iter().map(|g| (g.path.clone(), value(&g.values))).collect();
        Outcome { loss, evaluated: evaluated.nats, gradients }
    }
}

/// Loss and every gradient of the model over ranks against those of one; the largest difference.
///
/// # Errors
/// What differs first.
pub(crate) fn compare(layout: &Layout) -> Result<f64, String> {
    let expected = layout.outcome(&layout.model(), &layout.batch(), &Communicator::alone());
    let ranks = threads::run(layout.ranks, |group| {
        let ring: Arc<dyn Attend> = Arc::new(Ring::new(group.clone()));
        let model = layout.model().with_attend(&ring);
        let batch = local_batch(&layout.batch(), group.rank(), group.size()).unwrap();
        layout.outcome(&model, &batch, &group)
    });
    let mut worst = 0f64;
    for (rank, found) in ranks.map_err(|failed| failed.to_string())?.iter().enumerate() {
        if found.loss.tokens != expected.loss.tokens {
            return Err(format!("{} tokens for {}", found.loss.tokens, expected.loss.tokens));
        }
        for (name, found, expected) in [
            ("loss", found.loss.nats, expected.loss.nats),
            ("token losses", found.evaluated, expected.evaluated),
        ] {
            worst = worst.max(close(name, &[found], &[expected], TOLERANCE)?);
        }
        assert_eq!(found.gradients.len(), expected.gradients.len());
        for ((path, found), (expected_path, expected)) in
            found.gradients.iter().zip(&expected.gradients)
        {
            assert_eq!(path, expected_path);
            let name = format!("{path} on rank {rank}");
            worst = worst.max(close(&name, found, expected, TOLERANCE)?);
        }
    }
    Ok(worst)
}
