//! Milliseconds of one optimizer step over the 8.3M parameters of preset `8m`.
//!
//! `cargo test --release -p caravan-optim --test it cost -- --ignored --nocapture`

use std::hint::black_box;
use std::time::{Duration, Instant};

use burn::tensor::{Device, Distribution, Tensor};
use caravan_optim::{AdamW, AdamWConfig, Placement, block_sums};

/// Lengths of the parameters of preset `8m`: d_model 288, d_ff 768, 6 layers, vocabulary 4096.
fn lengths() -> Vec<usize> {
    let mut lengths = vec![4096 * 288, 4096 * 288, 288];
    for _ in 0..6 {
        lengths.extend([288, 288 * 288, 288 * 288, 288 * 288, 288 * 288, 288]);
        lengths.extend([288 * 768, 288 * 768, 768 * 288]);
    }
    lengths
}

#[test]
#[ignore = "a measurement"]
fn cost_of_a_step() {
    let device = Device::flex();
    let random = |n| Tensor::<1>::random([n], Distribution::Uniform(-1.0, 1.0), &device);
    let lengths = lengths();
    assert_eq!(lengths.iter().sum::<usize>(), 8_335_008);
    let grads: Vec<_> = lengths.iter().map(|&n| random(n)).collect();
    for placement in [Placement::Device, Placement::Host] {
        let mut adamw = AdamW::new(AdamWConfig::default(), placement).unwrap();
        let mut params: Vec<_> = lengths.iter().map(|&n| random(n)).collect();
        let best = best_of(20, || {
            // Gradients are the caller's own, as in a run: each step consumes fresh ones.
            let mine: Vec<Tensor<1>> = grads.iter().map(|g| g.clone().mul_scalar(1.0)).collect();
            let start = Instant::now();
            params = std::mem::take(&mut params)
                .into_iter()
                .zip(mine)
                .enumerate()
                .map(|(i, (p, g))| adamw.step_scaled(&i.to_string(), p, g, 0.5, 1e-3, 0.1))
                .collect();
            start.elapsed()
        });
        eprintln!("AdamW {placement:?}: {best:.2?}");
    }
    let host: Vec<Vec<f32>> =
        grads.iter().map(|g| g.clone().into_data().try_into_vec().unwrap()).collect();
    let best = best_of(20, || {
        let start = Instant::now();
        for values in &host {
            black_box(block_sums(values));
        }
        start.elapsed()
    });
    eprintln!("squared norm: {best:.2?}");
}

fn best_of(n: usize, mut run: impl FnMut() -> Duration) -> Duration {
    (0..n).map(|_| run()).min().unwrap()
}
