//! Ranks as processes of MPI, started by `mpirun`, `srun` or alone.
//!
//! ```text
//! src/transport/mpi/mod.rs     starting and ending, the panic hook
//!                   group.rs   the operations, cut to what MPI can do
//!                   engine.rs  the thread that moves messages on and hears who has ended
//!                   ledger.rs  the calls of a rank, to know who waits in vain
//!                   sys/       the C interface
//! ```
//!
//! A panic anywhere in a process ends all ranks at once: MPI has no other way to tell them, and they
//! would wait for ever. A process that is killed is noticed by whoever launched it, who ends the
//! others and names the rank.
//!
//! Sums are the engine's own, in an order that it chooses, but for bf16, which MPI does not know:
//! these meet on one rank and are added in f32 in rank order.

use std::io::Write;
use std::ops::Deref;
use std::panic::PanicHookInfo;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mpi::Threading;
use mpi::environment::Universe;

use super::Fault;
use crate::communicator::Communicator;
use crate::error::CollectiveError;
use engine::Engine;
use group::MpiGroup;

mod engine;
mod group;
mod ledger;
mod sys;

/// The exit code of a rank that panicked, as without MPI.
const EXIT_CODE: i32 = 101;

/// How long a rank waits for another one to name itself as the one that failed.
const GRACE: Duration = Duration::from_secs(2);

/// All processes that were started together: the communicator `world`, and MPI itself.
///
/// Dropping it waits until all ranks do, and finalizes MPI; communicators made from it must not be
/// used afterwards. When another rank waits for one that has dropped it, all ranks end. A program
/// that ends because something failed calls [`Communicator::abort`], which is quicker and says why.
#[derive(Debug)]
pub struct World {
    communicator: Communicator,
    engine: Arc<Engine>,
    _universe: RunningMpi,
}

/// MPI, finalized when dropped.
struct RunningMpi {
    _universe: Universe,
}

impl std::fmt::Debug for RunningMpi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RunningMpi")
    }
}

/// Starts MPI, and has every panic of this process end all ranks with a line `rank N: message` on
/// standard error. To be called first thing; without a launcher the world is this process alone.
///
/// # Errors
/// [`CollectiveError::Start`] when MPI was started before, or does not let threads call it.
pub fn world() -> Result<World, CollectiveError> {
    let start = |text: String, help| CollectiveError::Start { engine: sys::NAME, text, help };
    let Some((universe, threading)) = mpi::initialize_with_threading(Threading::Multiple) else {
        let help = "call it once in a process and keep the world it returns";
        return Err(start("it was started before".to_owned(), help));
    };
    let universe = RunningMpi { _universe: universe };
    if threading != Threading::Multiple {
        let help = "use a build of MPI with MPI_THREAD_MULTIPLE, such as Debian's Open MPI";
        return Err(start(format!("it offers threads only as {threading:?}"), help));
    }
    let fault = |fault: Fault| {
        start(format!("{fault:?}"), "check that the program runs under the MPI it was built with")
    };
    let comm = sys::world().map_err(fault)?;
    install_hook(comm.rank().map_err(fault)?);
    let engine = Engine::start(comm).map_err(fault)?;
    let group = MpiGroup::new(Arc::clone(&engine), comm, 0, "world").map_err(fault)?;
    let communicator = Communicator::over(Box::new(group), "world");
    Ok(World { communicator, engine, _universe: universe })
}

impl Deref for World {
    type Target = Communicator;

    fn deref(&self) -> &Communicator {
        &self.communicator
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.engine.close();
        IS_HOOKED.store(false, Ordering::Release);
    }
}

/// Whether a panic ends all ranks: while MPI runs.
static IS_HOOKED: AtomicBool = AtomicBool::new(false);

/// Whether this process is ending all ranks already.
static IS_ENDING: AtomicBool = AtomicBool::new(false);

fn install_hook(world_rank: usize) {
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
        if !IS_HOOKED.load(Ordering::Acquire) {
            return previous(info);
        }
        let message = info.payload_as_str().unwrap_or("it panicked");
        match info.location() {
            Some(location) => end_all(world_rank, &format!("{message}\npanicked at {location}")),
            None => end_all(world_rank, message),
        }
        end_this()
    }));
    IS_HOOKED.store(true, Ordering::Release);
}

/// Says which rank failed and why, once per process, and ends all ranks.
fn end_all(world_rank: usize, message: &str) {
    if !IS_ENDING.swap(true, Ordering::AcqRel) {
        // One write, so that ranks do not speak at once; nothing is left to do about an error.
        let line = format!("rank {world_rank}: {message}\n");
        let _ = std::io::stderr().write_all(line.as_bytes());
        sys::abort(EXIT_CODE);
    }
}

/// Waits for the end that another thread, or MPI itself, brings about.
fn end_this() -> ! {
    std::thread::sleep(GRACE);
    std::process::abort()
}
