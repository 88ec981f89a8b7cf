//! Two processes that save together in a loop; one of them, or both, killed with SIGKILL at random
//! moments. The test carries their messages, as a network would.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use caravan_checkpoint::{
    Checkpoint, RankFile, RunLock, SaveTensor, Shard, Staging, list, open_latest, prune, save_rank,
};

use crate::make::meta;

const ROWS: usize = 500;
const COLUMNS: usize = 100;
const KILLS: u64 = 30;

/// A value of every element, from the step.
fn values(step: u64) -> Vec<f32> {
    (0..ROWS * COLUMNS).map(|i| (i as u64 * 131 + step) as f32).collect()
}

fn whole() -> Shard {
    Shard::whole(&[ROWS, COLUMNS])
}

/// What a rank holds: columns of the weights, a range of the moments.
fn held(rank: usize, step: u64) -> Vec<SaveTensor<'static>> {
    let columns = [0..37, 37..COLUMNS][rank].clone();
    let range = [0..4096, 4096..ROWS * COLUMNS][rank].clone();
    let of_columns = columns.clone();
    let weights = move || {
        let rows = values(step);
        rows.chunks(COLUMNS).flat_map(|row| row[of_columns.clone()].to_vec()).collect()
    };
    let moments = {
        let range = range.clone();
        move || values(step + 1)[range].to_vec()
    };
    vec![
        SaveTensor::lazy_f32_part("w", whole().slice(1, columns), weights),
        SaveTensor::lazy_f32_part("m", whole().elements(range), moments),
    ]
}

fn assert_whole(checkpoint: &Checkpoint) {
    let step = checkpoint.step();
    assert_eq!(checkpoint.manifest().state, meta(step).state);
    assert_eq!(checkpoint.f32_values("w").unwrap(), values(step));
    // As a third of three ranks would read it.
    let third = whole().elements(33_333..ROWS * COLUMNS);
    assert_eq!(checkpoint.read("m", &third).unwrap(), values(step + 1)[33_333..]);
}

/// Two saving children.
struct Pair {
    ranks: [Child; 2],
    relays: Vec<JoinHandle<()>>,
    saved: Arc<AtomicU64>,
    began: mpsc::Receiver<()>,
}

impl Pair {
    fn start(run: &Path) -> Self {
        let mut ranks = ["rank_crash::rank_0_child", "rank_crash::rank_1_child"].map(|name| {
            let mut command = crate::environment::child(name, run);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            command.spawn().unwrap()
        });
        let [to_0, to_1] = [0, 1].map(|rank: usize| ranks[rank].stdin.take().unwrap());
        let [from_0, from_1] = [0, 1].map(|rank: usize| ranks[rank].stdout.take().unwrap());
        let saved = Arc::new(AtomicU64::new(0));
        let (begin, began) = mpsc::channel();
        let relays = vec![
            relay(from_0, to_1, saved.clone(), begin.clone()),
            relay(from_1, to_0, saved.clone(), begin),
        ];
        Self { ranks, relays, saved, began }
    }

    fn wait_for_a_save_to_begin(&self) {
        self.began.recv_timeout(Duration::from_secs(60)).expect("the children save");
    }

    /// SIGKILL; the other one finds its peer gone. Returns the last step that was reported as saved, 0
    /// for none.
    fn kill(mut self, victims: &[usize]) -> u64 {
        for &victim in victims {
            self.ranks[victim].kill().unwrap();
        }
        for mut rank in self.ranks {
            rank.wait().unwrap();
        }
        for relay in self.relays {
            relay.join().unwrap();
        }
        self.saved.load(Ordering::SeqCst)
    }
}

/// Carries what one rank says to the other until either is gone; then closes both ends.
fn relay(
    from: ChildStdout,
    mut to: ChildStdin,
    saved: Arc<AtomicU64>,
    begin: mpsc::Sender<()>,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            // The child's harness writes too, without a line of its own.
            if let Some((_, message)) = line.split_once("@send ") {
                let _ = begin.send(()); // nobody listens any more
                if writeln!(to, "{message}").is_err() {
                    break;
                }
            } else if let Some((_, step)) = line.split_once("@saved ") {
                saved.fetch_max(step.parse().unwrap(), Ordering::SeqCst);
            }
        }
    })
}

#[test]
fn two_ranks_killed_at_random_moments_lose_nothing() {
    let run = tempfile::tempdir().unwrap();
    let root = run.path().join("checkpoints");
    // How long three steps take here, so that kills spread over all of what a save does.
    let pair = Pair::start(run.path());
    pair.wait_for_a_save_to_begin();
    let start = Instant::now();
    while pair.saved.load(Ordering::SeqCst) < 3 {
        assert!(start.elapsed() < Duration::from_secs(60), "the children save");
        std::thread::sleep(Duration::from_millis(1));
    }
    let window = start.elapsed();
    let mut newest = pair.kill(&[0, 1]);
    let mut n_staged = 0;
    for kill in 0..KILLS {
        let pair = Pair::start(run.path());
        pair.wait_for_a_save_to_begin();
        let fraction = ((kill * 7919 + 13) * 104_729 % 10_007) as f64 / 10_007.0;
        std::thread::sleep(window.mul_f64(fraction));
        let victims = [&[0][..], &[1], &[0, 1]][kill as usize % 3];
        // What was reported as saved must be there; the one in flight may be.
        let reported = pair.kill(victims).max(newest);
        let checkpoint = open_latest(&root).unwrap().expect("three were saved at the start");
        assert_whole(&checkpoint);
        let step = checkpoint.step();
        assert!(step >= reported, "kill {kill}: step {step} after {reported} was saved");
        assert!(step <= reported + 1, "kill {kill}: step {step}, {reported} was the last reported");
        newest = step;
        for listed in list(&root).unwrap() {
            assert_whole(&Checkpoint::open(&listed.dir).unwrap());
        }
        n_staged += u64::from(names(&root).iter().any(|name| name.starts_with(".saving-")));
    }
    assert!(newest > KILLS / 3, "the kills came too early to hit anything: step {newest}");
    assert!(n_staged > KILLS / 6, "only {n_staged} kills came while a step was written");
    // The next run tidies everything that the kills left.
    let staging = Staging::begin(&root, newest + 1).unwrap();
    let expected = staging.name().to_owned();
    let left: Vec<String> = names(&root).into_iter().filter(|n| n.starts_with('.')).collect();
    assert!(left.iter().all(|name| *name == expected || name == ".LATEST"), "left: {left:?}");
}

fn names(root: &Path) -> Vec<String> {
    fs::read_dir(root).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

/// Not a test by itself: what rank 0 runs; without orders it does nothing.
#[test]
fn rank_0_child() {
    let Some(run) = crate::environment::child_dir() else { return };
    let _lock = RunLock::acquire(&run).unwrap();
    let root = run.join("checkpoints");
    let mut step = open_latest(&root).unwrap().map_or(0, |c| c.step());
    let mut lines = std::io::stdin().lines().map_while(Result::ok);
    loop {
        step += 1;
        let staging = Staging::begin(&root, step).unwrap();
        println!("@send {step} {}", staging.name());
        let mine = save_rank(&root, staging.name(), 0, &mut held(0, step).into_iter()).unwrap();
        let Some(line) = lines.next() else { return }; // rank 1 is gone
        let other = RankFile::from_json(line.as_bytes()).unwrap();
        staging.commit(&meta(step), vec![mine, other]).unwrap();
        println!("@saved {step}");
        prune(&root, 2, &|_| false).unwrap();
    }
}

/// Not a test by itself: what rank 1 runs; without orders it does nothing.
#[test]
fn rank_1_child() {
    let Some(run) = crate::environment::child_dir() else { return };
    let root = run.join("checkpoints");
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let (step, name) = line.split_once(' ').unwrap();
        let step = step.parse().unwrap();
        // Rank 0 may be gone, and a next run have removed the directory.
        let Ok(report) = save_rank(&root, name, 1, &mut held(1, step).into_iter()) else { return };
        println!("@send {}", String::from_utf8(report.to_json()).unwrap());
    }
}
