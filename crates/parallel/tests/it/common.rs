use burn::tensor::{Device, Int, Tensor, TensorData};
use caravan_model::{Kernels, Llama, LlamaConfig, preset};
use caravan_parallel::{Gradients, MicroBatch};

pub(crate) fn device() -> Device {
    Device::flex().autodiff()
}

pub(crate) fn config(tie_embeddings: bool) -> LlamaConfig {
    LlamaConfig {
        vocab_size: 97,
        d_model: 48,
        n_layers: 3,
        n_heads: 6,
        n_kv_heads: 2,
        head_dim: 8,
        d_ff: 100,
        max_seq_len: 64,
        tie_embeddings,
        ..preset("8m").unwrap()
    }
}

pub(crate) fn model(config: &LlamaConfig, kernels: Kernels) -> Llama {
    Llama::init(config, 11, kernels, &device()).unwrap()
}

/// `rows` sequences with some ignored targets; with documents, each row is cut in two.
pub(crate) fn batch(
    vocab_size: usize,
    rows: usize,
    seq_len: usize,
    seed: usize,
    documents: bool,
) -> MicroBatch {
    let n = rows * seq_len;
    let id = |i: usize| (((i + seed * 1009) * 7919 + i / 3 * 31) % vocab_size) as i32;
    let tokens: Vec<i32> = (0..n).map(id).collect();
    let targets: Vec<i32> = (0..n).map(|i| if i % 11 == 3 { -1 } else { id(i + 1) }).collect();
    let n_targets = targets.iter().filter(|t| **t >= 0).count() as u64;
    let half = seq_len as i32 / 2;
    let starts: Vec<i32> =
        (0..n).map(|i| if (i % seq_len) as i32 >= half { half } else { 0 }).collect();
    let int = |values: Vec<i32>| {
        Tensor::<2, Int>::from_data(TensorData::new(values, [rows, seq_len]), &device())
    };
    MicroBatch {
        tokens: int(tokens),
        targets: int(targets),
        document_starts: documents.then(|| int(starts)),
        n_targets,
    }
}

pub(crate) fn host(tensor: &Tensor<1>) -> Vec<f32> {
    tensor.clone().into_data().try_into_vec().unwrap()
}

pub(crate) fn bits(gradients: &Gradients) -> Vec<(String, Vec<usize>, Vec<u32>)> {
    gradients
        .iter()
        .map(|g| {
            (g.path.clone(), g.shape.clone(), host(&g.values).iter().map(|v| v.to_bits()).collect())
        })
        .collect()
}

/// Largest difference over the largest element.
///
/// # Errors
/// If it is above the tolerance, or a value is missing.
pub(crate) fn close(found: &[f32], expected: &[f32], tolerance: f32) -> Result<f32, String> {
    assert_eq!(found.len(), expected.len(), "two sizes of one tensor");
    let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    let mut worst = 0f32;
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let difference = (found - expected).abs();
        // Written so that NaN is no pass.
        if difference.is_nan() || difference > tolerance * largest {
            return Err(format!("element {i} is {found:e} for {expected:e} of {largest:e}"));
        }
        worst = worst.max(difference);
    }
    Ok(worst / largest)
}

/// The same, for a test that ends there.
pub(crate) fn assert_close(path: &str, found: &[f32], expected: &[f32], tolerance: f32) -> f32 {
    close(found, expected, tolerance).unwrap_or_else(|what| panic!("{path}: {what}"))
}
