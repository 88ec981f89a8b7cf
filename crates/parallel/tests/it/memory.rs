use caravan_model::Kernels;
use caravan_parallel::{Activations, forward_backward};

use crate::common::{batch, config, model};

/// Resident memory in KiB, where the system tells it.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// A graph that outlives its step would pin megabytes per step.
#[test]
fn steps_do_not_grow_memory() {
    let config = caravan_model::LlamaConfig { d_ff: 512, ..config(false) };
    let model = model(&config, Kernels::Fused);
    let step = |i| {
        let batch = batch(97, 8, 64, i, false);
        let activations = if i % 2 == 0 { Activations::Keep } else { Activations::Recompute };
        drop(forward_backward(&model, &batch, activations));
    };
    (0..6).for_each(step);
    let Some(before) = resident() else {
        eprintln!("NOT RUN: steps_do_not_grow_memory: this system has no /proc/self/status");
        return;
    };
    (0..40).for_each(step);
    let after = resident().expect("it was there before");
    // One kept graph of this model holds about 12 MiB; 40 leaked ones 480 MiB. Other tests run beside this one.
    assert!(after < before + 100 * 1024, "{before} KiB before, {after} KiB after 40 steps");
}
