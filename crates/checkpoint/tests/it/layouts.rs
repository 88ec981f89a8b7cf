//! Saved on one layout, read on every other: the same bits.

use std::fs;

use caravan_checkpoint::{
    Checkpoint, Meta, RankFile, SaveTensor, Shard, Staging, open_latest, open_latest_lazy,
    save_rank,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::damage::write_manifest;
use crate::make::{assert_is_step, meta, save_step};
use crate::ranks::{Layout, Tensor, assert_reads, bits, layouts, save_layout, tensors};

#[test]
fn every_layout_reads_what_every_other_saved() {
    let tensors = tensors();
    for saved in layouts() {
        let root = tempfile::tempdir().unwrap();
        let dir = save_layout(root.path(), 3, &saved, &tensors).unwrap();
        let checkpoint = open_latest(root.path()).unwrap().unwrap();
        assert_eq!(checkpoint.manifest().files.len(), saved.n_ranks, "{}", saved.name);
        assert_eq!(checkpoint.manifest().state, meta(3).state);
        for wanted in layouts() {
            assert_reads(&checkpoint, &wanted, &tensors);
            let lazy = open_latest_lazy(root.path()).unwrap().unwrap();
            assert_reads(&lazy, &wanted, &tensors);
        }
        // Whole tensors come the old ways too.
        for tensor in &tensors {
            let found = checkpoint.f32_values_of_shape(&tensor.path, &tensor.shape).unwrap();
            assert_eq!(bits(&found), bits(&tensor.values), "{} of {}", tensor.path, saved.name);
            let view = checkpoint.tensor(&tensor.path).unwrap();
            assert_eq!(view.shape, tensor.shape);
            let expected: Vec<u8> = tensor.values.iter().flat_map(|v| v.to_le_bytes()).collect();
            assert_eq!(*view.bytes, expected[..]);
        }
        assert_eq!(&*checkpoint.tensor("odd").unwrap().bytes, b"odd");
        assert_eq!(checkpoint.tensors().count(), tensors.len() + 1);
        // Every file is one that other tools read.
        for file in &checkpoint.manifest().files {
            let bytes = fs::read(dir.join(&file.name)).unwrap();
            safetensors::SafeTensors::deserialize(&bytes).unwrap();
        }
    }
}

#[test]
fn tensors_are_listed_by_rank_and_then_as_saved() {
    let root = tempfile::tempdir().unwrap();
    let layouts = layouts();
    let pipeline = layouts.iter().find(|l| l.name.starts_with("a pipeline")).unwrap();
    save_layout(root.path(), 1, pipeline, &tensors()).unwrap();
    let checkpoint = open_latest(root.path()).unwrap().unwrap();
    let order: Vec<&str> = checkpoint.manifest().tensors.iter().map(|t| &*t.path).collect();
    // The tensor of nothing, 7, is every rank's, so it comes with the first.
    let expected = [0, 3, 6, 7, 1, 4, 2, 5, 8].map(|i| format!("model/tensor.{i}"));
    assert_eq!(order[..9], expected);
    assert_eq!(order[9], "odd");
}

#[test]
fn saving_again_on_another_layout_replaces_and_on_the_same_keeps() {
    let root = tempfile::tempdir().unwrap();
    let (tensors, layouts) = (tensors(), layouts());
    for layout in &layouts {
        save_layout(root.path(), 3, layout, &tensors).unwrap();
        let checkpoint = open_latest(root.path()).unwrap().unwrap();
        assert_eq!(checkpoint.manifest().files.len(), layout.n_ranks);
        let first = checkpoint.dir().join("rank-00000.safetensors");
        let written = fs::metadata(&first).unwrap().modified().unwrap();
        save_layout(root.path(), 3, layout, &tensors).unwrap();
        assert_eq!(fs::metadata(&first).unwrap().modified().unwrap(), written);
    }
    save_step(root.path(), 3, 10).unwrap();
    assert_is_step(&open_latest(root.path()).unwrap().unwrap(), 3, 10);
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2, "leftovers");
}

#[test]
fn other_requests_than_were_saved_are_told_apart() {
    let root = tempfile::tempdir().unwrap();
    save_layout(root.path(), 3, &layouts()[6], &tensors()).unwrap();
    let checkpoint = open_latest_lazy(root.path()).unwrap().unwrap();
    let refused = |path: &str, shard: Shard| {
        let error = checkpoint.read(path, &shard).unwrap_err().to_string();
        assert!(error.contains(&root.path().display().to_string()), "{error}");
        error
    };
    let shape = refused("model/tensor.0", Shard::whole(&[6, 5]).slice(0, 0..2));
    assert!(
        shape.contains("tensor `model/tensor.0` is of shape [5, 6], expected of shape [6, 5]"),
        "{shape}"
    );
    let absent = refused("model/tensor.99", Shard::whole(&[5, 6]));
    assert!(absent.contains("has no tensor `model/tensor.99`"), "{absent}");
    let dtype = refused("odd", Shard::whole(&[3]));
    assert!(dtype.contains("tensor `odd` is U8, expected F32"), "{dtype}");
    assert_eq!(checkpoint.read_bytes("odd", &Shard::whole(&[3]).elements(1..3)).unwrap(), b"dd");
}

#[test]
#[should_panic(expected = "memory for another shard")]
fn memory_of_another_length_panics() {
    let root = tempfile::tempdir().unwrap();
    save_layout(root.path(), 3, &layouts()[0], &tensors()).unwrap();
    let checkpoint = open_latest_lazy(root.path()).unwrap().unwrap();
    let _ = checkpoint.read_into("model/tensor.1", &Shard::whole(&[7]), &mut [0.0; 6]);
}

/// Two halves of 8 values, the manifest then edited.
fn halves(change: impl FnOnce(&mut Value)) -> (tempfile::TempDir, std::path::PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let halves = Layout {
        name: "halves",
        n_ranks: 2,
        holds: |rank, _, shape| Shard::whole(shape).elements(4 * rank..4 * rank + 4),
        saves: |_, _, _| true,
    };
    let dir = save_layout(root.path(), 1, &halves, &[Tensor::new("w", &[8], 1)]).unwrap();
    let text = fs::read(dir.join("manifest.json")).unwrap();
    let mut manifest: Value = serde_json::from_slice(&text).unwrap();
    change(&mut manifest);
    write_manifest(&dir, &serde_json::to_vec(&manifest).unwrap());
    (root, dir)
}

#[test]
fn a_part_of_a_tensor_that_no_memory_holds() {
    // Four tebibytes by the manifest, all but the first four values in a file that is not even there.
    let n = 1u64 << 40;
    let (_root, dir) = halves(|m| {
        let tensor = &mut m["tensors"][0];
        assert_eq!(tensor["path"], "w");
        tensor["shape"] = json!([n]);
        for shard in tensor["shards"].as_array_mut().unwrap() {
            shard["extent"] = json!([n]);
        }
        tensor["shards"][1]["flat"] = json!([4, n]);
        let file = &mut m["files"][1];
        file["bytes"] = json!(file["bytes"].as_u64().unwrap() + (n - 8) * 4);
    });
    fs::remove_file(dir.join("rank-00001.safetensors")).unwrap();
    let checkpoint = Checkpoint::open_lazy(&dir).unwrap();
    let whole = Shard::whole(&[n as usize]);
    let expected = Tensor::new("w", &[8], 1).values;
    let found = checkpoint.read("w", &whole.clone().elements(1..4)).unwrap();
    assert_eq!(bits(&found), bits(&expected[1..4]));
    // What is not there is found missing before there is memory for it.
    for shard in [whole.clone(), whole.elements(3..5)] {
        let error = checkpoint.read("w", &shard).unwrap_err().to_string();
        assert!(error.contains("rank-00001.safetensors` is damaged: it is missing"), "{error}");
    }
    assert!(checkpoint.f32_values("w").is_err());
    assert!(checkpoint.tensor("w").is_err());
}

#[test]
fn only_what_is_needed_is_touched() {
    let (_root, dir) = halves(|_| {});
    let second = dir.join("rank-00001.safetensors");
    let mut bytes = fs::read(&second).unwrap();
    // In the last value of `w`; `odd` comes behind it.
    let at = bytes.len() - 4;
    bytes[at] ^= 1;
    fs::write(&second, bytes).unwrap();
    let checkpoint = Checkpoint::open_lazy(&dir).unwrap();
    let expected = Tensor::new("w", &[8], 1).values;
    let whole = Shard::whole(&[8]);
    let first = checkpoint.read("w", &whole.clone().elements(0..4)).unwrap();
    assert_eq!(bits(&first), bits(&expected[..4]));
    // The same file, but not the same shard.
    assert_eq!(&*checkpoint.tensor("odd").unwrap().bytes, b"odd");
    // A damaged shard is refused as a whole, also where the damage is not.
    for elements in [4..5, 3..5, 7..8] {
        let error = checkpoint.read("w", &whole.clone().elements(elements)).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("rank-00001.safetensors` is damaged: the BLAKE3 of tensor `w`"),
            "{text}"
        );
    }
    assert!(checkpoint.verify().is_err());
    assert!(Checkpoint::open(&dir).is_err());
}

#[test]
fn each_shard_is_hashed_once() {
    let (_root, dir) = halves(|_| {});
    let checkpoint = Checkpoint::open_lazy(&dir).unwrap();
    let whole = Shard::whole(&[8]);
    let expected = Tensor::new("w", &[8], 1).values;
    let read = || bits(&checkpoint.read("w", &whole).unwrap());
    assert_eq!(read(), bits(&expected));
    // Written into the mapped file: nobody does that, but it shows that no hash is taken again.
    let second = dir.join("rank-00001.safetensors");
    let file = fs::OpenOptions::new().write(true).open(&second).unwrap();
    let at = file.metadata().unwrap().len() - 4;
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xff], at).unwrap();
    assert_ne!(read(), bits(&expected));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Any grid of boxes, each in any ranges, and any part read from it.
    #[test]
    fn any_cut_is_read_by_any_other(
        shape in prop::collection::vec(1usize..6, 1..4),
        cuts in prop::collection::vec(prop::collection::vec(any::<prop::sample::Index>(), 0..2), 3),
        ranges in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        wanted in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 4),
    ) {
        // Borders in each dim, then all boxes between them.
        let mut boxes = vec![Shard::whole(&shape)];
        for (dim, &n) in shape.iter().enumerate() {
            let mut borders: Vec<usize> = cuts[dim].iter().map(|i| i.index(n + 1)).collect();
            borders.extend([0, n]);
            borders.sort_unstable();
            boxes = boxes
                .into_iter()
                .flat_map(|b| {
                    let pairs = borders.windows(2).map(|w| w[0]..w[1]);
                    pairs.map(|range| b.clone().slice(dim, range)).collect::<Vec<_>>()
                })
                .collect();
        }
        let mut parts = Vec::new();
        for b in boxes {
            let n = b.len();
            let mut borders: Vec<usize> = ranges.iter().map(|i| i.index(n + 1)).collect();
            borders.extend([0, n]);
            borders.sort_unstable();
            parts.extend(borders.windows(2).map(|w| b.clone().elements(w[0]..w[1])));
        }
        let tensor = Tensor::new("w", &shape, 3);
        let root = tempfile::tempdir().unwrap();
        let staging = Staging::begin(root.path(), 1).unwrap();
        let reports: Vec<RankFile> = parts
            .iter()
            .enumerate()
            .map(|(rank, part)| {
                let values = || tensor.part(part);
                let mut tensors = std::iter::once(SaveTensor::lazy_f32_part("w", part.clone(), values));
                save_rank(root.path(), staging.name(), rank, &mut tensors).unwrap()
            })
            .collect();
        staging.commit(&Meta::default(), reports).unwrap();

        let mut shard = Shard::whole(&shape);
        for (dim, &n) in shape.iter().enumerate() {
            let (a, b) = (wanted[dim].0.index(n + 1), wanted[dim].1.index(n + 1));
            shard = shard.slice(dim, a.min(b)..a.max(b));
        }
        let n = shard.len();
        let (a, b) = (wanted[3].0.index(n + 1), wanted[3].1.index(n + 1));
        let checkpoint = open_latest_lazy(root.path()).unwrap().unwrap();
        for shard in [shard.clone(), shard.elements(a.min(b)..a.max(b)), Shard::whole(&shape)] {
            let found = checkpoint.read("w", &shard).unwrap();
            prop_assert_eq!(bits(&found), bits(&tensor.part(&shard)));
        }
        checkpoint.verify().unwrap();
    }
}
