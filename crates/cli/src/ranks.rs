//! Starting ranks: as processes of MPI, where the program was built with it.

use std::path::PathBuf;

use anyhow::{Result, bail};
use caravan_collective::Communicator;

/// Runs `body` as one rank of the processes that `mpirun` or `srun` started.
///
/// # Errors
/// The launcher started another number of ranks than the user asked for, MPI does not start, or what `body` returns.
#[cfg(feature = "mpi")]
pub(crate) fn over_mpi<T>(
    n_ranks: usize,
    body: impl FnOnce(Communicator) -> Result<T>,
) -> Result<T> {
    let world = caravan_collective::mpi::world()?;
    let started = world.size();
    // Without --ranks the launcher's number counts.
    if n_ranks != 1 && n_ranks != started {
        bail!(
            "--ranks {n_ranks}, but the launcher started {started}\nhelp: start it as `mpirun -n {n_ranks}`, or let `cargo xtask train --transport mpi --ranks {n_ranks}` do so"
        );
    }
    body((*world).clone())
}

/// The error of a program without MPI.
///
/// # Errors
/// Always.
#[cfg(not(feature = "mpi"))]
pub(crate) fn over_mpi<T>(_: usize, _: impl FnOnce(Communicator) -> Result<T>) -> Result<T> {
    bail!(
        "--transport mpi: this program was built without MPI\nhelp: `cargo xtask train --transport mpi --ranks N` builds it with MPI, or use --features mpi"
    );
}

/// A path that the first rank finds, on every rank.
///
/// # Errors
/// The first rank's; the others say that there was one.
pub(crate) fn told(
    world: &Communicator,
    find: impl FnOnce() -> Result<PathBuf>,
) -> Result<PathBuf> {
    let found = (world.rank() == 0).then(find);
    let text = match &found {
        Some(Ok(path)) => path.to_string_lossy().into_owned(),
        _ => String::new(),
    };
    let all = world.all_gather_v(text.as_bytes());
    match found {
        Some(found) => found,
        None if all[0].is_empty() => bail!("rank 0 found no folder for the run"),
        None => Ok(PathBuf::from(String::from_utf8_lossy(&all[0]).into_owned())),
    }
}
