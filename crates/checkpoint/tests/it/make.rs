//! Small checkpoints whose every value follows from the step.

use std::path::{Path, PathBuf};

use caravan_checkpoint::{Checkpoint, CheckpointError, Dtype, Meta, SaveTensor, save};
use serde_json::json;

pub(crate) fn meta(step: u64) -> Meta {
    Meta {
        config: json!({"d_model": 48, "peak_lr": 3e-4, "name": "カラバン"}),
        tokenizer_hash: "ab".repeat(32),
        data: json!({"sequence": step * 8}),
        state: json!({"adamw_step": step, "nats": 0.1 + 0.2}),
    }
}

pub(crate) fn weights(step: u64, n: usize) -> Vec<f32> {
    (0..n).map(|i| (i as f32 * 0.37 + step as f32).sin()).collect()
}

/// Three tensors of about `n` elements; the second has odd bytes, the third nothing but a scalar.
pub(crate) fn save_step(root: &Path, step: u64, n: usize) -> Result<PathBuf, CheckpointError> {
    let bytes: Vec<u8> = (0..n | 1).map(|i| (i as u64 * 31 + step) as u8).collect();
    let scalar = step.to_le_bytes();
    let mut tensors = vec![
        SaveTensor::f32("model/blocks.0.wq.weight", &[n, 1], weights(step, n)),
        SaveTensor::bytes("odd", Dtype::U8, &[n | 1], &bytes),
        SaveTensor::bytes("adamw/step", Dtype::U64, &[], &scalar),
    ]
    .into_iter();
    save(root, step, &meta(step), &mut tensors)
}

/// Panics unless `checkpoint` is what [`save_step`] saved, whole.
pub(crate) fn assert_is_step(checkpoint: &Checkpoint, step: u64, n: usize) {
    assert_eq!(checkpoint.step(), step);
    let manifest = checkpoint.manifest();
    let expected = meta(step);
    assert_eq!(manifest.config, expected.config);
    assert_eq!(manifest.tokenizer_hash, expected.tokenizer_hash);
    assert_eq!(manifest.data, expected.data);
    assert_eq!(manifest.state, expected.state);
    assert_eq!(
        checkpoint.f32_values_of_shape("model/blocks.0.wq.weight", &[n, 1]).unwrap(),
        weights(step, n)
    );
    let odd = checkpoint.tensor("odd").unwrap();
    assert!(odd.bytes.iter().enumerate().all(|(i, &b)| b == (i as u64 * 31 + step) as u8));
    assert_eq!(&*checkpoint.tensor("adamw/step").unwrap().bytes, step.to_le_bytes());
    assert_eq!(checkpoint.tensors().count(), 3);
}
