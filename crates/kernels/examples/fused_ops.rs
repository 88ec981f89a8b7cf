//! One operator both ways: the same value, the same gradients, and the time each takes.
//!
//! Run with `cargo run --release -p caravan-kernels --example fused_ops`.

#![allow(clippy::print_stdout)] // an example talks to its reader

use std::time::{Duration, Instant};

use burn::tensor::{Device, Distribution, Tensor};
use caravan_kernels::Kernels;

fn main() -> anyhow::Result<()> {
    let device = Device::flex().autodiff();
    // The attention of one layer of an 8M-parameter model: 8 sequences of 256 tokens, 6 heads of 48.
    let random = || -> Tensor<4> {
        Tensor::random([8, 6, 256, 48], Distribution::Normal(0.0, 1.0), &device).require_grad()
    };
    let inputs = [random(), random(), random()];

    let (reference, fused) = (run(Kernels::Reference, &inputs), run(Kernels::Fused, &inputs));
    for (name, a, b) in [
        ("value", &reference.0, &fused.0),
        ("dq", &reference.1[0], &fused.1[0]),
        ("dk", &reference.1[1], &fused.1[1]),
        ("dv", &reference.1[2], &fused.1[2]),
    ] {
        let difference = (a.clone() - b.clone()).abs().max().into_scalar::<f32>();
        println!("{name:>5}: largest difference {difference:e}");
        anyhow::ensure!(difference < 1e-4, "{name} differs by {difference}");
    }

    let (reference, fused) =
        (best_of(Kernels::Reference, &inputs), best_of(Kernels::Fused, &inputs));
    println!(
        "forward and backward: reference {:.1} ms, fused {:.1} ms, {:.1} times as fast",
        reference.as_secs_f64() * 1e3,
        fused.as_secs_f64() * 1e3,
        reference.as_secs_f64() / fused.as_secs_f64(),
    );
    Ok(())
}

/// The value of attention and the gradients of its inputs for the sum of squares.
fn run(kernels: Kernels, [q, k, v]: &[Tensor<4>; 3]) -> (Tensor<4>, [Tensor<4>; 3]) {
    let out = kernels.attention(q.clone(), k.clone(), v.clone(), None);
    let grads = out.clone().square().sum().backward();
    let gradient = |x: &Tensor<4>| x.grad(&grads).expect("the inputs are tracked");
    (out.inner(), [gradient(q), gradient(k), gradient(v)])
}

fn best_of(kernels: Kernels, inputs: &[Tensor<4>; 3]) -> Duration {
    let once = |_| {
        let start = Instant::now();
        run(kernels, inputs);
        start.elapsed()
    };
    (0..5).map(once).min().unwrap_or_default()
}
