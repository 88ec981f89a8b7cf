use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use caravan_dataset::{DatasetError, Loader, LoaderConfig, ShardSet, Side};
use caravan_tokenizer::{ByteTokenizer, Encode};
use proptest::prelude::*;

use crate::{Dir, built, config};

/// A small set, as files: name and bytes.
static FILES: LazyLock<Vec<(String, Vec<u8>)>> = LazyLock::new(|| {
    let dir = Dir::new();
    let spec = dir.jsonl("a.jsonl", &["Hallo Welt\n", "zwei\nZeilen\n", "日本\n", "x\ny\nz\n"]);
    built(&config(vec![spec], 0.3), &dir.path("set"));
    let entries = fs::read_dir(dir.path("set")).unwrap().map(|e| e.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect()
});

fn original(name: &str) -> Vec<u8> {
    FILES.iter().find(|(n, _)| n == name).unwrap().1.clone()
}

/// The set with one file replaced.
fn with(name: &str, bytes: &[u8]) -> (Dir, PathBuf) {
    let dir = Dir::new();
    for (file, original) in FILES.iter() {
        dir.write(&format!("set/{file}"), if file == name { bytes } else { original });
    }
    let path = dir.path("set");
    (dir, path)
}

/// Opens, loads and reads everything that opens: no panic allowed, whatever the bytes.
fn use_it(path: &Path) -> Result<(), DatasetError> {
    let set = Arc::new(ShardSet::open(path)?);
    for side in [Side::Train, Side::Val] {
        for document in set.split(side).documents() {
            let _ = document.map(|d| d.tokens());
        }
        let config = LoaderConfig { seq_len: 4, ..Default::default() };
        let loader = Loader::new(set.clone(), side, config)?;
        (0..20).try_for_each(|i| {
            loader.batch(i, 2).map(|b| drop((b.inputs(), b.targets(), b.document_starts())))
        })?;
    }
    Ok(())
}

/// The layout, read by hand from the table in the documentation of the format.
#[test]
fn the_format_is_as_documented() {
    let shard = original("train-00000.shard");
    let number = |at: usize| u64::from_le_bytes(shard[at..at + 8].try_into().unwrap());
    let short = |at: usize| u32::from_le_bytes(shard[at..at + 4].try_into().unwrap());
    let all = "Hallo Welt\nzwei\nZeilen\n日本\nx\ny\nz\n";
    // 36 bytes, 30% are 10: from byte 26 on, the next line end is that of "日本".
    let train = ["Hallo Welt\n", "zwei\nZeilen\n", "日本\n"];
    assert_eq!(all.len(), 36);
    assert_eq!(&shard[..8], b"CARAVAN\0");
    assert_eq!([short(8), short(12), short(16), short(20)], [1, 256, 2, 0]);
    assert_eq!(number(24), 258);
    assert_eq!(&shard[32..64], &ByteTokenizer::new().hash().0);
    assert_eq!([short(64), short(68)], [256, 257]);
    let n_tokens = train.iter().map(|t| t.len() as u64 + 2).sum::<u64>();
    assert_eq!([number(72), number(80), number(88)], [3, n_tokens, n_tokens - 6]);
    // 36 tokens of two bytes from 256: to 328, so the ends begin at 384.
    assert_eq!(n_tokens, 36);
    assert_eq!(
        [number(96), number(104), number(112), number(120), number(128)],
        [256, 384, 448, 512, 576]
    );
    assert_eq!(number(136), 576 + 30);
    assert_eq!(shard.len(), 606);
    assert_eq!(blake3::hash(&shard[256..]).as_bytes(), &shard[144..176]);
    assert_eq!(blake3::hash(&shard[..224]).as_bytes(), &shard[224..256]);
    let token = |i: usize| u16::from_le_bytes(shard[256 + 2 * i..][..2].try_into().unwrap());
    assert_eq!([token(0), token(1), token(12), token(13)], [256, u16::from(b'H'), 257, 256]);
    assert_eq!([number(384), number(392), number(400)], [13, 27, 36]);
    assert_eq!([number(448), number(456), number(464)], [11, 23, 30]);
    assert_eq!(&shard[512..524], &[0; 12]);
    assert_eq!(&shard[576..], train.concat().as_bytes());
}

#[test]
fn the_untouched_set_is_valid() {
    let (_dir, path) = with("", b"");
    ShardSet::verify(&path).unwrap();
    use_it(&path).unwrap();
}

/// Each header field set to hostile values, with the hash of the header made right again, so that
/// only the check of the field is left.
#[test]
fn hostile_header_fields_are_refused() {
    let shard = original("train-00000.shard");
    let fields: Vec<(usize, usize)> = vec![
        (0, 8),
        (8, 4),
        (12, 4),
        (16, 4),
        (20, 4),
        (24, 8),
        (32, 8),
        (64, 4),
        (68, 4),
        (72, 8),
        (80, 8),
        (88, 8),
        (96, 8),
        (104, 8),
        (112, 8),
        (120, 8),
        (128, 8),
        (136, 8),
        (144, 8),
        (176, 8),
        (216, 8),
    ];
    for (at, len) in fields {
        let mut old = [0; 8];
        old[..len].copy_from_slice(&shard[at..at + len]);
        let old = u64::from_le_bytes(old);
        let values = [
            0,
            1,
            2,
            3,
            4,
            63,
            64,
            255,
            65_536,
            1 << 31,
            1 << 32,
            1 << 58,
            1 << 61,
            1 << 62,
            1 << 63,
            u64::MAX,
            u64::MAX - 63,
            u64::MAX / 2,
            old.wrapping_add(1),
            old.wrapping_sub(1),
            old << 1,
            old >> 1,
        ];
        for value in values {
            let mut bytes = shard.clone();
            bytes[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
            if bytes == shard {
                continue;
            }
            let hash = *blake3::hash(&bytes[..224]).as_bytes();
            bytes[224..256].copy_from_slice(&hash);
            let (_dir, path) = with("train-00000.shard", &bytes);
            let _ = use_it(&path);
            let error = ShardSet::verify(&path).unwrap_err();
            let DatasetError::Shard { path: file, .. } = &error else { panic!("{at}: {error}") };
            assert!(file.ends_with("train-00000.shard"));
            if at < 144 {
                assert!(ShardSet::open(&path).is_err(), "{value} at {at} opens");
            }
        }
    }
}

/// The sections set to hostile values, with both hashes of the shard made right again.
#[test]
fn hostile_sections_are_refused() {
    let shard = original("train-00000.shard");
    // Where, how many bytes, what the error names.
    let places = [
        (256, 2, "the first token of a document"),
        (258, 2, "a token id"),
        (256 + 2 * 12, 2, "the last token of a document"),
        (384, 8, "a document end"),
        (392, 8, "a document end"),
        (400, 8, "a document end"),
        (448, 8, "a text end"),
        (464, 8, "a text end"),
        (512, 4, "a source"),
        (520, 4, "a source"),
        (330, 2, "a gap"),
        (576, 1, "the text"),
    ];
    for (at, len, name) in places {
        for value in [300u64, u64::MAX, 0x8080_8080_8080_8080, 1 << 63, 35] {
            let mut bytes = shard.clone();
            bytes[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
            let valid = match name {
                "a token id" => (value as u16) < 258,
                "the text" => (value as u8) < 128,
                _ => false,
            };
            if bytes == shard || valid {
                continue;
            }
            let hash = *blake3::hash(&bytes[256..]).as_bytes();
            bytes[144..176].copy_from_slice(&hash);
            let hash = *blake3::hash(&bytes[..224]).as_bytes();
            bytes[224..256].copy_from_slice(&hash);
            let (_dir, path) = with("train-00000.shard", &bytes);
            let _ = use_it(&path);
            let error = ShardSet::verify(&path).unwrap_err();
            let DatasetError::Shard { field, .. } = &error else { panic!("{at}: {error}") };
            // An id of BOS or EOS that is outside the vocabulary is named as such first.
            assert!(*field == name || *field == "a token id", "{value} at {at}: {error}");
        }
    }
}

/// Files of a set exchanged: each valid in itself.
#[test]
fn shards_of_another_set_are_refused() {
    let (_dir, path) = with("train-00000.shard", &original("val-00000.shard"));
    let error = ShardSet::open(&path).unwrap_err().to_string();
    assert!(error.contains("at byte 20: the side is validation, expected training"), "{error}");
    let dir = Dir::new();
    let spec = dir.jsonl("a.jsonl", &["Hallo welt\n", "zwei\nZeilen\n", "日本\n", "x\ny\nz\n"]);
    built(&config(vec![spec], 0.3), &dir.path("set"));
    let (_dir, path) =
        with("train-00000.shard", &fs::read(dir.path("set/train-00000.shard")).unwrap());
    ShardSet::open(&path).unwrap();
    let error = ShardSet::verify(&path).unwrap_err().to_string();
    assert!(error.contains("the BLAKE3 of train-00000.shard"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// Any byte of any file changed, cut or added: the set is refused, and nothing panics on the
    /// way.
    #[test]
    fn damage_is_found(file in 0usize..3, at: prop::sample::Index, value: u8, how in 0..4) {
        let (name, original) = &FILES[file];
        let mut bytes = original.clone();
        let at = at.index(bytes.len());
        match how {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, value),
            2 => { bytes.remove(at); }
            _ => bytes[at] = value,
        }
        let (_dir, path) = with(name, &bytes);
        let _ = use_it(&path);
        let result = ShardSet::verify(&path);
        // White space and the spelling of numbers is all that may change, in the manifest.
        let same = bytes == *original || json(&bytes).is_some_and(|j| Some(j) == json(original));
        prop_assert_eq!(result.is_ok(), same, "{} at {}: {:?}", name, at, result);
        if let Err(error) = result {
            prop_assert!(error.to_string().contains("\nhelp: "), "{}", error);
        }
    }

    /// Headers of random bytes with a right magic, version and hash.
    #[test]
    fn random_headers_are_refused(random in prop::collection::vec(any::<u8>(), 224), keep in prop::collection::vec(any::<bool>(), 28)) {
        let mut bytes = original("train-00000.shard");
        for (i, keep) in keep.iter().enumerate().skip(2) {
            if !keep {
                bytes[8 * i..8 * i + 8].copy_from_slice(&random[8 * i..8 * i + 8]);
            }
        }
        let hash = *blake3::hash(&bytes[..224]).as_bytes();
        bytes[224..256].copy_from_slice(&hash);
        let (_dir, path) = with("train-00000.shard", &bytes);
        let _ = use_it(&path);
        prop_assert_eq!(ShardSet::verify(&path).is_ok(), bytes == original("train-00000.shard"));
    }
}

fn json(bytes: &[u8]) -> Option<serde_json::Value> {
    serde_json::from_slice(bytes).ok()
}
