//! What a rank holds, counted inside MPI processes: parameters, gradients and optimizer state under ZeRO beside their
//! formula, and the activations of a pipeline beside their schedule's theory.
//!
//! `cargo xtask ci mpi` runs it under `mpirun -n 8`.

// A test tells by printing and fails by panicking.
#![allow(clippy::unwrap_used, clippy::print_stdout)]
#![allow(unsafe_code)] // an allocator that counts

use std::alloc::{GlobalAlloc, Layout as Memory, System};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::{Device, Int, Tensor, TensorData};
use caravan_collective::Communicator;
use caravan_model::{Kernels, LlamaConfig, preset};
use caravan_optim::{AdamW, AdamWConfig, ParamGroups, Placement};
use caravan_parallel::{
    Activations, Engine, Layout, Mesh, MicroBatch, Schedule, StepSettings, probe,
};

/// Counts the bytes that are alive.
struct Counting;

static ALIVE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: hands everything to the system's allocator and counts beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, memory: Memory) -> *mut u8 {
        ALIVE.fetch_add(memory.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises.
        unsafe { System.alloc(memory) }
    }

    unsafe fn dealloc(&self, at: *mut u8, memory: Memory) {
        ALIVE.fetch_sub(memory.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises.
        unsafe { System.dealloc(at, memory) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes alive when the first micro-batch of a step had gone backward: weights, its gradients, the optimizer's state.
static AFTER_FIRST: AtomicUsize = AtomicUsize::new(0);
/// The most micro-batches in flight.
static MOST_IN_FLIGHT: AtomicUsize = AtomicUsize::new(0);

fn look(moment: &str, in_flight: usize) {
    MOST_IN_FLIGHT.fetch_max(in_flight + usize::from(moment == "backward"), Ordering::Relaxed);
    if moment == "backward" && AFTER_FIRST.load(Ordering::Relaxed) == 0 {
        AFTER_FIRST.store(ALIVE.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

fn main() -> ExitCode {
    let world = caravan_collective::mpi::world().unwrap();
    probe::set(Some(look));
    let mut failed = 0;
    let first = world.rank() == 0;
    if first {
        println!(
            "{:<28} {:>6} {:>14} {:>14} {:>7} {:>14}",
            "layout", "ranks", "formula", "most alive", "ratio", "resident"
        );
    }
    for n in [2, 4, 8].into_iter().filter(|n| *n <= world.size()) {
        for zero_stage in 0..4 {
            let layout = Layout { data: n, zero_stage, ..Layout::default() };
            let group = part(&world, n);
            let (mut alive, mut resident) = (0.0, 0.0);
            if let Some(group) = group {
                (alive, resident) = memory(group, layout);
            }
            let (alive, resident) = (largest(&world, alive), largest(&world, resident));
            let ratio = alive / formula(layout);
            let is_fine = (0.9..1.1).contains(&ratio);
            failed += usize::from(!is_fine);
            if first {
                let verdict = if is_fine { "" } else { "  FAILED: not within 10%" };
                println!(
                    "{:<28} {n:>6} {:>14.0} {alive:>14.0} {ratio:>7.3} {resident:>14.0}{verdict}",
                    layout.describe(),
                    formula(layout)
                );
            }
        }
    }
    for schedule in [Schedule::OneForwardOneBackward, Schedule::GPipe] {
        let stages = 4.min(world.size());
        let layout = Layout { pipeline: stages, schedule, ..Layout::default() };
        if let Some(group) = part(&world, stages) {
            let rank = group.rank();
            let in_flight = in_flight(group, layout);
            let theory = match schedule {
                Schedule::GPipe => MICRO_BATCHES,
                _ => stages - rank,
            };
            println!(
                "{}: stage {rank} had {in_flight} micro-batches in flight, theory {theory}",
                layout.describe()
            );
            failed += usize::from(in_flight != theory);
        }
    }
    let failed = largest(&world, failed as f64);
    if first {
        println!(
            "memory of ranks: {}",
            if failed == 0.0 { "as the formulas say" } else { "FAILED" }
        );
    }
    if failed == 0.0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Micro-batches of the pipelines' step.
const MICRO_BATCHES: usize = 8;

/// A group of the first `n` ranks, for those that are in it.
fn part(world: &Communicator, n: usize) -> Option<Communicator> {
    let takes_part = world.rank() < n;
    let group = world.split("world", usize::from(!takes_part), world.rank());
    takes_part.then_some(group)
}

fn largest(world: &Communicator, value: f64) -> f64 {
    let mut values = [value];
    world.all_reduce(caravan_collective::ReduceOp::Max, &mut values);
    values[0]
}

/// A few million parameters in segments of many blocks, so that parts are even.
fn config() -> LlamaConfig {
    LlamaConfig { max_seq_len: 8, tie_embeddings: false, n_layers: 8, ..preset("3m").unwrap() }
}

/// Bytes per rank: weights, gradients of one micro-batch, two moments, each whole or divided.
fn formula(layout: Layout) -> f64 {
    let (p, ranks) = (4.0 * config().param_count() as f64, layout.replicas() as f64);
    let share = |from: u8| if layout.zero_stage >= from { p / ranks } else { p };
    share(3) + share(2) + 2.0 * share(1)
}

fn engine(world: Communicator, layout: Layout) -> Engine {
    let device = Device::flex().autodiff();
    let mesh = Mesh::new(world, &layout).unwrap();
    let engine = Engine::init(&config(), 1, Kernels::Fused, &device, layout, mesh).unwrap();
    // What is on its way between two threads would be counted at a moment of chance.
    engine.with_overlap(false)
}

fn batch(seed: usize) -> MicroBatch {
    let device = Device::flex().autodiff();
    let ids: Vec<i32> = (0..8).map(|i| ((i * 31 + seed * 7) % 1000) as i32).collect();
    let tensor = || Tensor::<2, Int>::from_data(TensorData::new(ids.clone(), [1, 8]), &device);
    MicroBatch { tokens: tensor(), targets: tensor(), document_starts: None, n_targets: 8 }
}

fn step(engine: &mut Engine, optimizer: &mut AdamW, n: usize) {
    let groups = ParamGroups::default();
    let batches: Vec<MicroBatch> =
        engine.micro_batches(n).iter().map(|i| batch(*i as usize)).collect();
    let settings = StepSettings {
        lr: 1e-3,
        weight_decay: 0.1,
        groups: &groups,
        grad_clip: 1.0,
        activations: Activations::Keep,
    };
    engine.step(optimizer, n, &batches, settings).unwrap();
}

/// Bytes alive after the first of two micro-batches of the second step, and the resident size then.
fn memory(world: Communicator, layout: Layout) -> (f64, f64) {
    let before = ALIVE.load(Ordering::Relaxed);
    let mut engine = engine(world, layout);
    let mut optimizer = AdamW::new(AdamWConfig::default(), Placement::Host).unwrap();
    let n = 2 * layout.replicas();
    step(&mut engine, &mut optimizer, n);
    AFTER_FIRST.store(0, Ordering::Relaxed);
    step(&mut engine, &mut optimizer, n);
    let alive = AFTER_FIRST.load(Ordering::Relaxed) - before;
    (alive as f64, resident())
}

/// The most micro-batches that were between forward and backward.
fn in_flight(world: Communicator, layout: Layout) -> usize {
    let mut engine = engine(world, layout);
    let mut optimizer = AdamW::new(AdamWConfig::default(), Placement::Host).unwrap();
    MOST_IN_FLIGHT.store(0, Ordering::Relaxed);
    step(&mut engine, &mut optimizer, MICRO_BATCHES);
    MOST_IN_FLIGHT.load(Ordering::Relaxed)
}

/// Resident bytes of this process, from `/proc/self/statm`; 0 where there is none.
fn resident() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: f64 = text.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0.0);
    pages * 4096.0
}
