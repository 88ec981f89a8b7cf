//! The update as training runs it, against ten steps of PyTorch's AdamW on the repository's reference models.

use std::path::Path;

use burn::tensor::{Int, Tensor, TensorData};
use caravan_model::{Kernels, load_hf};
use caravan_optim::{AdamW, AdamWConfig, ParamGroups, Placement};
use caravan_parallel::{Activations, MicroBatch};
use caravan_train::{StepSettings, step};
use safetensors::SafeTensors;

#[test]
fn ten_updates_follow_pytorch() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/reference"));
    let mut n_models = 0;
    for entry in std::fs::read_dir(root).unwrap() {
        let dir = entry.unwrap().path();
        if dir.join("reference.json").exists() {
            follow(&dir);
            n_models += 1;
        }
    }
    assert!(n_models >= 2, "{n_models} reference models");
}

#[test]
fn what_is_not_finite_is_named_and_changes_nothing() {
    let dir = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/reference/tied"));
    let device = caravan_model::device::parse("flex").unwrap().autodiff();
    let (model, _) = load_hf(dir, Kernels::Fused, &device).unwrap();
    let model = model.map_flat(&mut |path, _, values| {
        if path == "head.norm.weight" { values.mul_scalar(f32::NAN) } else { values }
    });
    let mut optimizer = AdamW::new(AdamWConfig::default(), Placement::Host).unwrap();
    let groups = ParamGroups::default();
    let settings = StepSettings {
        lr: 1e-3,
        weight_decay: 0.1,
        groups: &groups,
        grad_clip: 1.0,
        activations: Activations::Keep,
    };
    let batch = std::iter::once(batch(dir, &device));
    let (_, found) = step(model, &mut optimizer, batch, settings).unwrap_err();
    assert_eq!(found.what, "the loss");
    assert!(found.value.is_nan());
    assert_eq!(optimizer.paths().count(), 0, "the optimizer was not touched");
}

fn follow(dir: &Path) {
    let json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(dir.join("reference.json")).unwrap())
            .unwrap();
    let expected =
        |key: &str| -> Vec<f64> { serde_json::from_value(json["adamw"][key].clone()).unwrap() };
    let tolerance = json["suggested_tolerance"]["adamw_losses"].as_f64().unwrap();
    let device = caravan_model::device::parse("flex").unwrap().autodiff();
    let (mut model, _) = load_hf(dir, Kernels::Fused, &device).unwrap();
    let mut optimizer = AdamW::new(AdamWConfig::default(), Placement::Host).unwrap();
    // Found by running PyTorch both ways: in these references the embedding decays, too.
    let groups = ParamGroups::all_matrices();
    let settings = StepSettings {
        lr: 1e-3,
        weight_decay: 0.1,
        groups: &groups,
        grad_clip: 1.0,
        activations: Activations::Keep,
    };
    let losses = expected("losses_before_step");
    for (i, (loss, norm)) in losses.iter().zip(expected("grad_norms")).enumerate() {
        let outcome;
        (model, outcome) =
            step(model, &mut optimizer, std::iter::once(batch(dir, &device)), settings).unwrap();
        let (found, place) = (outcome.loss.mean(), format!("{}, step {i}", dir.display()));
        assert!((found - loss).abs() <= tolerance, "{place}: loss {found}, PyTorch {loss}");
        assert!(
            (outcome.grad_norm / norm - 1.0).abs() <= 1e-4,
            "{place}: norm {}, PyTorch {norm}",
            outcome.grad_norm
        );
    }
}

/// transformers compares the logits at `i` with the label at `i + 1`; -100 does not count.
fn batch(dir: &Path, device: &burn::tensor::Device) -> MicroBatch {
    let bytes = std::fs::read(dir.join("reference.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let ints = |name: &str| -> (Vec<usize>, Vec<i32>) {
        let view = tensors.tensor(name).unwrap();
        let values = view.data().as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as i32);
        (view.shape().to_vec(), values.collect())
    };
    let (shape, tokens) = ints("input_ids");
    let targets: Vec<i32> = ints("labels_masked")
        .1
        .chunks_exact(shape[1])
        .flat_map(|row| row[1..].iter().map(|l| if *l == -100 { -1 } else { *l }).chain([-1]))
        .collect();
    let n_targets = targets.iter().filter(|t| **t >= 0).count() as u64;
    let tensor = |v| Tensor::<2, Int>::from_data(TensorData::new(v, [shape[0], shape[1]]), device);
    MicroBatch {
        tokens: tensor(tokens),
        targets: tensor(targets),
        document_starts: None,
        n_targets,
    }
}
