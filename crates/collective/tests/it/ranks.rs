//! One rank of a test under mpirun: `collective-ranks MODE`, see `mpi.rs` for what each must do.

#![allow(clippy::print_stdout, reason = "the tests read it")]

use std::time::{Duration, Instant};

use caravan_collective::{Communicator, ReduceOp, mpi};

mod conformance;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mode = std::env::args().nth(1).ok_or("which mode?")?;
    let world = mpi::world()?;
    // Another rank fails or is gone: nobody gets past this.
    let wait = |world: &Communicator| world.barrier();
    let is_second = world.rank() == 1;
    match (mode.as_str(), is_second) {
        ("conformance", _) => conformance::conformance(&world),
        ("panic", true) => panic!("boom"),
        ("panic", false) => wait(&world),
        ("panic-beside-computing", true) => panic!("boom"),
        ("panic-beside-computing", false) => std::thread::sleep(Duration::from_secs(60)),
        ("panic-in-thread", true) => {
            let helper = std::thread::spawn(|| panic!("boom"));
            let _ = helper.join();
            wait(&world);
        }
        ("panic-in-threads", true) => {
            let at_once = std::sync::Barrier::new(8);
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        at_once.wait();
                        panic!("boom");
                    });
                }
            });
        }
        ("abort", true) => world.abort("out of water"),
        ("kill", true) => {
            let me = std::process::id().to_string();
            std::process::Command::new("kill").args(["-9", &me]).status()?;
            std::thread::sleep(Duration::from_secs(60));
        }
        ("early", true) | ("early-message", true) => {}
        ("early-message", false) => world.recv(1, 3, &mut [0_f32; 5]),
        ("panic-in-thread" | "panic-in-threads" | "abort" | "kill" | "early", false) => {
            wait(&world)
        }
        ("early-part", _) => early_part(&world),
        ("unreceived", _) => world.send((world.rank() + 1) % world.size(), 0, &vec![0_u8; 8 << 20]),
        ("mismatch", true) => world.checked().all_reduce(ReduceOp::Sum, &mut [0_f32; 10]),
        ("mismatch", false) => world.checked().barrier(),
        ("length", true) => world.recv(0, 0, &mut [0_f32; 12]),
        ("length", false) => world.send(1, 0, &[0_f32; 10]),
        ("tag", _) => world.send(0, u32::MAX, &[0_u8]),
        ("twice", _) => world.abort(&mpi::world().err().ok_or("started twice")?.to_string()),
        ("after", _) => {
            let late = Communicator::clone(&world);
            drop(world);
            late.duplicate("late");
        }
        ("computing", _) => computing(&world),
        ("bench", _) => bench(&world),
        _ => return Err(format!("no mode {mode}").into()),
    }
    Ok(())
}

/// Ranks 0 and 1 end, which the others neither need nor mind; the rest goes on for a while.
fn early_part(world: &Communicator) {
    let part = world.split("part", world.rank().min(2), 0);
    world.barrier();
    if part.size() > 1 || world.rank() >= 2 {
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(150));
            part.barrier();
        }
    }
}

/// Rank 0 sends a long message and computes; it must arrive in the meantime.
fn computing(world: &Communicator) {
    let mut data = vec![world.rank() as u32; 4 << 20];
    for _ in 0..3 {
        world.barrier();
        let start = Instant::now();
        if world.rank() == 0 {
            world.send(1, 0, &data);
            while start.elapsed() < Duration::from_secs(1) {
                std::hint::spin_loop();
            }
        } else {
            world.recv(0, 0, &mut data);
            let took = start.elapsed();
            assert!(took < Duration::from_millis(500), "it came after {took:?}");
            data.fill(1);
        }
    }
}

/// Prints medians of seven, in milliseconds.
fn bench(world: &Communicator) {
    let size = world.size();
    let time = |name: &str, call: &mut dyn FnMut()| {
        let mut times: Vec<f64> = (0..8)
            .map(|_| {
                world.barrier();
                let start = Instant::now();
                call();
                start.elapsed().as_secs_f64() * 1e3
            })
            .skip(1)
            .collect();
        times.sort_by(f64::total_cmp);
        if world.rank() == 0 {
            println!("{name} n={size} median {:.2} ms, best {:.2} ms", times[3], times[0]);
        }
    };
    let n = 8 << 20;
    let mut data = vec![1.0_f32; n];
    let mut own = vec![0.0_f32; n / size];
    let parts: Vec<Vec<f32>> = (0..size).map(|_| vec![1.0; n / size]).collect();
    let mut half = vec![half::bf16::ONE; n];
    time("all_reduce 32 MiB f32", &mut || world.all_reduce(ReduceOp::Sum, &mut data));
    time("all_reduce 16 MiB bf16", &mut || world.all_reduce(ReduceOp::Max, &mut half));
    let whole = data[..size * own.len()].to_vec();
    time("reduce_scatter 32 MiB f32", &mut || {
        world.reduce_scatter(ReduceOp::Sum, &whole, &mut own);
    });
    let mut whole = whole;
    time("all_gather 32 MiB f32", &mut || world.all_gather(&own, &mut whole));
    time("all_to_all_v 32 MiB f32", &mut || drop(world.all_to_all_v(&parts)));
    time("all_reduce of 1 f32", &mut || world.all_reduce(ReduceOp::Sum, &mut [1.0_f32]));
    let checked = world.checked();
    time("the same, checked", &mut || checked.all_reduce(ReduceOp::Sum, &mut [1.0_f32]));
}
