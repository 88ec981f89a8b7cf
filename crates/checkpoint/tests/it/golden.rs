//! A checkpoint of format version 1, written by the last program that wrote that version.
//!
//! `golden/v1` holds step 42 as `tests/it/golden/README.md` tells.

use std::fs;
use std::path::{Path, PathBuf};

use caravan_checkpoint::{Checkpoint, Dtype, Shard, list, open_latest, open_latest_lazy};
use serde_json::json;

use crate::damage::write_manifest;
use crate::make::{assert_is_step, save_step};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden/v1")
}

/// A copy that may be changed.
fn copy() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("step-00000042")).unwrap();
    for name in [
        "LATEST",
        "step-00000042/manifest.json",
        "step-00000042/manifest.json.b3",
        "step-00000042/rank-00000.safetensors",
    ] {
        fs::copy(golden().join(name), root.path().join(name)).unwrap();
    }
    root
}

#[test]
fn version_1_is_read() {
    for open in [open_latest, open_latest_lazy] {
        let checkpoint = open(&golden()).unwrap().unwrap();
        assert_eq!(checkpoint.step(), 42);
        let manifest = checkpoint.manifest();
        assert_eq!(manifest.format_version, 1);
        assert_eq!(manifest.config, json!({"d_model": 2, "name": "カラバン"}));
        assert_eq!(manifest.tokenizer_hash, "cd".repeat(32));
        assert_eq!(manifest.data, json!({"sequence": 336}));
        assert_eq!(manifest.state, json!({"adamw_step": 42, "nats": 0.30000000000000004}));
        let expected: Vec<f32> = (0..15).map(|i| i as f32 * 0.25 - 1.0).collect();
        assert_eq!(checkpoint.f32_values_of_shape("model/w", &[5, 3]).unwrap(), expected);
        assert_eq!(checkpoint.f32_values_of_shape("nothing", &[0, 3]).unwrap(), [0.0; 0]);
        let half = checkpoint.tensor("half").unwrap();
        assert_eq!((half.dtype, &half.shape[..]), (Dtype::BF16, &[2][..]));
        assert_eq!(*half.bytes, [0x80, 0x3f, 0x00, 0xc0]);
        assert_eq!(*checkpoint.tensor("odd").unwrap().bytes, [7, 8, 9]);
        let step = checkpoint.tensor("adamw/step").unwrap();
        assert_eq!((step.shape.len(), &*step.bytes), (0, &42u64.to_le_bytes()[..]));
        // Ranks of any layout read their parts of it.
        let columns = Shard::whole(&[5, 3]).slice(1, 1..3).elements(1..4);
        assert_eq!(checkpoint.read("model/w", &columns).unwrap(), [-0.5, 0.0, 0.25]);
    }
}

#[test]
fn a_run_of_version_1_goes_on() {
    let root = copy();
    save_step(root.path(), 43, 10).unwrap();
    assert_is_step(&open_latest(root.path()).unwrap().unwrap(), 43, 10);
    assert_eq!(list(root.path()).unwrap().len(), 2);
    // The same step again, in the new form.
    save_step(root.path(), 42, 10).unwrap();
    assert_is_step(&open_latest(root.path()).unwrap().unwrap(), 42, 10);
}

#[test]
fn version_1_is_checked_as_well() {
    let text = fs::read_to_string(golden().join("step-00000042/manifest.json")).unwrap();
    let refused = |from: &str, to: &str, expected: &str| {
        let root = copy();
        let dir = root.path().join("step-00000042");
        let edited = text.replacen(from, to, 1);
        assert_ne!(edited, text);
        write_manifest(&dir, edited.as_bytes());
        let error = Checkpoint::open(&dir).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused("\"end\": 15", "\"end\": 14", "elements 14..15 of [0..5, 0..3] are in no file");
    refused("\"end\": 15", "\"end\": 16", "0..16 leaves the 15 elements of the box");
    refused("\"end\": 15", "\"extent\": [5, 3]", "unknown field `extent`");
    refused("\"format_version\": 1", "\"format_version\": 2", "integer `0`, expected a sequence");
    refused("rank-00000", "rank-00001", "which is not listed");
    let root = copy();
    let file = root.path().join("step-00000042/rank-00000.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&file, bytes).unwrap();
    let error = open_latest(root.path()).unwrap_err().to_string();
    assert!(error.contains("is damaged: the BLAKE3 of tensor `odd`"), "{error}");
}

/// Version 1 foresaw tensors in ranges over several files, though nothing wrote them.
#[test]
fn ranges_of_version_1_in_two_files_are_read() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("step-00000001");
    fs::create_dir(&dir).unwrap();
    let values: Vec<f32> = (0..12).map(|i| i as f32).collect();
    let (mut files, mut shards) = (Vec::new(), Vec::new());
    for (rank, range) in [0..5, 5..12].into_iter().enumerate() {
        let bytes: Vec<u8> = values[range.clone()].iter().flat_map(|v| v.to_le_bytes()).collect();
        let view = safetensors::tensor::TensorView::new(
            safetensors::Dtype::F32,
            vec![range.len()],
            &bytes,
        );
        let file = safetensors::serialize([("w", view.unwrap())], None).unwrap();
        let name = format!("rank-0000{rank}.safetensors");
        fs::write(dir.join(&name), &file).unwrap();
        let header = file.len() - bytes.len();
        let hash = |bytes: &[u8]| blake3::hash(bytes).to_hex().to_string();
        files.push(json!({"name": name, "bytes": file.len(), "header_bytes": header,
            "header_blake3": hash(&file[..header])}));
        shards.push(json!({"file": name, "start": range.start, "end": range.end,
            "blake3": hash(&bytes)}));
    }
    let tensor = json!({"path": "w", "dtype": "F32", "shape": [4, 3], "shards": shards});
    let manifest = json!({"format_version": 1, "step": 1, "config": null, "tokenizer_hash": "",
        "data": null, "state": null, "tensors": [tensor], "files": files});
    write_manifest(&dir, &serde_json::to_vec(&manifest).unwrap());
    let checkpoint = open_latest(root.path()).unwrap().unwrap();
    assert_eq!(checkpoint.f32_values_of_shape("w", &[4, 3]).unwrap(), values);
    let column = Shard::whole(&[4, 3]).slice(1, 1..2);
    assert_eq!(checkpoint.read("w", &column).unwrap(), [1.0, 4.0, 7.0, 10.0]);
}
