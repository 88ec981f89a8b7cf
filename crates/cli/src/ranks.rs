//! Starting ranks: as processes of MPI, where the program was built with it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use caravan_collective::Communicator;

/// Runs `body` as one rank of the processes that `mpirun` or `srun` started. What goes wrong on any of them is told to all
/// ([`agreed`]), so that the first says it once.
///
/// # Errors
/// MPI does not start.
#[cfg(feature = "mpi")]
pub(crate) fn over_mpi(
    n_ranks: usize,
    body: impl FnOnce(&Communicator) -> Result<ExitCode>,
) -> Result<ExitCode> {
    let world = caravan_collective::mpi::world()?;
    let code = agreed(&world, fitting(n_ranks, world.size())).and_then(|()| body(&world));
    // Before the world ends: the launcher ends ranks that still want to speak when others have ended with a code.
    Ok(code.unwrap_or_else(|error| {
        if world.rank() == 0 {
            crate::output::error(&error);
        }
        ExitCode::FAILURE
    }))
}

/// The error of a program without MPI.
///
/// # Errors
/// Always.
#[cfg(not(feature = "mpi"))]
pub(crate) fn over_mpi(
    _: usize,
    _: impl FnOnce(&Communicator) -> Result<ExitCode>,
) -> Result<ExitCode> {
    bail!(
        "--transport mpi: this program was built without MPI\nhelp: `cargo xtask train --transport mpi --ranks N` builds it with MPI, or use --features mpi"
    );
}

/// Without --ranks the launcher's number counts.
#[cfg(feature = "mpi")]
fn fitting(n_ranks: usize, started: usize) -> Result<()> {
    if n_ranks != 1 && n_ranks != started {
        bail!(
            "--ranks {n_ranks}, but the launcher started {started}\nhelp: start it as `mpirun -n {n_ranks}`, or let `cargo xtask train --transport mpi --ranks {n_ranks}` do so"
        );
    }
    Ok(())
}

/// This rank's result, if all ranks have one. Called by all ranks.
///
/// # Errors
/// This rank's own error, or what the first of the others says.
pub(crate) fn agreed<T>(world: &Communicator, result: Result<T>) -> Result<T> {
    let mine = result.as_ref().map_or_else(crate::output::message, |_| String::new());
    let all = world.all_gather_v(mine.as_bytes());
    let value = result?;
    match all.iter().enumerate().find(|(_, text)| !text.is_empty()) {
        None => Ok(value),
        Some((rank, text)) => bail!("rank {rank}: {}", String::from_utf8_lossy(text)),
    }
}

/// A path that the first rank finds, on every rank.
///
/// # Errors
/// As [`agreed`].
pub(crate) fn told(
    world: &Communicator,
    find: impl FnOnce() -> Result<PathBuf>,
) -> Result<PathBuf> {
    let found = if world.rank() == 0 { find() } else { Ok(PathBuf::new()) };
    let found = agreed(world, found)?;
    let all = world.all_gather_v(found.to_string_lossy().as_bytes());
    Ok(PathBuf::from(String::from_utf8_lossy(&all[0]).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_one_rank_is_everybodys() {
        let ran = caravan_collective::threads::run(3, |world| {
            let failed = || Err::<(), _>(anyhow::anyhow!("no hay\nhelp: buy some"));
            let result = if world.rank() == 1 { failed() } else { Ok(()) };
            agreed(&world, result).unwrap_err().to_string()
        });
        let others = "rank 1: no hay\nhelp: buy some";
        assert_eq!(ran.unwrap(), [others, "no hay\nhelp: buy some", others]);
        let paths = caravan_collective::threads::run(2, |world| {
            told(&world, || Ok(PathBuf::from("runs/x"))).unwrap()
        });
        assert_eq!(paths.unwrap(), [PathBuf::from("runs/x"), PathBuf::from("runs/x")]);
    }
}
