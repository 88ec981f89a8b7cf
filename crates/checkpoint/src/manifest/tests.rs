use super::*;

#[test]
fn file_names_are_exactly_ours() {
    assert!(is_file_name(&file_name(0)) && is_file_name(&file_name(99_999)));
    for bad in [
        "",
        "rank-.safetensors",
        "rank-0000.safetensors",
        "rank-000000.safetensors",
        "rank-0000a.safetensors",
        "../rank-00000.safetensors",
        "rank-00000.safetensors/",
        "rank-00000.safetensors\0",
        "rank-٠٠٠٠٠.safetensors",
    ] {
        assert!(!is_file_name(bad), "{bad:?}");
    }
}

/// A tensor that lies in the files of several ranks.
fn sharded(ranges: &[(usize, usize, usize)]) -> Result<(), String> {
    let hash = "0".repeat(64);
    let shards = ranges.iter().map(|&(rank, start, end)| ShardEntry {
        file: file_name(rank),
        start: vec![0, 0],
        extent: vec![4, 3],
        flat: [start, end],
        blake3: hash.clone(),
    });
    let tensor = TensorEntry {
        path: "w".to_owned(),
        dtype: Dtype::F32,
        shape: vec![4, 3],
        shards: shards.collect(),
    };
    let files = (0..3).map(|rank| {
        let of_rank = ranges.iter().filter(|r| r.0 == rank);
        let held: usize = of_rank.map(|r| r.2.saturating_sub(r.1)).sum();
        FileEntry {
            name: file_name(rank),
            bytes: 8 + held as u64 * 4,
            header_bytes: 8,
            header_blake3: hash.clone(),
        }
    });
    let manifest = Manifest {
        format_version: FORMAT_VERSION,
        step: 1,
        config: Value::Null,
        tokenizer_hash: String::new(),
        data: Value::Null,
        state: Value::Null,
        tensors: vec![tensor],
        files: files.collect(),
    };
    manifest.check()
}

#[test]
fn shards_of_several_ranks_must_tile_the_tensor() {
    assert_eq!(sharded(&[(0, 0, 5), (1, 5, 5), (2, 5, 12)]), Ok(()));
    assert_eq!(sharded(&[(1, 5, 12), (0, 0, 5)]), Ok(()));
    for (ranges, expected) in [
        (
            &[(0, 0, 5), (1, 6, 12)][..],
            "tensor `w` of shape [4, 3]: elements 5..6 of [0..4, 0..3] are in no file",
        ),
        (
            &[(0, 0, 5), (1, 4, 12)],
            "elements 4..5 of [0..4, 0..3] are in `rank-00000.safetensors` and in `rank-00001",
        ),
        (&[(0, 0, 5), (1, 5, 13)], "tensor `w` in `rank-00001.safetensors`: elements 5..13"),
        (&[(0, 0, 5), (0, 5, 12)], "tensor `w` has two shards in `rank-00000.safetensors`"),
    ] {
        let message = sharded(ranges).unwrap_err();
        assert!(message.contains(expected), "{message}");
    }
}
