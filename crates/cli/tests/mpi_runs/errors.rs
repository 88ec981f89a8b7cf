//! Ranks that were started wrong: refused in time, by all, with one message that names the first.

use std::path::Path;

use crate::launch::{CARAVAN, SETTINGS, folder, mpirun};

/// Expects that a run of these processes, each with words of its own, is refused with `expected`, said once.
fn refused(dir: &Path, ranks: &[&[&str]], expected: &str) {
    let ended = mpirun(dir, &ranks.join(&":")).end();
    let text = &ended.text;
    assert!(!ended.status.success(), "accepted: {text}");
    assert!(!text.contains("panicked"), "{text}");
    assert_eq!(text.matches("error: ").count(), 1, "{text}");
    assert!(text.contains(&format!("error: {expected}")), "`{expected}` is not in {text}");
    assert!(text.contains("\nhelp: "), "{text}");
}

/// The words of a rank, with more of its own.
fn rank<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let begin = ["-n", "1", CARAVAN, "train", "--transport", "mpi", "--text", "text.txt", "--out"];
    [&begin[..], &["run"], SETTINGS, more].concat()
}

/// Three ranks, the last with words of its own.
fn three<'a>(more: &[&'a str]) -> [Vec<&'a str>; 3] {
    [rank(&[]), rank(&[]), rank(more)]
}

pub(crate) fn ranks_that_were_started_wrong_are_named() {
    let (_guard, dir) = folder();
    let refused = |ranks: &[Vec<&str>], expected: &str| {
        let ranks: Vec<&[&str]> = ranks.iter().map(Vec::as_slice).collect();
        refused(&dir, &ranks, expected);
    };
    refused(
        &three(&["peak_lr=1e-3"]),
        "rank 2 was started with peak_lr = 0.001, rank 0 with peak_lr = 0.003\n",
    );
    refused(
        &three(&["--resume"]),
        "rank 2 was started with `train --resume`, rank 0 with `train`\n",
    );
    refused(&three(&["stepz=3"]), "rank 2: command line: unknown key `stepz`");
    refused(&three(&["--ranks", "4"]), "rank 2: --ranks 4, but the launcher started 3\n");
    let thirds = || rank(&["tensor_parallel=3"]);
    refused(&[thirds(), thirds(), thirds()], "tensor_parallel = 3 does not divide n_heads = 4\n");

    // Another build: the same program, but for a byte.
    let other = dir.join("other");
    let mut program = std::fs::read(CARAVAN).unwrap();
    program.push(0);
    std::fs::copy(CARAVAN, &other).unwrap(); // with its permissions
    std::fs::write(&other, program).unwrap();
    let other = other.to_string_lossy();
    let mut another = rank(&[]);
    another[2] = &other;
    refused(&[rank(&[]), another], "rank 1 was started with caravan 0.");
    assert!(!dir.join("run").exists(), "nothing was started");

    // A machine without a common file system is another folder here.
    let elsewhere = dir.join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::copy(dir.join("text.txt"), elsewhere.join("text.txt")).unwrap();
    let place = elsewhere.to_string_lossy();
    let away = || [&["-wdir", &place], &rank(&[])[..]].concat();
    refused(
        &[rank(&[]), away()],
        "rank 1: run folder `run`: is not the folder that rank 0 sees under this name\n",
    );
    std::fs::remove_dir_all(dir.join("run")).unwrap();
    // Nor has it to have the same text.
    let text = std::fs::read_to_string(dir.join("text.txt")).unwrap();
    std::fs::write(elsewhere.join("text.txt"), text + "All the world's a stage.\n").unwrap();
    refused(&[rank(&[]), away()], "rank 1 was started with the shards `");
}
