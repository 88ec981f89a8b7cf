use std::path::{Path, PathBuf};

use burn::tensor::Device;
use caravan_eval::{EvalError, read_ids, score_ids};
use caravan_model::{Kernels, load_hf};
use safetensors::SafeTensors;

use crate::common::{log_softmax_after, model};

#[test]
fn log_probabilities_are_those_of_single_passes() {
    let model = model(97, 64);
    let sequences = vec![vec![5, 6, 7, 90, 0], vec![], vec![3], (0..64).collect()];
    let scores = score_ids(&model, &sequences).unwrap();
    let lengths: Vec<usize> = scores.log_probs.iter().map(Vec::len).collect();
    assert_eq!((lengths, scores.n_tokens), (vec![4, 0, 0, 63], 67));
    let mut total = 0.0;
    for (ids, log_probs) in sequences.iter().zip(&scores.log_probs) {
        for (i, found) in log_probs.iter().enumerate() {
            let expected = log_softmax_after(&model, &ids[..=i])[ids[i + 1] as usize];
            assert!((found - expected).abs() < 2e-5, "{found} for {expected}");
            total -= expected;
        }
    }
    assert!((scores.loss.unwrap() - total / 67.0).abs() < 1e-5);
    assert_eq!(score_ids(&model, &[]).unwrap().loss, None);
}

#[test]
fn bad_ids_are_refused() {
    let model = model(97, 64);
    let error = score_ids(&model, &[vec![1], vec![0; 65]]).unwrap_err();
    assert!(
        matches!(error, EvalError::SequenceTooLong { index: 1, found: 65, limit: 64 }),
        "{error}"
    );
    let error = score_ids(&model, &[vec![1, 97]]).unwrap_err();
    assert!(matches!(error, EvalError::UnknownId { id: 97, index: 0, position: 1, .. }), "{error}");

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ids.json");
    assert!(matches!(read_ids(&file), Err(EvalError::Read { .. })));
    for bad in [
        "",
        "[]",
        "{\"input_ids\": [1]}",
        "{\"input_ids\": [[-1]]}",
        "{\"input_ids\": [[1]], \"x\": 1}",
    ] {
        std::fs::write(&file, bad).unwrap();
        assert!(matches!(read_ids(&file), Err(EvalError::Row { .. })), "{bad}");
    }
    std::fs::write(&file, "{\"input_ids\": [[1, 2],\n [3]]}").unwrap();
    assert_eq!(read_ids(&file).unwrap(), [vec![1, 2], vec![3]]);
}

/// Per-token log-probabilities and loss of transformers.
fn check(dir: &Path) {
    let file = std::fs::read(dir.join("reference.safetensors")).unwrap();
    let json = std::fs::read_to_string(dir.join("reference.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let (ids, expected) =
        (tensors.tensor("input_ids").unwrap(), tensors.tensor("token_logprobs").unwrap());
    let to_ids = |row: &[u8]| {
        row.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32).collect()
    };
    let sequences: Vec<Vec<u32>> =
        ids.data().chunks_exact(8 * ids.shape()[1]).map(to_ids).collect();
    let expected: Vec<f32> = expected
        .data()
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect();
    for kernels in [Kernels::Reference, Kernels::Fused] {
        let (model, _) = load_hf(dir, kernels, &Device::flex()).unwrap();
        let scores = score_ids(&model, &sequences).unwrap();
        let found: Vec<f64> = scores.log_probs.concat();
        assert_eq!(found.len(), expected.len());
        let worst =
            found.iter().zip(&expected).fold(0f64, |m, (a, b)| m.max((a - f64::from(*b)).abs()));
        // The references' own tolerance for logits; a log-probability is a difference of two such numbers.
        assert!(worst < 2e-4, "{}: {worst}", dir.display());
        let loss = scores.loss.unwrap();
        assert!((loss - json["loss"].as_f64().unwrap()).abs() < 1e-5, "{loss}");
        println!("{} {kernels:?}: worst log-probability {worst:.1e}", dir.display());
    }
}

fn references(root: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.filter(|dir| dir.join("reference.json").exists()).collect()
}

#[test]
fn log_probabilities_are_those_of_transformers() {
    let found =
        references(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/reference")));
    assert!(!found.is_empty(), "no references among the fixtures");
    found.iter().for_each(|dir| check(dir));
}

#[test]
#[allow(clippy::disallowed_methods)]
fn shared_log_probabilities_are_those_of_transformers() {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared").to_owned();
    let root = Path::new(&std::env::var("CARAVAN_SHARED").unwrap_or(default)).join("reference");
    let found = references(&root);
    if found.is_empty() {
        let test = "shared_log_probabilities_are_those_of_transformers";
        eprintln!("NOT RUN: {test}: no references in {}", root.display());
    }
    found.iter().for_each(|dir| check(dir));
}
