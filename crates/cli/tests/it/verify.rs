//! `caravan verify`: a layout that is right passes, and what cannot be verified is an error.

use crate::support::{TINY, caravan, folder, ok};

fn verify<'a>(more: &[&'a str]) -> Vec<&'a str> {
    // The text is named, not read: without one the configuration of the sources would be used.
    ["verify", "text=none.txt"].iter().chain(TINY).chain(more).copied().collect()
}

#[test]
fn layouts_are_held_against_one_rank() {
    let (_guard, dir) = folder();
    let bits = ok(&dir, &verify(&["--ranks", "3", "zero_stage=2", "n_layers=7", "d_model=512"]));
    assert!(bits.starts_with("data 3, ZeRO 2: 3 ranks as threads of this machine"), "{bits}");
    assert!(bits.contains("n_layers 7 -> 2, d_model 512 -> 48"), "{bits}");
    assert!(bits.contains("promises the bits of one rank"), "{bits}");
    let close =
        ok(&dir, &verify(&["tensor_parallel=2", "sequence_parallel=true", "pipeline_parallel=2"]));
    assert!(
        close.starts_with("pipeline 2 x tensor 2, sequence parallel, 1F1B: 4 ranks"),
        "{close}"
    );
    assert!(close.contains("1e-5 of a tensor's largest element is allowed"), "{close}");
    for (out, words) in [(bits, "ok      same bits"), (close, "ok      within 1e-5")] {
        let checks: Vec<&str> = out.lines().filter(|line| line.contains(words)).collect();
        let names: Vec<&str> = checks.iter().map(|line| line[..22].trim_end()).collect();
        assert_eq!(names[..4], ["activations", "loss", "gradients", "updates"], "{out}");
        assert!(out.contains("gradients once more   ok      same bits"), "{out}");
    }
    // Nothing was written.
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
}

#[test]
fn what_cannot_be_verified_says_what_to_change() {
    let (_guard, dir) = folder();
    for (words, message, help) in [
        (&[][..], "one rank", "data_parallel=2"),
        (&["--ranks", "4", "data_parallel=3"], "4 ranks, but", "start 3 ranks"),
        (&["--ranks", "3", "tensor_parallel=2"], "3 ranks, but", "start 2 ranks"),
        (&["data_parallel=4"], "global_batch = 6", "global_batch=8"),
        (&["peek_lr=1"], "unknown key `peek_lr`", "peak_lr"),
        (&["--device", "cuda"], "cuda", "feature"),
    ] {
        let output = caravan(&dir, &verify(words));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{words:?}");
        assert!(output.stdout.is_empty(), "{words:?}: {}", String::from_utf8_lossy(&output.stdout));
        let (problem, advice) =
            text.split_once("help: ").unwrap_or_else(|| panic!("{words:?}: {text}"));
        assert!(problem.contains(message) && advice.contains(help), "{words:?}: {text}");
    }
}
