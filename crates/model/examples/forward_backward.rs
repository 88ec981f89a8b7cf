//! Forward and backward of a tiny LLaMA, and a few steps of plain gradient descent on one batch.
//!
//! `cargo run --release -p caravan-model --example forward_backward`

#![allow(clippy::print_stdout)] // An example talks to its reader.

use anyhow::Result;
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Gradients, Int, Tensor, TensorData};
use caravan_model::{Forward, Kernels, Llama, device, preset};

fn main() -> Result<()> {
    // A device with autodiff: every operation on its tensors is recorded.
    let device = device::parse("flex")?.autodiff();
    let config = preset("tiny")?;
    let mut model = Llama::init(&config, 0, Kernels::Fused, &device)?;
    for (part, n) in config.param_breakdown() {
        println!("{part:>12} {n:>8} parameters");
    }

    // Two sequences of 32 tokens; the target of each position is the next token.
    let (rows, seq_len) = (2, 32);
    let ids: Vec<i32> = (0..rows * (seq_len + 1)).map(|i| (i * i + 3 * i) as i32 % 512).collect();
    let batch = TensorData::new(ids, [rows, seq_len + 1]);
    let batch = Tensor::<2, Int>::from_data(batch, &device);
    let tokens = batch.clone().narrow(1, 0, seq_len);
    let targets = batch.narrow(1, 1, seq_len);

    for step in 0..8 {
        // The loss is a sum over tokens; dividing once gives the mean.
        let loss = model.loss(tokens.clone(), targets.clone(), None) / (rows * seq_len) as f64;
        println!("step {step}: loss {:.4} nats per token", loss.clone().into_scalar::<f32>());
        let gradients = flat_gradients(&model, &loss.backward());
        let mut gradients = gradients.into_iter();
        model = model.map_flat(&mut |_path, _shape, weight| {
            weight - gradients.next().expect("one gradient per parameter") * 0.2
        });
    }

    // Reading a model: without autodiff.
    let model = model.valid();
    let tokens = Tensor::<2, Int>::from_data([[0, 4, 10, 18]], &model.device());
    let best = model.logits(tokens, None).argmax(2).into_data();
    println!("most likely next tokens: {:?}", best.convert::<i64>().try_to_vec::<i64>()?);
    Ok(())
}

/// The gradients in the order in which `map_flat` visits the parameters.
fn flat_gradients(model: &Llama, gradients: &Gradients) -> Vec<Tensor<1>> {
    struct Collect<'a>(&'a Gradients, Vec<Tensor<1>>);
    impl ModuleVisitor for Collect<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = param.val().grad(self.0).expect("every parameter is used");
            let n = gradient.dims().iter().product::<usize>();
            self.1.push(gradient.reshape([n]));
        }
    }
    let mut collect = Collect(gradients, Vec::new());
    model.visit(&mut collect);
    collect.1
}
