//! What ranks cost, on threads: how much of the exchange of gradients hides behind backward, what exactness costs, and how
//! a step scales with its ranks.
//!
//! `cargo bench -p caravan-parallel --features mutations --bench ranks`

// A bench tells by printing and fails by panicking.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use burn::tensor::{Device, Int, Tensor, TensorData};
use caravan_collective::{Communicator, threads};
use caravan_model::{Kernels, LlamaConfig, preset};
use caravan_optim::{AdamW, AdamWConfig, ParamGroups, Placement};
use caravan_parallel::{
    Activations, Engine, Layout, Mesh, MicroBatch, Reduction, StepSettings, StepShape,
    expected_traffic, probe,
};

/// Steps measured, after one that is not.
const STEPS: usize = 11;
const ROWS: usize = 8;
const SEQ_LEN: usize = 128;
/// Delay of the exchange: 16 ms for every MiB that a rank sends, as on a link of 62 MiB/s, about half of a backward pass.
const NANOS_PER_BYTE: u64 = 16_000_000 / (1 << 20);

static DELAYED_NANOS: AtomicU64 = AtomicU64::new(0);

fn main() {
    overlap();
    exactness();
    weak_scaling();
}

/// `(time without overlap - time with overlap) / time of the exchange`, with a delayed exchange.
fn overlap() {
    println!("overlap of the data-parallel reduction: 2 ranks, exchange delayed by 16 ms per MiB");
    probe::set(Some(|moment, bytes| {
        if moment == "exchange" {
            let nanos = bytes as u64 * NANOS_PER_BYTE;
            thread::sleep(Duration::from_nanos(nanos));
            DELAYED_NANOS.fetch_add(nanos, Ordering::Relaxed);
        }
    }));
    let layout = Layout { data: 2, ..Layout::default() };
    let mut ratios = Vec::new();
    for _ in 0..7 {
        let without = median(layout, 1, false);
        DELAYED_NANOS.store(0, Ordering::Relaxed);
        let with = median(layout, 1, true);
        // Of both ranks and all steps.
        let delay = DELAYED_NANOS.load(Ordering::Relaxed) as f64 * 1e-9 / (2 * (STEPS + 1)) as f64;
        let ratio = (without - with) / delay;
        println!(
            "  without {:.1} ms, with {:.1} ms, exchange {:.1} ms: {ratio:.2} of it hidden",
            without * 1e3,
            with * 1e3,
            delay * 1e3
        );
        ratios.push(ratio);
    }
    probe::set(None);
    ratios.sort_by(f64::total_cmp);
    println!("  median {:.2}", ratios[ratios.len() / 2]);
}

/// Bytes, blocks that wait, and time of the exact sum beside the fast one.
fn exactness() {
    println!("exact against fast reduction, ZeRO 1: what rank 0 sends on `data` in a step");
    println!("| ranks | micro-batches of each | MiB exact | MiB fast | ms exact | ms fast |");
    println!("|---|---|---|---|---|---|");
    for ranks in [2, 3, 4] {
        for each in [1, 2, 3, 4] {
            let layout =
                |reduction| Layout { data: ranks, zero_stage: 1, reduction, ..Layout::default() };
            let step = StepShape {
                n_micro_batches: ranks * each,
                rows: ROWS,
                seq_len: SEQ_LEN,
                activations: Activations::Keep,
            };
            let mib = |reduction| {
                let bytes = expected_traffic(&layout(reduction), &config(), step, 0)["data"];
                bytes as f64 / f64::from(1 << 20)
            };
            println!(
                "| {ranks} | {each} | {:.1} | {:.1} | {:.0} | {:.0} |",
                mib(Reduction::Exact),
                mib(Reduction::Fast),
                median(layout(Reduction::Exact), each, true) * 1e3,
                median(layout(Reduction::Fast), each, true) * 1e3
            );
        }
    }
}

/// The same work for each rank, more ranks.
fn weak_scaling() {
    println!("weak scaling on threads: one micro-batch for each rank");
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let alone = tokens_per_sec(1);
    for ranks in [1, 2, 4] {
        let rate = if ranks == 1 { alone } else { tokens_per_sec(ranks) };
        let ratio = rate / alone;
        println!("  {ranks} ranks on {cores} cores: {rate:.0} tokens/s, {ratio:.2} of one rank's");
    }
}

fn tokens_per_sec(ranks: usize) -> f64 {
    let layout = Layout { data: ranks, ..Layout::default() };
    (ranks * ROWS * SEQ_LEN) as f64 / median(layout, 1, true)
}

fn config() -> LlamaConfig {
    LlamaConfig { max_seq_len: SEQ_LEN, ..preset("3m").unwrap() }
}

/// Median seconds of a step with `each` micro-batches for every rank.
fn median(layout: Layout, each: usize, overlap: bool) -> f64 {
    let measure = |world: Communicator| {
        let device = Device::flex().autodiff();
        let mesh = Mesh::new(world, &layout).unwrap();
        let mut engine = Engine::init(&config(), 1, Kernels::Fused, &device, layout, mesh).unwrap();
        engine = engine.with_overlap(overlap);
        let mut optimizer = AdamW::new(AdamWConfig::default(), Placement::Host).unwrap();
        let groups = ParamGroups::default();
        let n = each * layout.replicas();
        let batches: Vec<MicroBatch> =
            engine.micro_batches(n).iter().map(|i| batch(*i as usize, &device)).collect();
        let settings = StepSettings {
            lr: 1e-3,
            weight_decay: 0.1,
            groups: &groups,
            grad_clip: 1.0,
            activations: Activations::Keep,
        };
        let mut secs = Vec::new();
        for _ in 0..=STEPS {
            let begun = Instant::now();
            engine.step(&mut optimizer, n, &batches, settings).unwrap();
            secs.push(begun.elapsed().as_secs_f64());
        }
        secs.remove(0);
        secs.sort_by(f64::total_cmp);
        secs[secs.len() / 2]
    };
    let of_ranks = threads::run(layout.world(), measure).unwrap();
    of_ranks.into_iter().fold(0.0, f64::max)
}

fn batch(seed: usize, device: &Device) -> MicroBatch {
    let n = ROWS * SEQ_LEN;
    let ids: Vec<i32> = (0..n).map(|i| ((i * 31 + seed * 7919) % 2000) as i32).collect();
    let data = || TensorData::new(ids.clone(), [ROWS, SEQ_LEN]);
    let tensor = || Tensor::<2, Int>::from_data(data(), device);
    MicroBatch { tokens: tensor(), targets: tensor(), document_starts: None, n_targets: n as u64 }
}
