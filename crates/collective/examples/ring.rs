//! Four ranks pass a message around a ring and then add up what they have, on threads.
//!
//! ```console
//! $ cargo run --release -p caravan-collective --example ring
//! ```

#![allow(clippy::print_stdout)]

use caravan_collective::{Communicator, RankFailed, ReduceOp, threads};

fn main() -> Result<(), RankFailed> {
    let lines = threads::run(4, |world| {
        let came = around(&world);
        let mut sum = [came];
        world.all_reduce(ReduceOp::Sum, &mut sum);

        // Even and odd ranks apart, as an axis of a mesh would have them.
        let half = world.split("half", world.rank() % 2, world.rank());
        let mut members = vec![0; half.size()];
        half.all_gather(&[world.rank() as u32], &mut members);

        format!(
            "rank {} of {}: {came} came around, the sum is {}, half {members:?}, {:?}",
            world.rank(),
            world.size(),
            sum[0],
            world.traffic(),
        )
    })?;
    for line in lines {
        println!("{line}");
    }
    Ok(())
}

/// Sends the own rank to the next one and returns what the one before sent.
fn around(world: &Communicator) -> u32 {
    let (rank, size) = (world.rank(), world.size());
    world.send((rank + 1) % size, 0, &[rank as u32]);
    let mut came = [0];
    world.recv((rank + size - 1) % size, 0, &mut came);
    came[0]
}
