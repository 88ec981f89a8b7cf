//! Ranks that die: all end at once, the rank is named, and the run goes on on other numbers of ranks to the same bits.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::launch::{
    Dice, Ended, Running, SETTINGS, alone, children, folder, mpirun, over_mpi, rows, signal,
    train_args, weights,
};

/// All ranks must have ended so long after one has died.
const END_WITHIN: Duration = Duration::from_secs(5);

/// Deaths that must meet a living run.
const DEATHS: usize = 4;

/// Runs started at most to get there.
const ATTEMPTS: usize = 20;

/// Ranks of the runs that go on.
const OTHERS: [usize; 2] = [2, 3];

pub(crate) fn a_rank_that_is_killed_ends_all_at_once() {
    let (_guard, dir) = folder();
    alone(&dir, &train_args(&dir, "one", &[])).ok();
    let begun = Instant::now();
    over_mpi(&dir, 4, &train_args(&dir, "timed", &[])).end().ok();
    let whole = begun.elapsed().as_secs_f64();
    let mut dice = Dice::new();
    let mut deaths = 0;
    for attempt in 0..ATTEMPTS {
        if deaths == DEATHS {
            break;
        }
        let n_ranks = if deaths == 0 { 4 } else { OTHERS[deaths % 2] };
        let rank = (dice.roll() * n_ranks as f64) as usize;
        let (name, number) = if attempt % 2 == 0 { ("KILL", 9) } else { ("ABRT", 6) };
        let mut running = over_mpi(&dir, n_ranks, &train_args(&dir, "run", &[]));
        let pid = running.rank(rank).expect("it has just been started");
        // From start-up to nearly the end.
        let pause = whole * 0.7 * dice.roll();
        std::thread::sleep(Duration::from_secs_f64(pause));
        let processes = children(running.pid());
        if running.has_ended() || !signal(pid, name) {
            // It came to its end before: as good a check, and a new run to kill.
            running.end().ok();
            same_as_one(&dir, &format!("after {deaths} deaths"));
            std::fs::remove_dir_all(dir.join("run")).unwrap();
            continue;
        }
        let what = format!("SIG{name} of rank {rank} of {n_ranks} after {pause:.2} s");
        let Some(ended) = ends_soon(running, &processes, &what) else { continue };
        let named = format!("process rank {rank} with PID ");
        let died = format!("exited on signal {number} ");
        assert!(
            ended.launcher_stayed || (ended.text.contains(&named) && ended.text.contains(&died)),
            "{what}: {}",
            ended.text
        );
        deaths += 1;
    }
    assert_eq!(deaths, DEATHS, "deaths in {ATTEMPTS} attempts");
    over_mpi(&dir, 3, &train_args(&dir, "run", &[])).end().ok();
    same_as_one(&dir, &format!("after {deaths} deaths"));
}

pub(crate) fn a_rank_that_panics_ends_all_at_once() {
    let (_guard, dir) = folder();
    alone(&dir, &train_args(&dir, "one", &[])).ok();
    let this = std::env::current_exe().unwrap();
    let this = this.to_string_lossy();
    let deaths =
        [(4, "2", "planned"), (4, "1", "step-5"), (2, "0", "saved-12"), (3, "2", "step-20")];
    for (n_ranks, rank, at) in deaths {
        let n = n_ranks.to_string();
        let begins = ["-n", n.as_str(), &this, "rank", "run", rank, at];
        let mut words = begins.to_vec();
        if !dir.join("run/config.toml").exists() {
            words.push("text=text.txt");
            words.extend(SETTINGS);
        }
        let what = format!("panic of rank {rank} of {n_ranks} at {at}");
        let running = mpirun(&dir, &words);
        let ended = running.end();
        assert!(!ended.status.success(), "{what}");
        let line = format!("rank {rank}: broken at {at}\npanicked at ");
        assert!(ended.text.contains(&line), "{what}: {}", ended.text);
        assert_eq!(ended.text.matches("broken at").count(), 1, "{what}: {}", ended.text);
        // The last line that any rank wrote is as old as the panic, or older.
        let written = (0..n_ranks).filter_map(|rank| {
            let log = dir.join(format!("run/logs/rank-{rank:05}.log"));
            log.metadata().and_then(|file| file.modified()).ok()
        });
        let since = written.max().expect("a log").elapsed().unwrap();
        assert!(since < END_WITHIN, "{what}: ended after {since:?}");
    }
    over_mpi(&dir, 2, &train_args(&dir, "run", &[])).end().ok();
    same_as_one(&dir, "after panics");
}

/// Expects that all processes end soon; nothing if they had come to a good end before.
///
/// `mpirun` of Open MPI 4.1 sometimes stays behind when all of its ranks are gone; it is ended then, and what it would have said
/// is not asked for ([`Ended::launcher_stayed`]).
fn ends_soon(mut running: Running, processes: &[u32], what: &str) -> Option<Ended> {
    let begun = Instant::now();
    let is_alive = |pid: &u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Those that have ended wait for the first process of the system to take note of it.
        text.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
    };
    while !running.has_ended() && begun.elapsed() < END_WITHIN {
        std::thread::sleep(Duration::from_millis(5));
    }
    let stays = !running.has_ended() && !processes.iter().any(is_alive);
    if stays {
        eprintln!("{what}: all ranks ended, mpirun itself did not: it is killed");
        signal(running.pid(), "KILL");
        return Some(Ended { launcher_stayed: true, ..running.end() });
    }
    let ended = running.end();
    while processes.iter().any(is_alive) && begun.elapsed() < END_WITHIN {
        std::thread::sleep(Duration::from_millis(5));
    }
    let took = begun.elapsed();
    assert!(took < END_WITHIN, "{what}: ended after {took:?}\n{}", ended.text);
    eprintln!("{what}: all ended after {:.2} s", took.as_secs_f64());
    (!ended.status.success()).then_some(ended)
}

fn same_as_one(dir: &Path, when: &str) {
    assert_eq!(rows(&dir.join("run")), rows(&dir.join("one")), "{when}");
    assert!(weights(&dir.join("run")) == weights(&dir.join("one")), "{when}: other bits");
}
