//! What the tests of the program share.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

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
