//! What ranks report, and what they leave behind, is wrong: an error each, never wrong data, and the
//! checkpoint before is as it was.

use std::fs;
use std::path::Path;

use caravan_checkpoint::{
    Checkpoint, CheckpointError, Dtype, RankFile, SaveTensor, Shard, Staging, open_latest,
    save_rank,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::damage::write_manifest;
use crate::make::{assert_is_step, meta, save_step};
use crate::ranks::{Tensor, assert_reads, bits, layouts, save_layout, tensors};

/// `w` is [4, 6] in columns 0..2 on rank 0 and 2..6 on rank 1, `v` on rank 0 alone.
fn two_reports(root: &Path, staging: &Staging) -> Vec<RankFile> {
    let w = Tensor::new("w", &[4, 6], 0);
    let save = |rank: usize, columns: std::ops::Range<usize>| {
        let shard = Shard::whole(&[4, 6]).slice(1, columns);
        let values = w.part(&shard);
        let v = (rank == 0).then(|| SaveTensor::f32("v", &[2], vec![1.0, 2.0]));
        let mut held = v.into_iter().chain([SaveTensor::lazy_f32_part("w", shard, move || values)]);
        save_rank(root, staging.name(), rank, &mut held).unwrap()
    };
    vec![save(0, 0..2), save(1, 2..6)]
}

/// Commits what `change` makes of two good reports, which must fail and leave all as it was.
fn refusal(change: impl FnOnce(&Path, &mut Vec<RankFile>)) -> String {
    let root = tempfile::tempdir().unwrap();
    save_step(root.path(), 1, 10).unwrap();
    let staging = Staging::begin(root.path(), 2).unwrap();
    let mut reports = two_reports(root.path(), &staging);
    change(&root.path().join(staging.name()), &mut reports);
    let error = staging.commit(&meta(2), reports).unwrap_err().to_string();
    assert_is_step(&open_latest(root.path()).unwrap().unwrap(), 1, 10);
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2, "leftovers after: {error}");
    assert_eq!(error.matches("help: ").count(), 1, "{error}");
    error
}

/// The same for a change of one report's JSON.
fn forged(rank: usize, change: impl FnOnce(&mut Value)) -> String {
    refusal(|_, reports| {
        let mut report: Value = serde_json::from_slice(&reports[rank].to_json()).unwrap();
        change(&mut report);
        reports[rank] = RankFile::from_json(&serde_json::to_vec(&report).unwrap()).unwrap();
    })
}

#[test]
fn the_two_reports_are_good() {
    let root = tempfile::tempdir().unwrap();
    let staging = Staging::begin(root.path(), 2).unwrap();
    let mut reports = two_reports(root.path(), &staging);
    reports.reverse();
    staging.commit(&meta(2), reports).unwrap();
    let found = open_latest(root.path()).unwrap().unwrap().f32_values("w").unwrap();
    assert_eq!(bits(&found), bits(&Tensor::new("w", &[4, 6], 0).values));
}

#[test]
fn a_rank_that_does_not_report_is_a_gap() {
    let message = refusal(|_, reports| drop(reports.pop()));
    assert!(
        message.starts_with(
            "the files of the ranks make no checkpoint of step 2: tensor `w` of shape [4, 6]: \
             8 of its 24 elements were saved: [0..4, 0..2]\nhelp: "
        ),
        "{message}"
    );
    let message = refusal(|_, reports| drop(reports.remove(0)));
    assert!(message.contains("tensor `w` of shape [4, 6]: 16 of its 24"), "{message}");
}

#[test]
fn copies_saved_twice_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let staging = Staging::begin(root.path(), 2).unwrap();
    let save = |rank| {
        let mut copy = std::iter::once(SaveTensor::f32("norm", &[2], vec![1.0, 2.0]));
        save_rank(root.path(), staging.name(), rank, &mut copy).unwrap()
    };
    let reports = vec![save(0), save(1)];
    let message = staging.commit(&meta(2), reports).unwrap_err().to_string();
    assert!(
        message.contains(
            "tensor `norm` of shape [2]: elements 0..2 of [0..2] are in `rank-00000.safetensors` \
             and in `rank-00001.safetensors`\nhelp: each element must be saved by exactly one rank"
        ),
        "{message}"
    );
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0, "leftovers");
}

#[test]
fn reports_that_lie_are_refused() {
    fn w(report: &mut Value, change: &dyn Fn(&mut Value)) {
        let tensors = report["tensors"].as_array_mut().unwrap();
        change(tensors.iter_mut().find(|t| t["path"] == "w").unwrap());
    }
    let lies: Vec<(usize, Box<dyn Fn(&mut Value)>, &str)> = vec![
        (
            1,
            Box::new(|r| w(r, &|t| t["start"] = json!([0, 1]))),
            "[0..4, 0..2] in `rank-00000.safetensors` and [0..4, 1..5] in `rank-00001.safetensors` overlap",
        ),
        (
            1,
            Box::new(|r| w(r, &|t| t["flat"] = json!([0, 15]))),
            "elements 15..16 of [0..4, 2..6] are in no file",
        ),
        (
            1,
            Box::new(|r| w(r, &|t| t["start"] = json!([0, 3]))),
            "tensor `w` in `rank-00001.safetensors`: elements 0..16 of the box [4, 4] at [0, 3] are no \
             part of a tensor of shape [4, 6]: 4 from 3 on leave dim 1 of 6",
        ),
        (1, Box::new(|r| w(r, &|t| t["flat"] = json!([0, 17]))), "0..17 leaves the 16 elements"),
        (
            1,
            Box::new(|r| w(r, &|t| t["extent"] = json!([16]))),
            "does not have the tensor's 2 dims",
        ),
        (
            1,
            Box::new(|r| w(r, &|t| t["shape"] = json!([6, 4]))),
            "tensor `w` is F32[6, 4] in `rank-00001.safetensors`, but F32[4, 6] on an earlier rank",
        ),
        (1, Box::new(|r| w(r, &|t| t["dtype"] = json!("I32"))), "tensor `w` is I32[4, 6] in"),
        (1, Box::new(|r| w(r, &|t| t["path"] = json!("u"))), "8 of its 24 elements were saved"),
        (1, Box::new(|r| w(r, &|t| t["blake3"] = json!("ABC"))), "blake3 of `w` is no BLAKE3 hash"),
        (
            0,
            Box::new(|r| r["rank"] = json!(1)),
            "rank 1 does not write a file `rank-00000.safetensors`",
        ),
        (
            1,
            Box::new(|r| r["file"]["name"] = json!("../rank-00001.safetensors")),
            "rank 1 does not write a file `../rank-00001.safetensors`",
        ),
        (1, Box::new(|r| r["file"]["name"] = json!("/etc/passwd")), "does not write a file"),
        (
            1,
            Box::new(|r| {
                r["rank"] = json!(123_456);
                r["file"]["name"] = json!("rank-123456.safetensors");
            }),
            "`rank-123456.safetensors` is no name of a checkpoint file",
        ),
        (
            1,
            Box::new(|r| r["staging"] = json!(".saving-step-00000002.0123456789abcdef")),
            "rank 1 wrote into `.saving-step-00000002.0123456789abcdef`, this save is `.saving-step-",
        ),
        (
            1,
            Box::new(|r| r["file"]["bytes"] = json!(r["file"]["bytes"].as_u64().unwrap() + 4)),
            "4 bytes of `rank-00001.safetensors` belong to no tensor",
        ),
        (1, Box::new(|r| r["file"]["header_bytes"] = json!(u64::MAX)), "shorter than its header"),
        (
            1,
            Box::new(|r| r["file"]["header_blake3"] = json!("0".repeat(64))),
            "rank 1 and rank 0 do not see the same files: ",
        ),
        (0, Box::new(|r| r["tensors"][0]["path"] = json!("")), "is listed twice or unnamed"),
    ];
    for (rank, lie, expected) in lies {
        let message = forged(rank, lie);
        assert!(message.contains(expected), "{message}\nexpected: {expected}");
    }
}

#[test]
fn the_same_rank_twice_is_refused() {
    let message = refusal(|_, reports| reports.push(reports[1].clone()));
    assert!(message.contains("file `rank-00001.safetensors` is listed twice"), "{message}");
    // Also one that has nothing.
    let root = tempfile::tempdir().unwrap();
    let staging = Staging::begin(root.path(), 2).unwrap();
    let empty = save_rank(root.path(), staging.name(), 7, &mut std::iter::empty()).unwrap();
    let message = staging.commit(&meta(2), vec![empty.clone(), empty]).unwrap_err().to_string();
    assert!(message.contains("file `rank-00007.safetensors` is listed twice"), "{message}");
}

#[test]
fn reports_that_are_none_are_refused() {
    for bytes in [&b""[..], b"{}", b"\xff\xfe", b"[1, 2]", b"null", b"{\"rank\": -1}"] {
        let error = RankFile::from_json(bytes).unwrap_err();
        assert!(matches!(error, CheckpointError::BadReport { .. }), "{error}");
        assert!(error.to_string().contains("cannot be read: "), "{error}");
    }
}

#[test]
fn files_that_are_not_as_reported_are_refused() {
    let file = "rank-00001.safetensors";
    let seen = |message: &str, expected: &str| {
        assert!(message.starts_with("rank 1 and rank 0 do not see the same files: `"), "{message}");
        assert!(message.contains(expected), "{message}");
    };
    let missing = refusal(|dir, _| fs::remove_file(dir.join(file)).unwrap());
    seen(&missing, "/rank-00001.safetensors` is damaged: it is missing");
    let truncated = refusal(|dir, _| {
        let bytes = fs::read(dir.join(file)).unwrap();
        fs::write(dir.join(file), &bytes[..bytes.len() - 1]).unwrap();
    });
    seen(&truncated, "its size is ");
    let flipped = refusal(|dir, _| {
        let mut bytes = fs::read(dir.join(file)).unwrap();
        bytes[9] ^= 1;
        fs::write(dir.join(file), bytes).unwrap();
    });
    seen(&flipped, "the BLAKE3 of its header is ");
}

#[test]
fn a_rank_writes_into_the_staging_it_was_told_and_nowhere_else() {
    let root = tempfile::tempdir().unwrap();
    let save = |name: &str, rank: usize| {
        let mut tensors = std::iter::once(SaveTensor::bytes("b", Dtype::U8, &[1], b"b"));
        save_rank(root.path(), name, rank, &mut tensors).map(|_| ())
    };
    for name in [
        "",
        ".",
        "step-00000001",
        "../.saving-step-00000001.0123456789abcdef",
        ".saving-step-00000001.0123456789abcdef/..",
        ".saving-step-00000001.0123456789abcde/",
        ".saving-step-00000001.0123456789ABCDEF",
        ".saving-step-1.0123456789abcdef",
    ] {
        let error = save(name, 0).unwrap_err();
        assert!(matches!(error, CheckpointError::BadReport { .. }), "{name}: {error}");
    }
    // A name that is well formed, but of a save that was given up, or of another file system.
    let staging = Staging::begin(root.path(), 1).unwrap();
    let name = staging.name().to_owned();
    assert!(matches!(save(&name, 100_000), Err(CheckpointError::BadReport { .. })));
    save(&name, 3).unwrap();
    let twice = save(&name, 3).unwrap_err().to_string();
    assert!(twice.contains("rank-00003.safetensors`: cannot create the file: "), "{twice}");
    drop(staging);
    let gone = save(&name, 4).unwrap_err().to_string();
    assert!(gone.starts_with("rank 4 and rank 0 do not see the same files: `"), "{gone}");
    assert!(gone.contains("which rank 0 made, is not there\nhelp: choose an --out on"), "{gone}");
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn each_attempt_has_a_name_of_its_own() {
    let root = tempfile::tempdir().unwrap();
    let first = Staging::begin(root.path(), 1).unwrap();
    let dir = root.path().join(first.name());
    // As after a kill: the next run removes it, and cannot be written into by who still knows the first.
    let second = Staging::begin(root.path(), 1).unwrap();
    assert_ne!(first.name(), second.name());
    assert!(!dir.exists() && root.path().join(second.name()).exists());
}

#[test]
fn parts_of_one_process_that_make_no_whole_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let half = Shard::whole(&[4]).elements(0..2);
    for (shard, values, expected) in [
        (half.clone(), vec![1.0, 2.0], "elements 2..4 of [0..4] are in no file"),
        (half, vec![1.0], "tensor `w` cannot be saved: elements 0..2 of shape [4] of F32 needs 8"),
        (Shard::whole(&[4]).slice(0, 1..1), vec![1.0], "shape [0] of F32 needs 0 bytes, 4 were"),
    ] {
        let mut part = std::iter::once(SaveTensor::lazy_f32_part("w", shard, || values));
        let error = caravan_checkpoint::save(root.path(), 1, &meta(1), &mut part).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0, "leftovers");
    }
}

/// A checkpoint that six ranks saved.
fn of_six() -> (tempfile::TempDir, std::path::PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let layouts = layouts();
    let layout = layouts.iter().find(|l| l.n_ranks == 6).unwrap();
    let dir = save_layout(root.path(), 1, layout, &tensors()).unwrap();
    (root, dir)
}

#[test]
fn damage_in_any_ranks_file_is_found() {
    let (root, dir) = of_six();
    for rank in 0..6 {
        let path = dir.join(format!("rank-0000{rank}.safetensors"));
        let good = fs::read(&path).unwrap();
        let refused = |bytes: &[u8], what: &str| {
            fs::write(&path, bytes).unwrap();
            let error = open_latest(root.path()).unwrap_err().to_string();
            assert!(error.contains(&format!("rank-0000{rank}.safetensors` is damaged")), "{error}");
            let lazy = Checkpoint::open_lazy(&dir).unwrap();
            // Reading everything finds it as well, wherever it is.
            let read = tensors()
                .iter()
                .try_for_each(|t| lazy.read(&t.path, &Shard::whole(&t.shape)).map(|_| ()));
            let odd = lazy.tensor("odd").map(|_| ());
            assert!(read.and(odd).is_err(), "{what} of rank {rank}");
        };
        for at in (0..good.len()).step_by(7) {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << (at % 8);
            refused(&bytes, &format!("byte {at}"));
        }
        for len in (0..good.len()).step_by(11) {
            refused(&good[..len], &format!("truncation to {len}"));
        }
        fs::remove_file(&path).unwrap();
        let error = open_latest(root.path()).unwrap_err().to_string();
        assert!(
            error.contains(&format!("rank-0000{rank}.safetensors` is damaged: it is missing")),
            "{error}"
        );
        fs::write(&path, good).unwrap();
    }
    // Files in each other's place.
    let [a, b] = [1, 3].map(|rank| dir.join(format!("rank-0000{rank}.safetensors")));
    let (of_a, of_b) = (fs::read(&a).unwrap(), fs::read(&b).unwrap());
    fs::write(&a, of_b).unwrap();
    fs::write(&b, of_a).unwrap();
    assert!(open_latest(root.path()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// Any edit of a manifest of six ranks, with a right hash: refused, or every tensor is whole.
    #[test]
    fn edited_manifests_of_many_ranks_are_refused_or_whole(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        thread_local! {
            static PLACE: (tempfile::TempDir, std::path::PathBuf, Vec<u8>) = {
                let (root, dir) = of_six();
                let text = fs::read(dir.join("manifest.json")).unwrap();
                (root, dir, text)
            };
        }
        PLACE.with(|(_, dir, text)| {
            let mut text = text.clone();
            for (at, byte) in &edits {
                // Digits for digits mostly, which keeps the JSON whole.
                let digits: Vec<usize> = (0..text.len()).filter(|&i| text[i].is_ascii_digit()).collect();
                if byte % 8 == 0 {
                    let at = at.index(text.len());
                    text[at] = *byte;
                } else {
                    text[digits[at.index(digits.len())]] = b'0' + byte % 10;
                }
            }
            write_manifest(dir, &text);
            if let Ok(checkpoint) = Checkpoint::open(dir) {
                for tensor in checkpoint.tensors() {
                    let tensor = tensor.unwrap();
                    let n: usize = tensor.shape.iter().product();
                    assert_eq!(tensor.bytes.len(), n * tensor.dtype.size());
                }
            }
        });
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Any edit of a report: refused, or what is committed opens.
    #[test]
    fn edited_reports_never_commit_what_does_not_open(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..3),
    ) {
        let root = tempfile::tempdir().unwrap();
        let staging = Staging::begin(root.path(), 2).unwrap();
        let mut reports = two_reports(root.path(), &staging);
        let mut text = reports[1].to_json();
        // Not in hashes: those of the tensors are taken on trust, as reading all again would cost much.
        let spare: Vec<usize> = {
            let words = String::from_utf8(text.clone()).unwrap();
            let hashes: Vec<usize> = words.match_indices("blake3\":\"").map(|(i, m)| i + m.len()).collect();
            (0..text.len()).filter(|i| !hashes.iter().any(|h| (*h..h + 64).contains(i))).collect()
        };
        for (at, byte) in &edits {
            let at = spare[at.index(spare.len())];
            text[at] = if text[at].is_ascii_digit() { b'0' + byte % 10 } else { *byte };
        }
        if let Ok(report) = RankFile::from_json(&text) {
            reports[1] = report;
            if staging.commit(&meta(2), reports).is_ok() {
                open_latest(root.path()).unwrap().unwrap();
            }
        }
    }
}

#[test]
fn a_layout_reads_while_others_do() {
    // One open checkpoint, many threads: each finds every bit.
    let (root, _dir) = of_six();
    let checkpoint = caravan_checkpoint::open_latest_lazy(root.path()).unwrap().unwrap();
    let tensors = tensors();
    std::thread::scope(|scope| {
        for layout in layouts() {
            let (checkpoint, tensors) = (&checkpoint, &tensors);
            scope.spawn(move || assert_reads(checkpoint, &layout, tensors));
        }
    });
}
