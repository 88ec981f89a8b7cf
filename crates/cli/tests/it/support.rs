//! What the tests of the program share.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// More than any run of these tests takes, also on a busy machine.
const TIME_LIMIT: Duration = Duration::from_secs(100);

/// Settings of a run that takes seconds.
pub(crate) const TINY: &[&str] = &[
    "steps=30",
    "seq_len=32",
    "global_batch=6",
    "micro_batch=2",
    "vocab_size=300",
    "n_layers=2",
    "d_model=32",
    "n_heads=4",
    "n_kv_heads=2",
    "head_dim=8",
    "d_ff=64",
    "eval_every=0",
    "checkpoint_every=5",
    "sample_tokens=4",
    "peak_lr=3e-3",
];

/// The program with arguments, run in `dir`.
pub(crate) fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_caravan"));
    command.current_dir(dir).args(args);
    command
}

/// Runs the program to its end.
pub(crate) fn caravan(dir: &Path, args: &[&str]) -> Output {
    command(dir, args).output().expect("the program starts")
}

/// Runs the program to its end, which must come in time: ranks that wait for each other do so for ever.
pub(crate) fn timed(dir: &Path, args: &[&str]) -> Output {
    ended(started(dir, args), args)
}

/// Starts the program with its output in pipes.
pub(crate) fn started(dir: &Path, args: &[&str]) -> Child {
    let mut command = command(dir, args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the program starts")
}

/// What a program that was [`started`] says until its end, which must come in time.
pub(crate) fn ended(child: Child, args: &[&str]) -> Output {
    let pid = child.id();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output().expect("an end")));
    receiver.recv_timeout(TIME_LIMIT).unwrap_or_else(|_| {
        signal(pid, "KILL");
        panic!("{args:?} did not end in {TIME_LIMIT:?}")
    })
}

/// Sends a signal.
pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(status.expect("kill").success());
}

/// Waits until a run has written down `step`.
pub(crate) fn wait_for_step(run: &Path, step: usize) {
    let begun = std::time::Instant::now();
    let n_steps = || std::fs::read_to_string(run.join("metrics.jsonl")).map(|t| t.lines().count());
    while n_steps().unwrap_or(0) < step {
        assert!(begun.elapsed() < TIME_LIMIT, "no step {step} in {}", run.display());
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Runs the program, expects a failure that names `words`, ends in help and is no panic.
pub(crate) fn refused(dir: &Path, args: &[&str], words: &[&str]) {
    let output = timed(dir, args);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{args:?} was accepted:\n{text}");
    assert_eq!(output.status.code(), Some(1), "{args:?}\n{text}");
    assert!(!text.contains("panicked"), "{args:?}\n{text}");
    let error = text.lines().filter(|l| l.starts_with("error: ")).count();
    assert_eq!(error, 1, "{args:?}: one line that says error\n{text}");
    assert!(text.contains("help: "), "{args:?}\n{text}");
    for word in words {
        assert!(text.contains(word), "{args:?}: no `{word}` in\n{text}");
    }
}

/// Runs the program and expects success; gives standard output.
pub(crate) fn ok(dir: &Path, args: &[&str]) -> String {
    let output = caravan(dir, args);
    assert!(output.status.success(), "{args:?}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// A few thousand words of made-up text with some regularity.
pub(crate) fn write_text(path: &Path) {
    let (who, what, place) = (
        ["fox", "crow", "llama", "child"],
        ["bread", "song", "stone"],
        ["hill", "river", "market", "old mill"],
    );
    let mut text = String::new();
    for i in 0..400usize {
        let k = i * 2_654_435_761 % 1_000_003;
        text.push_str(&format!(
            "The {} found a {} at the {} on day {}.\n",
            who[k % who.len()],
            what[k / 7 % what.len()],
            place[k / 31 % place.len()],
            i
        ));
    }
    std::fs::write(path, text).expect("the text is written");
}

/// A folder with `text.txt` in it.
pub(crate) fn folder() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a folder");
    write_text(&dir.path().join("text.txt"));
    let path = dir.path().to_path_buf();
    (dir, path)
}

/// Arguments of a tiny training run into `out`, with more at the end.
pub(crate) fn train_args<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    ["train", "--text", "text.txt", "--out", out].iter().chain(TINY).chain(more).copied().collect()
}

/// The bytes of the tensors of a run's newest checkpoint.
pub(crate) fn final_tensors(run: &Path) -> Vec<u8> {
    let checkpoints = run.join("checkpoints");
    let latest = std::fs::read_to_string(checkpoints.join("LATEST")).expect("a LATEST file");
    let dir = checkpoints.join(latest.lines().next().expect("a name"));
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .expect("a checkpoint")
        .map(|e| e.expect("an entry").path())
        .collect();
    files.sort();
    let tensors = files.iter().filter(|p| p.extension().is_some_and(|e| e == "safetensors"));
    tensors.flat_map(|p| std::fs::read(p).expect("a file")).collect()
}
