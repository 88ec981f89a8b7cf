//! No room: the error says so, the previous checkpoint is intact.

use std::process::Command;

use caravan_checkpoint::open_latest;

use crate::environment::{child_args, child_dir, orders};
use crate::make::{assert_is_step, save_step};

const SMALL: usize = 1000;
const LARGE: usize = 1_000_000;

#[test]
fn on_a_full_disk_the_previous_checkpoint_stays() {
    let place = tempfile::tempdir().unwrap();
    // A file system of 1 MiB in a mount namespace of its own, where the system lets us.
    let script = "mount -t tmpfs -o size=1m none \"$1\" || exit 77; shift; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]);
    command.arg(place.path()).arg(std::env::current_exe().unwrap());
    command.args(child_args("disk_full::saving_without_room"));
    orders(&mut command, place.path());
    let output = match command.output() {
        Ok(output) => output,
        Err(e) => return not_run(&format!("unshare: {e}")),
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    if !text.contains("running 1 test") {
        return not_run(&format!("no mount namespace here: {}", errors.trim()));
    }
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.contains("/.saving-step-00000002."), "{text}");
    assert!(text.contains("/rank-00000.safetensors`: cannot write the tensors: "), "{text}");
    assert!(text.contains("No space left on device"), "{text}");
    assert!(text.contains("\nhelp: free some space"), "{text}");
}

#[test]
fn over_a_limit_on_file_sizes_the_previous_checkpoint_stays() {
    let place = tempfile::tempdir().unwrap();
    // Blocks of 512 bytes; the signal that comes with the limit is ignored so that the error shows.
    let script = "trap '' XFSZ; ulimit -f 2000 || exit 77; exec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(std::env::current_exe().unwrap());
    command.args(child_args("disk_full::saving_without_room"));
    orders(&mut command, place.path());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("cannot write the tensors: File too large"), "{text}");
    assert!(text.contains("\nhelp: raise the limit on file sizes"), "{text}");
}

fn not_run(why: &str) {
    let test = "on_a_full_disk_the_previous_checkpoint_stays";
    crate::environment::not_run(test, &why.replace('\n', "; "));
}

/// Not a test by itself: what a child process runs; without orders it does nothing.
#[test]
fn saving_without_room() {
    let Some(root) = child_dir() else { return };
    save_step(&root, 1, SMALL).unwrap();
    println!("{}", save_step(&root, 2, LARGE).unwrap_err());
    assert_is_step(&open_latest(&root).unwrap().unwrap(), 1, SMALL);
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), 2, "the half checkpoint was not removed");
    save_step(&root, 3, SMALL).unwrap();
    assert_is_step(&open_latest(&root).unwrap().unwrap(), 3, SMALL);
}
