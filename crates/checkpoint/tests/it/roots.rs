//! `LATEST`, listing, pruning, and every state a kill can leave behind.

use std::fs;
use std::path::Path;

use caravan_checkpoint::{RunLock, latest, list, open_latest, prune};

use crate::make::{assert_is_step, save_step};

const N: usize = 20;

fn steps(root: &Path) -> Vec<u64> {
    list(root).unwrap().into_iter().map(|l| l.step).collect()
}

fn names(root: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(root)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn assert_latest(root: &Path, step: u64) {
    assert_is_step(&open_latest(root).unwrap().unwrap(), step, N);
    assert!(latest(root).unwrap().is_some());
}

fn root_with(steps: &[u64]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for &step in steps {
        save_step(root.path(), step, N).unwrap();
    }
    root
}

#[test]
fn listed_by_step_and_nothing_else() {
    let root = root_with(&[30, 4, 123_456_789]);
    for foreign in
        ["step-5", "step-00000006.old", "step--0000007", "notes", "step-00000008x", "step-+0000009"]
    {
        fs::create_dir(root.path().join(foreign)).unwrap();
    }
    assert_eq!(steps(root.path()), [4, 30, 123_456_789]);
    assert_latest(root.path(), 123_456_789);
    save_step(root.path(), 5, N).unwrap();
    assert_latest(root.path(), 5); // the last saved, not the highest
}

#[test]
fn killed_while_writing() {
    let root = root_with(&[1]);
    // The second is what older programs called it.
    for name in [".saving-step-00000002.0123456789abcdef", ".saving-step-00000002"] {
        let half = root.path().join(name);
        fs::create_dir(&half).unwrap();
        fs::write(half.join("rank-00000.safetensors"), b"half").unwrap();
    }
    // Nobody else's.
    fs::create_dir(root.path().join(".saving-step-00000002.notes")).unwrap();
    assert_eq!(steps(root.path()), [1]);
    assert_latest(root.path(), 1);
    save_step(root.path(), 3, N).unwrap();
    let expected = [".saving-step-00000002.notes", "LATEST", "step-00000001", "step-00000003"];
    assert_eq!(names(root.path()), expected);
}

#[test]
fn killed_between_rename_and_latest() {
    let root = root_with(&[1]);
    let before = fs::read(root.path().join("LATEST")).unwrap();
    save_step(root.path(), 2, N).unwrap();
    fs::write(root.path().join("LATEST"), before).unwrap();
    fs::write(root.path().join(".LATEST"), "step-0").unwrap();
    assert_latest(root.path(), 1);
    save_step(root.path(), 2, N).unwrap();
    assert_latest(root.path(), 2);
    assert_eq!(names(root.path()), ["LATEST", "step-00000001", "step-00000002"]);
}

#[test]
fn killed_before_the_first_latest() {
    let root = root_with(&[1]);
    fs::remove_file(root.path().join("LATEST")).unwrap();
    assert_latest(root.path(), 1);
}

#[test]
fn killed_at_every_rename_of_a_replacement() {
    // The new bytes of step 2, with their LATEST, from a run of their own.
    let other = tempfile::tempdir().unwrap();
    save_step(other.path(), 2, N + 1).unwrap();
    let old_root = root_with(&[1, 2]);
    let hash = |root: &Path| {
        let text = fs::read_to_string(root.join("LATEST")).unwrap();
        text.lines().nth(1).unwrap().to_owned()
    };
    let both = format!("step-00000002\n{}\n{}\n", hash(old_root.path()), hash(other.path()));
    let (dir, replaced) =
        (old_root.path().join("step-00000002"), old_root.path().join(".replaced-step-00000002"));
    let open = || open_latest(old_root.path()).unwrap().unwrap();

    fs::write(old_root.path().join("LATEST"), both).unwrap();
    assert_is_step(&open(), 2, N);
    fs::rename(&dir, &replaced).unwrap(); // the old one is away, the new one not yet there
    assert_is_step(&open(), 2, N);
    assert_eq!(steps(old_root.path()), [1, 2]);
    fs::rename(other.path().join("step-00000002"), &dir).unwrap(); // both there: the new one counts
    assert_is_step(&open(), 2, N + 1);
    // A kill right there, and the step is saved once more, in yet another form.
    save_step(old_root.path(), 2, N + 2).unwrap();
    assert_is_step(&open(), 2, N + 2);
    assert_eq!(names(old_root.path()), ["LATEST", "step-00000001", "step-00000002"]);

    // Killed while the old one was away: the next save of another step puts it back.
    fs::rename(&dir, &replaced).unwrap();
    save_step(old_root.path(), 3, N).unwrap();
    assert_eq!(steps(old_root.path()), [1, 2, 3]);
    assert!(!replaced.exists() && dir.exists());
}

#[test]
fn the_same_bytes_are_kept_and_a_damaged_one_is_replaced() {
    let root = root_with(&[1]);
    let weights = root.path().join("step-00000001/rank-00000.safetensors");
    let written = fs::metadata(&weights).unwrap().modified().unwrap();
    save_step(root.path(), 1, N).unwrap();
    assert_eq!(fs::metadata(&weights).unwrap().modified().unwrap(), written);
    fs::write(&weights, b"damage").unwrap();
    save_step(root.path(), 1, N).unwrap();
    assert_latest(root.path(), 1);
}

#[test]
fn pruning_keeps_the_newest_the_pinned_and_the_latest() {
    let root = root_with(&[1, 2, 3, 4, 5, 6]);
    assert_eq!(prune(root.path(), 2, &|step| step == 3).unwrap(), [1, 2, 4]);
    assert_eq!(steps(root.path()), [3, 5, 6]);
    assert_eq!(prune(root.path(), 2, &|step| step == 3).unwrap(), Vec::<u64>::new());
    save_step(root.path(), 1, N).unwrap(); // LATEST goes back to an old step
    assert_eq!(prune(root.path(), 1, &|_| false).unwrap(), [3, 5]);
    assert_eq!(steps(root.path()), [1, 6]);
    assert_latest(root.path(), 1);
    let message = prune(root.path(), 0, &|_| false).unwrap_err().to_string();
    assert!(message.starts_with("keep_checkpoints is 0\nhelp: "), "{message}");
    assert_eq!(prune(&root.path().join("absent"), 1, &|_| false).unwrap(), Vec::<u64>::new());
}

#[test]
fn killed_while_pruning() {
    let root = root_with(&[1, 2]);
    fs::rename(root.path().join("step-00000001"), root.path().join(".removed-step-00000001"))
        .unwrap();
    assert_eq!(steps(root.path()), [2]);
    prune(root.path(), 1, &|_| false).unwrap();
    assert_eq!(names(root.path()), ["LATEST", "step-00000002"]);
}

#[test]
fn a_directory_under_another_steps_name_is_not_believed() {
    let root = root_with(&[1, 2]);
    fs::remove_file(root.path().join("LATEST")).unwrap();
    fs::rename(root.path().join("step-00000002"), root.path().join("step-00000003")).unwrap();
    let message = open_latest(root.path()).unwrap_err().to_string();
    assert!(message.contains("its step is 2, expected 3"), "{message}");
}

#[test]
fn a_second_run_is_told_who_holds_the_lock() {
    let run = tempfile::tempdir().unwrap();
    // What the child's harness prints would read like a second harness here.
    let mut command = crate::environment::child("roots::lock_holder", run.path());
    let mut child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    let ready = run.path().join("ready");
    while !ready.exists() {
        assert!(child.try_wait().unwrap().is_none(), "the child ended");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let message = RunLock::acquire(run.path()).unwrap_err().to_string();
    assert!(message.contains(&format!("is in use by process {}\nhelp: ", child.id())), "{message}");
    assert!(message.contains(&format!("`kill {}`", child.id())), "{message}");
    child.kill().unwrap(); // SIGKILL: the kernel gives the lock back
    child.wait().unwrap();
    RunLock::acquire(run.path()).unwrap();
}

/// Not a test by itself: what a child process runs; without orders it does nothing.
#[test]
fn lock_holder() {
    let Some(run) = crate::environment::child_dir() else { return };
    let _lock = RunLock::acquire(&run).unwrap();
    fs::write(run.join("ready"), b"").unwrap();
    std::thread::sleep(std::time::Duration::from_secs(60));
}
