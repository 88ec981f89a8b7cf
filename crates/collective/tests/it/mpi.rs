//! MPI: conformance and failures, under mpirun. Each test starts `collective-ranks MODE`.
//!
//! ```console
//! $ cargo test --release -p caravan-collective --features mpi mpi
//! ```

#![allow(clippy::print_stderr, reason = "a test that was not run says so")]

/// What came of it.
#[cfg(feature = "mpi")]
struct Ended {
    is_success: bool,
    /// Standard output and error.
    text: String,
    secs: f64,
}

/// Runs a mode; prints why not and returns `None` where it cannot.
#[cfg(feature = "mpi")]
fn run(test: &str, n_ranks: usize, mode: &str) -> Option<Ended> {
    use std::io::Read;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    if Command::new("mpirun").arg("--version").output().is_err() {
        eprintln!("NOT RUN: {test}: mpirun");
        return None;
    }
    let start = Instant::now();
    let mut mpirun = Command::new("mpirun")
        .args(["--oversubscribe", "--allow-run-as-root", "-n", &n_ranks.to_string()])
        // As between machines: a receiver cannot fetch from its sender's memory by itself.
        .env("OMPI_MCA_btl_vader_single_copy_mechanism", "none")
        .args([env!("CARGO_BIN_EXE_collective-ranks"), mode])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("mpirun starts");
    let readers: [Box<dyn Read + Send>; 2] = [
        Box::new(mpirun.stdout.take().expect("piped above")),
        Box::new(mpirun.stderr.take().expect("piped above")),
    ];
    let readers: Vec<_> = readers
        .into_iter()
        .map(|mut reader| {
            std::thread::spawn(move || {
                let mut text = Vec::new();
                let _ = reader.read_to_end(&mut text);
                String::from_utf8_lossy(&text).into_owned()
            })
        })
        .collect();
    let status = loop {
        if let Some(status) = mpirun.try_wait().expect("it is our child") {
            break status;
        }
        if start.elapsed() > Duration::from_secs(120) {
            mpirun.kill().expect("it is our child");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let secs = start.elapsed().as_secs_f64();
    let text = readers.into_iter().map(|reader| reader.join().expect("it only reads")).collect();
    Some(Ended { is_success: status.success(), text, secs })
}

/// Three ranks must end within 5 seconds, start included, without success, and say all of `words`.
/// Returns all that they say.
fn fails(test: &str, mode: &str, words: &[&str]) -> String {
    #[cfg(feature = "mpi")]
    if let Some(ended) = run(test, 3, mode) {
        assert!(!ended.is_success && ended.secs < 5.0, "{:.1} s: {}", ended.secs, ended.text);
        for word in words {
            assert!(ended.text.contains(word), "lacks `{word}`: {}", ended.text);
        }
        return ended.text;
    }
    #[cfg(not(feature = "mpi"))]
    {
        let _ = (mode, words);
        not_run(test);
    }
    String::new()
}

/// The same, and one rank alone says it, once.
fn fails_once(test: &str, mode: &str, words: &str) {
    let text = fails(test, mode, &[words]);
    assert!(text.matches(words).count() < 2, "said more than once: {text}");
}

fn succeeds(test: &str, n_ranks: usize, mode: &str) {
    #[cfg(feature = "mpi")]
    if let Some(ended) = run(test, n_ranks, mode) {
        assert!(ended.is_success, "{n_ranks} ranks: {}", ended.text);
    }
    #[cfg(not(feature = "mpi"))]
    {
        let _ = (mode, n_ranks);
        not_run(test);
    }
}

#[cfg(not(feature = "mpi"))]
fn not_run(test: &str) {
    eprintln!("NOT RUN: {test}: the feature `mpi`");
}

#[test]
fn mpi_conforms() {
    for n_ranks in [1, 2, 3, 4] {
        succeeds("mpi_conforms", n_ranks, "conformance");
    }
}

/// Without mpirun a program is a world of its own.
#[test]
fn mpi_conforms_without_a_launcher() {
    #[cfg(feature = "mpi")]
    {
        let ranks = env!("CARGO_BIN_EXE_collective-ranks");
        let output = std::process::Command::new(ranks).arg("conformance").output();
        let output = output.expect("cargo built it");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    #[cfg(not(feature = "mpi"))]
    not_run("mpi_conforms_without_a_launcher");
}

#[test]
fn mpi_panic_ends_all() {
    let text = fails("mpi_panic_ends_all", "panic", &["rank 1: boom\n", "panicked at "]);
    assert!(text.matches("boom").count() < 2, "said more than once: {text}");
}

#[test]
fn mpi_panic_ends_ranks_that_compute() {
    fails_once("mpi_panic_ends_ranks_that_compute", "panic-beside-computing", "rank 1: boom\n");
}

#[test]
fn mpi_panic_in_a_thread_ends_all() {
    fails_once("mpi_panic_in_a_thread_ends_all", "panic-in-thread", "rank 1: boom\n");
}

#[test]
fn mpi_two_panics_at_once_are_one() {
    fails_once("mpi_two_panics_at_once_are_one", "panic-in-threads", "boom\n");
}

#[test]
fn mpi_abort_ends_all() {
    fails_once("mpi_abort_ends_all", "abort", "rank 1: out of water\n");
}

#[test]
fn mpi_kill_ends_all() {
    fails("mpi_kill_ends_all", "kill", &["process rank 1 with PID", "signal 9"]);
}

#[test]
fn mpi_early_end_ends_all() {
    let words = ["rank 1 has ended while rank ", "waits for it in barrier on axis `world`\nhelp: "];
    fails("mpi_early_end_ends_all", "early", &words);
    fails("mpi_early_end_ends_all", "early-message", &["in recv of 5 f32 from rank 1 on axis"]);
}

#[test]
fn mpi_ranks_may_end_when_nobody_needs_them() {
    succeeds("mpi_ranks_may_end_when_nobody_needs_them", 4, "early-part");
}

#[test]
fn mpi_ends_with_messages_that_nobody_receives() {
    succeeds("mpi_ends_with_messages_that_nobody_receives", 2, "unreceived");
}

#[test]
fn mpi_another_call_is_named() {
    let words = "rank 1 calls all_reduce of 10 f32 on axis `world` where rank 0 calls barrier\n";
    fails_once("mpi_another_call_is_named", "mismatch", words);
}

#[test]
fn mpi_another_length_is_named() {
    let words = "rank 0 sends 40 bytes to rank 1 in recv of 12 f32 from rank 0 on axis `world`";
    fails("mpi_another_length_is_named", "length", &[words]);
}

#[test]
fn mpi_message_arrives_while_its_sender_computes() {
    succeeds("mpi_message_arrives_while_its_sender_computes", 2, "computing");
}

#[test]
fn mpi_arguments_that_do_not_fit_say_what_would() {
    fails("mpi_arguments_that_do_not_fit_say_what_would", "tag", &["4294967295 in send of 1 u8"]);
    fails("mpi_arguments_that_do_not_fit_say_what_would", "twice", &["it was started before"]);
    fails("mpi_arguments_that_do_not_fit_say_what_would", "after", &["the world was dropped"]);
}
