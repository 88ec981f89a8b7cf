//! Heads for classes: where they read, and the gradients of it.

use burn::tensor::{Device, Int, Tensor, TensorData};
use caravan_model::{Forward as _, Kernels, Llama, LlamaConfig, preset};

const IDS: [[i32; 6]; 2] = [[5, 9, 2, 7, 7, 1], [3, 3, 8, 4, 6, 2]];
/// Two documents in the first row, one in the second.
const STARTS: [[i32; 6]; 2] = [[0, 0, 0, 3, 3, 3], [0; 6]];

fn model(device: &Device) -> Llama {
    let config = LlamaConfig { init_std: 0.3, ..preset("tiny").unwrap() };
    Llama::init(&config, 5, Kernels::Fused, device).unwrap().with_classes(3, 1).unwrap()
}

fn ints(values: [[i32; 6]; 2], device: &Device) -> Tensor<2, Int> {
    Tensor::from_data(TensorData::from(values), device)
}

fn logits(model: &Llama) -> Vec<f32> {
    let device = model.device();
    let logits = model.logits(ints(IDS, &device), Some(ints(STARTS, &device)));
    logits.into_data().try_into_vec().unwrap()
}

#[test]
fn the_mean_is_over_the_document_up_to_a_position() {
    let plain = model(&Device::flex());
    let (each, mean) = (logits(&plain), logits(&plain.with_mean_pool()));
    for row in 0..2 {
        for position in 0..6 {
            let start = STARTS[row][position] as usize;
            for class in 0..3 {
                let at = |p: usize| f64::from(each[(row * 6 + p) * 3 + class]);
                let expected =
                    (start..=position).map(at).sum::<f64>() / (position - start + 1) as f64;
                let found = f64::from(mean[(row * 6 + position) * 3 + class]);
                assert!((found - expected).abs() < 1e-5, "{row} {position} {class}");
            }
        }
    }
}

/// The model with other weights in its mix of layers.
fn mixed(model: Llama, weights: &[f32]) -> Llama {
    let mut weights = weights.iter();
    model.map_flat(&mut |path, _, old| match path.ends_with(".mix") {
        true => {
            let weight = vec![*weights.next().unwrap()];
            Tensor::from_data(TensorData::new(weight, [1]), &old.device())
        }
        false => old,
    })
}

#[test]
fn a_mix_of_the_last_layer_alone_is_no_mix() {
    let plain = model(&Device::flex());
    let mixing = plain.clone().with_layer_mix();
    let (expected, found) = (logits(&plain), logits(&mixed(mixing.clone(), &[0.0, 0.0, 1.0])));
    for (a, b) in expected.iter().zip(&found) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
    assert!(logits(&mixing).iter().zip(&expected).any(|(a, b)| (a - b).abs() > 1e-2));
}

#[test]
fn gradients_of_the_mix_are_slopes_of_the_loss() {
    let device = Device::flex().autodiff();
    let base = model(&device).with_layer_mix().with_mean_pool();
    let weights = [0.4f32, -0.3, 0.6];
    let targets = [[-1, -1, 2, -1, -1, 0], [-1, -1, -1, -1, -1, 1]];
    let loss = |model: &Llama| {
        let device = model.device();
        model.loss(ints(IDS, &device), ints(targets, &device), Some(ints(STARTS, &device)))
    };
    let value =
        |weights: &[f32]| f64::from(loss(&mixed(base.clone(), weights)).into_scalar::<f32>());
    let model = mixed(base.clone(), &weights);
    let grads = loss(&model).backward();
    let mixes = std::iter::once(&model.embed.mix).chain(model.blocks.iter().map(|b| &b.mix));
    for (i, mix) in mixes.enumerate() {
        let gradient = mix.as_ref().unwrap().val().grad(&grads).unwrap();
        let gradient = f64::from(gradient.into_scalar::<f32>());
        let step = 1e-2;
        let moved = |by: f32| {
            let mut weights = weights;
            weights[i] += by;
            value(&weights)
        };
        let slope = (moved(step) - moved(-step)) / (2.0 * f64::from(step));
        assert!((gradient - slope).abs() < 2e-3 * slope.abs().max(1.0), "{i}: {gradient} {slope}");
    }
}
