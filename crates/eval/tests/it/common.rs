use burn::tensor::{Device, Int, Tensor, TensorData};
use caravan_model::{Forward, Kernels, Llama, LlamaConfig, preset};

pub(crate) fn model(vocab_size: usize, max_seq_len: usize) -> Llama {
    let config = LlamaConfig {
        vocab_size,
        d_model: 48,
        n_layers: 2,
        n_heads: 6,
        n_kv_heads: 2,
        head_dim: 8,
        d_ff: 100,
        max_seq_len,
        init_std: 0.2, // far from uniform, so that mistakes show
        ..preset("tiny").unwrap()
    };
    Llama::init(&config, 5, Kernels::Fused, &Device::flex()).unwrap()
}

/// `ln p` of every token after `context`, by a forward pass over exactly context and token: nothing is batched, padded
/// or shared.
pub(crate) fn log_softmax_after(model: &Llama, context: &[u32]) -> Vec<f64> {
    let ids: Vec<i32> = context.iter().map(|id| *id as i32).collect();
    let data = TensorData::new(ids, [1, context.len()]);
    let logits = model.logits(Tensor::<2, Int>::from_data(data, &Device::flex()), None);
    let vocab = logits.dims()[2];
    let all: Vec<f32> = logits.into_data().try_into_vec().unwrap();
    let last: Vec<f64> = all[all.len() - vocab..].iter().map(|l| f64::from(*l)).collect();
    let sum: f64 = last.iter().map(|l| l.exp()).sum();
    last.into_iter().map(|l| l - sum.ln()).collect()
}
