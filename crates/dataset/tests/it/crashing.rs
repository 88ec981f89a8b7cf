//! Builds in a process of their own, which is killed or runs out of space. The process is this test
//! program again, running [`child`] in a folder that holds `text.jsonl`.
#![cfg(unix)]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use caravan_dataset::{ShardSet, SourceSpec, build};
use caravan_tokenizer::ByteTokenizer;

use crate::{Dir, config};

const TEXT: &str = "text.jsonl";

/// Not a test by itself: does nothing where there is no text.
#[test]
#[allow(clippy::exit)] // The exit code is what the other tests look at.
fn child() {
    if Path::new(TEXT).exists() {
        let config = config(vec![SourceSpec::of([TEXT])], 0.1);
        let built = build(&config, &ByteTokenizer::new(), "set".as_ref(), &mut |_| {});
        if let Err(error) = built {
            eprintln!("error: {error}");
            std::process::exit(3);
        }
    }
}

fn command(dir: &Dir) -> Command {
    // `exec` keeps the process id, and a signal that is ignored stays so.
    let mut command = Command::new("sh");
    command.current_dir(dir.0.path()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.env("CHILD", std::env::current_exe().unwrap());
    command
}

const RUN: &str = "exec \"$CHILD\" --exact crashing::child --nocapture";

fn text(dir: &Dir) {
    let texts: Vec<String> =
        (0..6000).map(|i| format!("{i} {}", "some words ".repeat(100))).collect();
    dir.jsonl(TEXT, &texts);
}

fn names(dir: &Dir) -> Vec<String> {
    let entries = fs::read_dir(dir.0.path()).unwrap();
    entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn killed_builds_leave_nothing_under_the_name() {
    let dir = Dir::new();
    text(&dir);
    let mut left_behind = false;
    // At least eight moments, and as many more as it takes to meet a build on its way.
    for attempt in 0..60 {
        let millis = 5 + 9 * attempt;
        if attempt >= 8 && left_behind {
            break;
        }
        let mut child = command(&dir).args(["-c", RUN]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(millis));
        child.kill().unwrap();
        child.wait().unwrap();
        left_behind |= names(&dir).iter().any(|name| name.starts_with(".set.caravan-build-"));
        if dir.path("set").exists() {
            // It was faster than the signal: then it is whole.
            ShardSet::verify(&dir.path("set")).unwrap();
            fs::remove_dir_all(dir.path("set")).unwrap();
        }
    }
    assert!(left_behind, "no build was killed on its way; try other moments");
    let output = command(&dir).args(["-c", RUN]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    ShardSet::verify(&dir.path("set")).unwrap();
    let mut names = names(&dir);
    names.sort();
    assert_eq!(names, ["set", TEXT]);
}

#[test]
fn a_file_that_cannot_grow_leaves_nothing() {
    let dir = Dir::new();
    text(&dir);
    // Blocks of 512 bytes or 1 KiB, by shell; the tokens alone take 13 MB.
    let limited = format!("trap '' XFSZ; ulimit -f 4000; {RUN}");
    let output = command(&dir).args(["-c", &limited]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("error: cannot write ") && stderr.contains("help: "), "{stderr}");
    assert_eq!(names(&dir), [TEXT]);
}
