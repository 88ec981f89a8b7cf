//! Ranks that fail: nobody waits for ever, and the first that failed is named.

use std::panic::catch_unwind;
use std::sync::mpsc;
use std::time::Duration;

use caravan_collective::{Communicator, RankFailed, ReduceOp, threads};

/// Runs ranks that must fail, and soon: also where the code under test would wait for ever.
fn failure<R: Send + 'static>(
    n_ranks: usize,
    body: impl Fn(Communicator) -> R + Send + Sync + 'static,
) -> RankFailed {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || tell.send(threads::run(n_ranks, body).err()));
    let ended = told.recv_timeout(Duration::from_secs(5)).expect("ranks wait for ever");
    ended.expect("a rank must fail")
}

#[test]
fn a_panic_ends_all_that_wait_in_any_operation() {
    let waits: [fn(&Communicator); 10] = [
        |w| w.barrier(),
        |w| w.broadcast(1, &mut [0_u8]),
        |w| w.all_reduce(ReduceOp::Sum, &mut [0_f32; 10_000]),
        |w| w.reduce_scatter(ReduceOp::Sum, &[0_f32; 3], &mut [0.0]),
        |w| w.all_gather(&[0_u8], &mut [0; 3]),
        |w| drop(w.all_gather_v(&[0_u8])),
        |w| w.all_to_all(&[0_u8; 3], &mut [0; 3]),
        |w| drop(w.all_to_all_v(&[vec![0_u8], vec![], vec![]])),
        |w| w.recv(1, 0, &mut [0_u8]),
        |w| drop(w.split("part", 0, 0)),
    ];
    for wait in waits {
        let failed = failure(3, move |world| {
            if world.rank() == 1 {
                std::thread::sleep(Duration::from_millis(20));
                panic!("no more {}", "hay");
            }
            wait(&world);
        });
        assert_eq!(failed, RankFailed { rank: 1, message: "no more hay".to_owned() });
    }
}

/// Also in a group that the failed rank is not a member of, and in a call made only later.
#[test]
fn a_panic_reaches_other_groups() {
    let failed = failure(4, |world| {
        let half = world.split("half", world.rank() / 2, 0);
        match world.rank() {
            0 => panic!("lame"),
            1 => std::thread::sleep(Duration::from_millis(50)),
            2 => half.recv(1, 0, &mut [0_u8]),
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
        half.barrier();
    });
    assert_eq!(failed, RankFailed { rank: 0, message: "lame".to_owned() });
}

#[test]
fn the_others_say_whom_they_follow() {
    let failed = failure(2, |world| {
        if world.rank() == 0 {
            world.abort("out of water");
        }
        let text = catch_unwind(std::panic::AssertUnwindSafe(|| world.barrier())).unwrap_err();
        assert_eq!(text.downcast_ref::<String>().unwrap(), "rank 0 failed: out of water");
    });
    assert_eq!(failed.to_string(), "rank 0 failed: out of water");
}

#[test]
fn a_rank_that_ends_early_is_not_waited_for() {
    let failed = failure(3, |world| {
        if world.rank() != 2 {
            world.barrier();
        }
    });
    let expected = "rank 2 has ended while rank ";
    assert!(failed.rank == 2 && failed.message.starts_with(expected), "{failed}");
    assert!(failed.message.contains("waits for it in barrier on axis `world`\nhelp: "), "{failed}");

    let failed = failure(2, |world| {
        if world.rank() == 0 {
            world.recv(1, 7, &mut [0_f32; 3]);
        }
    });
    assert!(failed.rank == 1 && failed.message.contains("recv of 3 f32 from rank 1"), "{failed}");
}

/// The one that ended is found in a group where it has another number than in the world.
#[test]
fn a_rank_that_ends_early_is_named_by_its_number_in_the_world() {
    let waits: [fn(&Communicator); 2] =
        [|half| half.recv(0, 7, &mut [0_u8]), |half| half.barrier()];
    for wait in waits {
        let failed = failure(4, move |world| {
            let half = world.split("half", world.rank() / 2, 0);
            match world.rank() {
                0 | 1 => std::thread::sleep(Duration::from_millis(100)),
                2 => {}
                _ => wait(&half),
            }
        });
        let expected = "rank 2 has ended while rank 3 waits for it in ";
        assert!(failed.rank == 2 && failed.message.starts_with(expected), "{failed}");
    }
}

/// What a rank sent or deposited before it ended is still there.
#[test]
fn a_rank_may_end_before_the_others_when_nobody_needs_it() {
    let ran = threads::run(3, |world| {
        let pair = world.split("pair", world.rank().min(1), 0);
        world.send(2, 0, &[world.rank() as u8]);
        world.barrier();
        if world.rank() > 0 {
            std::thread::sleep(Duration::from_millis(30));
            pair.barrier();
        }
        if world.rank() == 2 {
            let mut came = [0_u8; 3];
            for (from, came) in came.iter_mut().enumerate() {
                world.recv(from, 0, std::slice::from_mut(came));
            }
            assert_eq!(came, [0, 1, 2]);
        }
    });
    assert_eq!(ran, Ok(vec![(); 3]));
}

#[test]
fn another_call_is_named() {
    let failed = failure(3, |world| {
        let data = world.checked().split("data", 0, 0);
        data.barrier();
        match data.rank() {
            2 => data.all_reduce(ReduceOp::Sum, &mut [0_f32; 10]),
            _ => data.barrier(),
        }
    });
    let expected = "rank 2 calls all_reduce of 10 f32 on axis `data` where rank 0 calls barrier\n";
    assert!(failed.rank == 2 && failed.message.starts_with(expected), "{failed}");
}

#[test]
fn another_length_type_root_or_reduction_is_named() {
    type Make = fn(&Communicator);
    let pairs: [(Make, Make, &str, &str); 4] = [
        (
            |w| w.all_reduce(ReduceOp::Sum, &mut [0_f32; 10]),
            |w| w.all_reduce(ReduceOp::Sum, &mut [0_f32; 11]),
            "all_reduce of 10 f32",
            "all_reduce of 11 f32",
        ),
        (
            |w| w.all_gather(&[0_u32], &mut [0; 2]),
            |w| w.all_gather(&[0_f32], &mut [0.0; 2]),
            "all_gather of 1 u32",
            "all_gather of 1 f32",
        ),
        (
            |w| w.broadcast(0, &mut [0_u8]),
            |w| w.broadcast(1, &mut [0_u8]),
            "broadcast of 1 u8 from rank 0",
            "broadcast of 1 u8 from rank 1",
        ),
        (
            |w| w.all_reduce(ReduceOp::Sum, &mut [0_u64; 2]),
            |w| w.all_reduce(ReduceOp::Min, &mut [0_u64; 2]),
            "all_reduce of 2 u64",
            "all_reduce of 2 u64 by minimum",
        ),
    ];
    for (first, second, of_0, of_1) in pairs {
        let failed = failure(2, move |world| {
            let world = world.checked();
            if world.rank() == 0 { first(&world) } else { second(&world) }
        });
        let expected = format!("rank 1 calls {of_1} on axis `world` where rank 0 calls {of_0}\n");
        assert!(failed.rank == 1 && failed.message.starts_with(&expected), "{failed}");
    }
}

/// A check costs nothing where there is nobody to compare with.
#[test]
fn a_checked_rank_alone_just_calls() {
    let world = Communicator::alone().checked();
    let mut data = [3_u8];
    world.broadcast(0, &mut data);
    world.all_reduce(ReduceOp::Sum, &mut data);
    assert_eq!(data, [3]);
}

/// Without the check too, where the engine sees the lengths.
#[test]
fn lengths_that_differ_are_found_by_the_receiver() {
    let failed = failure(2, |world| {
        if world.rank() == 0 {
            world.send(1, 4, &[0_f32; 10]);
        } else {
            world.recv(0, 4, &mut [0_f32; 12]);
        }
    });
    let expected = "rank 0 sends 40 bytes to rank 1 in recv of 12 f32 from rank 0 on axis `world`, \
                    expected 48\nhelp: ";
    assert!(failed.rank == 1 && failed.message.starts_with(expected), "{failed}");
    let failed = failure(2, |world| {
        world.all_reduce(ReduceOp::Sum, &mut vec![0_u8; 3 + world.rank()]);
    });
    assert!(failed.message.contains("in all_reduce of"), "{failed}");
    let failed = failure(2, |world| match world.rank() {
        0 => drop(world.all_gather_v(&[0_u8; 3])),
        _ => drop(world.all_gather_v(&[0_u32; 3])),
    });
    assert!(failed.message.contains("sends 3 bytes to rank 1"), "{failed}");
}

#[test]
fn arguments_that_do_not_fit_say_what_would() {
    let calls: [(fn(&Communicator), &str); 5] = [
        (
            |w| w.broadcast(2, &mut [0_u8]),
            "root is 2 in broadcast of 1 u8 from rank 2 on axis `world`, expected a rank below 2",
        ),
        (
            |w| w.all_gather(&[0_u8; 3], &mut [0; 5]),
            "the length of recv is 5 in all_gather of 3 u8 on axis `world`, expected 6",
        ),
        (
            |w| w.all_to_all(&[0_u8; 3], &mut [0; 3]),
            "the length of send is 3 in all_to_all of 3 u8 on axis `world`, expected a multiple of 2",
        ),
        (
            |w| drop(w.all_to_all_v(&[vec![0_u8]])),
            "the number of parts is 1 in all_to_all_v of u8 on axis `world`, expected 2",
        ),
        (
            |w| w.send(9, 0, &[0_u8]),
            "the receiver is 9 in send of 1 u8 to rank 9 on axis `world`, expected a rank below 2",
        ),
    ];
    for (call, expected) in calls {
        let failed = failure(2, move |world| call(&world));
        let expected = format!("{expected}\nhelp: the axis has 2 ranks");
        assert_eq!(failed.message, expected);
    }
}

#[test]
fn two_threads_on_one_communicator_are_told_to_duplicate() {
    let failed = failure(2, |world| {
        if world.rank() == 1 {
            std::thread::sleep(Duration::from_millis(100));
            return world.barrier();
        }
        std::thread::scope(|scope| {
            scope.spawn(|| world.barrier());
            std::thread::sleep(Duration::from_millis(30));
            world.barrier();
        });
    });
    let expected = "two threads of rank 0 use the communicator of axis `world` at the same time";
    assert!(failed.rank == 0 && failed.message.starts_with(expected), "{failed}");
}

/// A rank's own helper thread dies while the rank waits for something else.
#[test]
fn a_panic_in_a_thread_that_holds_a_communicator_fails_the_rank() {
    let failed = failure(2, |world| {
        if world.rank() == 1 {
            let beside = world.clone();
            std::thread::spawn(move || {
                let _held = beside;
                panic!("the helper");
            });
        }
        // Nobody sends this.
        world.recv(0, 0, &mut [0_u8]);
    });
    assert_eq!(failed.rank, 1);
}
