//! The README's tour, run as it stands by a shell.

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The lines of the tour, without what stands before them.
fn lines() -> Vec<String> {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let (_, rest) = readme.split_once("\n## The tour\n").expect("the README has a tour");
    let (_, block) = rest.split_once("```console\n").expect("it has a block of commands");
    let (block, _) = block.split_once("```").expect("the block ends");
    let line = |line: &str| {
        line.strip_prefix("$ ").unwrap_or_else(|| panic!("no command: {line}")).to_owned()
    };
    block.lines().map(line).collect()
}

#[test]
fn the_tour_of_the_readme_works() {
    let lines = lines();
    assert!(lines.iter().filter(|line| line.contains("cargo xtask ")).count() > 15);
    let dir = tempfile::tempdir().unwrap();
    for name in ["fixtures", "configs"] {
        std::os::unix::fs::symlink(root().join(name), dir.path().join(name)).unwrap();
    }
    // `cargo xtask` builds the program and becomes it; here it is built. The port may be taken.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let script = format!(
        "set -e -o pipefail\nset -m\ncargo() {{ shift; {:?} \"$@\"; }}\nmkdir -p tour\n{}\n",
        env!("CARGO_BIN_EXE_caravan"),
        lines.iter().map(|line| format!("{}\n", line.replace("8089", &port.to_string()))).fold(
            String::new(),
            |script, line| script
                + &format!("echo '== '{:?} >&2\n", line.trim().replace(['$', '`', '"', '\\'], " "))
                + &line
        )
    );
    let output = Command::new("bash")
        .arg("-c")
        .arg(&script)
        .current_dir(dir.path())
        .output()
        .expect("a shell");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let tail: String =
        said.chars().rev().take(2000).collect::<Vec<_>>().into_iter().rev().collect();
    assert!(output.status.success(), "{}: ...{tail}", output.status);
    // What it leaves behind is what it promises.
    for made in [
        "run/report.md",
        "ids.jsonl",
        "model/config.json",
        "colours.json",
        "reviews/confusion.svg",
        "tuned/adapter/adapter_config.json",
        "answers/chat_template.jinja",
        "ranks/report.md",
    ] {
        assert!(dir.path().join("tour").join(made).exists(), "{made}");
    }
    let labels = std::fs::read_to_string(dir.path().join("tour/labels.jsonl")).unwrap();
    assert_eq!(labels.lines().count(), 32, "{labels}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("\"text_completion\""));
}
