//! Damage of any kind is an error: never a panic, never wrong data.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use caravan_checkpoint::{Checkpoint, CheckpointError, open_latest};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::make::{assert_is_step, save_step};

const STEP: &str = "step-00000005";

const FILES: [&str; 4] = [
    "step-00000005/rank-00000.safetensors",
    "step-00000005/manifest.json",
    "step-00000005/manifest.json.b3",
    "LATEST",
];

fn root_with_two() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    save_step(root.path(), 4, 40).unwrap();
    save_step(root.path(), 5, 40).unwrap();
    root
}

#[test]
fn every_flipped_bit_of_every_file_is_found() {
    let root = root_with_two();
    for name in FILES {
        let path = root.path().join(name);
        let good = fs::read(&path).unwrap();
        // In place: some file systems flush a file that is truncated and written anew.
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        for bit in 0..good.len() * 8 {
            let (at, byte) = (bit / 8, good[bit / 8]);
            file.write_all_at(&[byte ^ (1 << (bit % 8))], at as u64).unwrap();
            let opened = match name {
                "LATEST" => open_latest(root.path()).map(|found| found.map(|c| c.step())),
                _ => Checkpoint::open(&root.path().join(STEP)).map(|c| Some(c.step())),
            };
            assert!(opened.is_err(), "{name}, bit {bit}: opened as step {opened:?}");
            file.write_all_at(&[byte], at as u64).unwrap();
        }
    }
    assert_is_step(&open_latest(root.path()).unwrap().unwrap(), 5, 40);
}

#[test]
fn every_truncation_and_any_appended_byte_is_found() {
    let root = root_with_two();
    for name in FILES {
        let path = root.path().join(name);
        let good = fs::read(&path).unwrap();
        for len in 0..good.len() {
            fs::write(&path, &good[..len]).unwrap();
            assert!(open_latest(root.path()).is_err(), "{name} cut to {len} bytes");
        }
        fs::write(&path, [&good[..], b"\n"].concat()).unwrap();
        assert!(open_latest(root.path()).is_err(), "{name} with a byte more");
        fs::write(&path, &good).unwrap();
    }
}

#[test]
fn a_damaged_latest_names_the_previous_good_one() {
    let root = root_with_two();
    let weights = root.path().join(FILES[0]);
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, bytes).unwrap();
    let message = open_latest(root.path()).unwrap_err().to_string();
    assert!(message.starts_with("the latest checkpoint cannot be used: `"), "{message}");
    assert!(message.contains("the BLAKE3 of tensor `odd` is"), "{message}");
    assert_eq!(message.matches("help: ").count(), 1, "{message}");
    let previous = root.path().join("step-00000004");
    assert!(
        message.contains(&format!("the newest good one before it is `{}`", previous.display()))
    );

    // The way out that the message tells works.
    fs::remove_dir_all(root.path().join("step-00000005")).unwrap();
    let missing = open_latest(root.path()).unwrap_err().to_string();
    assert!(missing.contains("names `step-00000005`, which does not exist\nhelp: "), "{missing}");
    fs::remove_file(root.path().join("LATEST")).unwrap();
    assert_is_step(&open_latest(root.path()).unwrap().unwrap(), 4, 40);
}

#[test]
fn missing_files_are_named() {
    for name in &FILES[..3] {
        let root = root_with_two();
        fs::remove_file(root.path().join(name)).unwrap();
        let message = open_latest(root.path()).unwrap_err().to_string();
        assert!(
            message.contains(&root.path().join("step-00000005").display().to_string()),
            "{message}"
        );
    }
}

/// Writes a manifest that says what `change` makes of the true one, with a right hash.
fn forged(change: impl FnOnce(&mut Value)) -> (tempfile::TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let dir = save_step(root.path(), 1, 8).unwrap();
    let mut manifest: Value =
        serde_json::from_slice(&fs::read(dir.join("manifest.json")).unwrap()).unwrap();
    change(&mut manifest);
    write_manifest(&dir, &serde_json::to_vec(&manifest).unwrap());
    (root, dir)
}

pub(crate) fn write_manifest(dir: &Path, text: &[u8]) {
    fs::write(dir.join("manifest.json"), text).unwrap();
    let line = format!("{}  manifest.json\n", blake3::hash(text).to_hex());
    fs::write(dir.join("manifest.json.b3"), line).unwrap();
}

fn refusal(change: impl FnOnce(&mut Value)) -> String {
    let (_root, dir) = forged(change);
    Checkpoint::open(&dir).unwrap_err().to_string()
}

#[test]
fn a_newer_format_asks_for_an_upgrade() {
    let message = refusal(|m| *m = json!({"format_version": 3, "something": "else"}));
    assert!(message.contains("format version 3 is newer than 2"), "{message}");
    assert!(message.contains("help: upgrade caravan"), "{message}");
    assert!(
        refusal(|m| m["format_version"] = json!(0)).contains("format version 0 does not exist")
    );
    assert!(refusal(|m| m["format_version"] = json!(-1)).contains("cannot be read"));
}

#[test]
fn hostile_manifests_are_refused() {
    // tensors[0] is adamw/step (scalar U64), [1] the f32 weights of 8 elements, [2] 9 odd bytes.
    let shard = |from: u64, to: u64, file: &str| json!({"file": file, "start": [0, 0], "extent": [8, 1], "flat": [from, to], "blake3": "0".repeat(64)});
    let name = "rank-00000.safetensors";
    let cases: Vec<(&str, Box<dyn FnOnce(&mut Value)>, &str)> = vec![
        (
            "unknown dtype",
            Box::new(|m| m["tensors"][1]["dtype"] = json!("F7")),
            "unknown variant `F7`",
        ),
        ("unknown key", Box::new(|m| m["extra"] = json!(1)), "unknown field `extra`"),
        (
            "missing key",
            Box::new(|m| drop(m.as_object_mut().unwrap().remove("data"))),
            "missing field `data`",
        ),
        (
            "traversal",
            Box::new(|m| m["files"][0]["name"] = json!("../../etc/passwd")),
            "is no name of a checkpoint file",
        ),
        (
            "absolute",
            Box::new(|m| m["files"][0]["name"] = json!("/dev/zero")),
            "is no name of a checkpoint file",
        ),
        (
            "nearly a name",
            Box::new(|m| m["files"][0]["name"] = json!("rank-0/../.safetensors")),
            "is no name",
        ),
        (
            "same file twice",
            Box::new(|m| {
                let f = m["files"][0].clone();
                m["files"].as_array_mut().unwrap().push(f);
            }),
            "is listed twice",
        ),
        (
            "same path twice",
            Box::new(|m| m["tensors"][2]["path"] = json!("adamw/step")),
            "tensor `adamw/step` is listed twice",
        ),
        ("unnamed", Box::new(|m| m["tensors"][2]["path"] = json!("")), "unnamed"),
        (
            "overflowing shape",
            Box::new(|m| m["tensors"][1]["shape"] = json!([u64::MAX, 3])),
            "impossibly large",
        ),
        (
            "overflowing bytes",
            Box::new(|m| m["tensors"][1]["shape"] = json!([u64::MAX / 2])),
            "impossibly large",
        ),
        (
            "other shape",
            Box::new(|m| {
                m["tensors"][1]["shape"] = json!([4, 2]);
                m["tensors"][1]["shards"][0]["extent"] = json!([4, 2]);
            }),
            "tensor `model/blocks.0.wq.weight` is",
        ),
        (
            "larger shape",
            Box::new(|m| m["tensors"][1]["shape"] = json!([9, 1])),
            "tensor `model/blocks.0.wq.weight` of shape [9, 1]: 8 of its 9 elements were saved: [0..8, 0..1]",
        ),
        (
            "smaller shape",
            Box::new(|m| m["tensors"][1]["shape"] = json!([7, 1])),
            "8 from 0 on leave dim 0 of 7",
        ),
        (
            "flat shape",
            Box::new(|m| m["tensors"][1]["shape"] = json!([8])),
            "the box does not have the tensor's 1 dims",
        ),
        (
            "box that overflows",
            Box::new(|m| m["tensors"][1]["shards"][0]["start"] = json!([u64::MAX, 0])),
            "leave dim 0 of 8",
        ),
        (
            "no shards",
            Box::new(|m| m["tensors"][1]["shards"] = json!([])),
            "0 of its 8 elements were saved: none",
        ),
        (
            "gap",
            Box::new(move |m| m["tensors"][1]["shards"] = json!([shard(1, 8, name)])),
            "elements 0..1 of [0..8, 0..1] are in no file",
        ),
        (
            "overlap",
            Box::new(move |m| {
                let mut other = m["files"][0].clone();
                other["name"] = json!("rank-00001.safetensors");
                m["files"].as_array_mut().unwrap().push(other);
                m["tensors"][1]["shards"] =
                    json!([shard(0, 5, name), shard(4, 8, "rank-00001.safetensors")])
            }),
            "elements 4..5 of [0..8, 0..1] are in `rank-00000.safetensors` and in `rank-00001.safetensors`",
        ),
        (
            "backwards",
            Box::new(move |m| {
                m["tensors"][1]["shards"] = json!([shard(0, 8, name), shard(9, 8, name)])
            }),
            "9..8 leaves the 8 elements of the box",
        ),
        (
            "two in a file",
            Box::new(move |m| {
                m["tensors"][1]["shards"] = json!([shard(0, 4, name), shard(4, 8, name)])
            }),
            "has two shards in",
        ),
        (
            "unlisted file",
            Box::new(move |m| {
                m["tensors"][1]["shards"] = json!([shard(0, 8, "rank-00001.safetensors")])
            }),
            "which is not listed",
        ),
        (
            "bad hash",
            Box::new(|m| m["tensors"][1]["shards"][0]["blake3"] = json!("xyz")),
            "is no BLAKE3 hash",
        ),
        (
            "wrong hash",
            Box::new(|m| m["tensors"][1]["shards"][0]["blake3"] = json!("0".repeat(64))),
            "the BLAKE3 of tensor",
        ),
        (
            "tensor left out",
            Box::new(|m| drop(m["tensors"].as_array_mut().unwrap().pop())),
            "9 bytes of `rank-00000.safetensors` belong to no tensor",
        ),
        (
            "file too small",
            Box::new(|m| {
                let file = &mut m["files"][0];
                file["bytes"] = json!(file["header_bytes"].as_u64().unwrap() + 20);
            }),
            "does not fit",
        ),
        (
            "huge file",
            Box::new(|m| m["files"][0]["bytes"] = json!(u64::MAX)),
            "belong to no tensor",
        ),
        (
            "header too long",
            Box::new(|m| m["files"][0]["header_bytes"] = json!(u64::MAX)),
            "is shorter than its header",
        ),
        (
            "header hash",
            Box::new(|m| m["files"][0]["header_blake3"] = json!("0".repeat(64))),
            "the BLAKE3 of its header",
        ),
        (
            "shifted header",
            Box::new(|m| {
                let file = &mut m["files"][0];
                file["header_bytes"] = json!(file["header_bytes"].as_u64().unwrap() - 8);
                file["bytes"] = json!(file["bytes"].as_u64().unwrap() - 8);
            }),
            "its size is",
        ),
        ("no object", Box::new(|m| *m = json!([1, 2])), "format_version cannot be read"),
        ("deep", Box::new(|m| m["config"] = (0..2).fold(json!(1), |v, _| json!([v]))), ""),
    ];
    for (what, change, expected) in cases {
        if expected.is_empty() {
            let (_root, dir) = forged(change);
            Checkpoint::open(&dir).unwrap();
            continue;
        }
        let message = refusal(change);
        assert!(message.contains(expected), "{what}: {message}");
        assert!(message.contains("\nhelp: "), "{what}: {message}");
    }
}

#[test]
fn a_manifest_without_end_of_nesting_is_refused() {
    let (_root, dir) = forged(|_| {});
    write_manifest(
        &dir,
        format!("{{\"format_version\":1,\"config\":{}", "[".repeat(100_000)).as_bytes(),
    );
    assert!(matches!(Checkpoint::open(&dir), Err(CheckpointError::BadManifest { .. })));
}

#[cfg(unix)]
#[test]
fn a_pipe_in_place_of_a_file_does_not_block() {
    let (_root, dir) = forged(|_| {});
    let path = dir.join("rank-00000.safetensors");
    fs::remove_file(&path).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    let message = Checkpoint::open(&dir).unwrap_err().to_string();
    assert!(message.contains("it is something else, expected a regular file"), "{message}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Any edit of a manifest with a right hash: refused, or the data is right all the same.
    #[test]
    fn edited_manifests_never_give_wrong_data(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        thread_local! {
            static PLACE: (tempfile::TempDir, PathBuf, Vec<u8>) = {
                let (root, dir) = forged(|_| {});
                let text = fs::read(dir.join("manifest.json")).unwrap();
                (root, dir, text)
            };
        }
        PLACE.with(|(_, dir, text)| {
            let mut text = text.clone();
            for (at, byte) in &edits {
                let at = at.index(text.len());
                // Digits for digits now and then, which keeps the JSON whole.
                text[at] = if text[at].is_ascii_digit() { b'0' + byte % 10 } else { *byte };
            }
            write_manifest(dir, &text);
            if let Ok(checkpoint) = Checkpoint::open(dir) {
                for tensor in checkpoint.tensors() {
                    let tensor = tensor.unwrap();
                    let expected = match tensor.dtype {
                        caravan_checkpoint::Dtype::U8 => 9,
                        caravan_checkpoint::Dtype::U64 => 8,
                        _ => 32,
                    };
                    assert_eq!(tensor.bytes.len(), expected);
                }
            }
        });
    }
}
