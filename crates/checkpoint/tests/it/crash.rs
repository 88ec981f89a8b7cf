//! A process that saves in a loop, killed with SIGKILL at random moments.

use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::time::Instant;

use caravan_checkpoint::{Checkpoint, RunLock, list, open_latest, prune};

use crate::make::{assert_is_step, save_step};

/// Elements: enough that writing takes a while beside syncing.
const N: usize = 50_000;
const KILLS: u64 = 30;

/// A saving child and what it prints.
struct Saver {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Saver {
    fn start(run: &Path) -> Self {
        let mut command = crate::environment::child("crash::saving_child", run);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Waits until the child says `word` for the `n`-th time from now.
    fn wait_for(&mut self, word: &str, n: usize) {
        let lines = self.lines.by_ref().map_while(Result::ok);
        assert!(lines.filter(|line| line.contains(word)).nth(n - 1).is_some(), "the child ended");
    }

    /// SIGKILL; returns the last step that was reported as saved since the last wait.
    fn kill(mut self) -> Option<u64> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let lines = self.lines.map_while(Result::ok);
        lines.filter_map(|line| line.split("saved ").nth(1)?.parse().ok()).max()
    }
}

/// A step is saved with `N` elements at first, every third then again with one more.
fn assert_whole(checkpoint: &Checkpoint) {
    let n = checkpoint.tensor("model/blocks.0.wq.weight").unwrap().shape[0];
    assert!(n == N || (n == N + 1 && checkpoint.step().is_multiple_of(3)));
    assert_is_step(checkpoint, checkpoint.step(), n);
}

#[test]
fn killed_at_random_moments_nothing_is_lost() {
    let run = tempfile::tempdir().unwrap();
    let root = run.path().join("checkpoints");
    // How long three steps take here, so that kills spread over all of what a save does.
    let mut saver = Saver::start(run.path());
    saver.wait_for("saving", 1);
    let start = Instant::now();
    saver.wait_for("saved", 3);
    let window = start.elapsed();
    let mut newest = saver.kill().unwrap_or(3);
    for kill in 0..KILLS {
        let mut saver = Saver::start(run.path());
        saver.wait_for("saving", 1);
        // A few multiplications are random enough, and the same every time.
        let fraction = ((kill * 7919 + 13) * 104_729 % 10_007) as f64 / 10_007.0;
        std::thread::sleep(window.mul_f64(fraction));
        // What was reported as saved must be there; the one in flight may be.
        let reported = saver.kill().unwrap_or(newest);
        let checkpoint = open_latest(&root).unwrap().expect("three were saved at the start");
        assert_whole(&checkpoint);
        let step = checkpoint.step();
        assert!(step >= reported, "kill {kill}: step {step} after {reported} was saved");
        assert!(step <= reported + 1, "kill {kill}: step {step}, {reported} was the last reported");
        newest = step;
        for listed in list(&root).unwrap() {
            assert_whole(&Checkpoint::open(&listed.dir).unwrap());
        }
    }
    assert!(newest > KILLS / 3, "the kills came too early to hit anything: step {newest}");
    // One more save tidies everything that the kills left.
    save_step(&root, newest + 1, N).unwrap();
    for entry in fs::read_dir(&root).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name == "LATEST" || name.starts_with("step-"), "{name} was left");
    }
}

/// Not a test by itself: what a child process runs; without orders it does nothing.
#[test]
fn saving_child() {
    let Some(run) = crate::environment::child_dir() else { return };
    let _lock = RunLock::acquire(&run).unwrap();
    let root = run.join("checkpoints");
    let mut step = open_latest(&root).unwrap().map_or(0, |c| c.step());
    loop {
        step += 1;
        println!("saving {step}");
        save_step(&root, step, N).unwrap();
        if step.is_multiple_of(3) {
            // As the last save of a run may be: the same step again, with something changed.
            save_step(&root, step, N + 1).unwrap();
        }
        println!("saved {step}");
        prune(&root, 2, &|_| false).unwrap();
    }
}
