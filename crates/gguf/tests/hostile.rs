//! Files that are cut off, damaged or written to do harm: an error each time, never a panic or a large allocation.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::path::Path;

use caravan_gguf::{GgufError, Header, Quant};
use proptest::prelude::*;

/// A small file: two keys, an array, two tensors.
fn file() -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    let text = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    };
    bytes.extend(3u32.to_le_bytes());
    bytes.extend(2u64.to_le_bytes());
    bytes.extend(3u64.to_le_bytes());
    text(&mut bytes, "general.architecture");
    bytes.extend(8u32.to_le_bytes());
    text(&mut bytes, "llama");
    text(&mut bytes, "a.number");
    bytes.extend(4u32.to_le_bytes());
    bytes.extend(7u32.to_le_bytes());
    text(&mut bytes, "a.list");
    bytes.extend(9u32.to_le_bytes());
    bytes.extend(8u32.to_le_bytes());
    bytes.extend(2u64.to_le_bytes());
    text(&mut bytes, "one");
    text(&mut bytes, "two");
    for (name, dims, kind, offset) in [("x", &[32u64, 2][..], 8u32, 0u64), ("y", &[3], 0, 96)] {
        text(&mut bytes, name);
        bytes.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|dim| bytes.extend(dim.to_le_bytes()));
        bytes.extend(kind.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
    }
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes.extend([0; 96 + 12]);
    bytes
}

fn open(bytes: &[u8]) -> Result<Header, GgufError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    Header::open(file.path())
}

#[test]
fn a_sound_file_is_read() {
    let header = open(&file()).unwrap();
    assert_eq!(header.string("general.architecture").unwrap(), Some("llama"));
    assert_eq!(header.size("a.number").unwrap(), Some(7));
    assert_eq!(header.size("absent").unwrap(), None);
    let x = &header.tensors()["x"];
    assert_eq!((x.shape.as_slice(), x.quant, x.range.len()), (&[2, 32][..], Quant::Q8_0, 68));
    assert_eq!(header.tensors()["y"].range.end, file().len());
    let message = header.flag("a.number").unwrap_err().to_string();
    assert!(message.contains("`a.number` is 7, expected true or false"), "{message}");
}

#[test]
fn a_file_that_is_cut_anywhere_is_refused() {
    let whole = file();
    for n in 0..whole.len() {
        let message = open(&whole[..n]).unwrap_err().to_string();
        assert!(message.contains("\nhelp: "), "{n}: {message}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    let changed = |at: usize, value: &[u8]| {
        let mut bytes = file();
        bytes[at..at + value.len()].copy_from_slice(value);
        open(&bytes).unwrap_err().to_string()
    };
    assert!(changed(0, b"GGML").contains("does not begin with `GGUF`"));
    assert!(changed(4, &1u32.to_le_bytes()).contains("version 1"));
    assert!(changed(4, &3u32.to_be_bytes()).contains("big-endian"));
    assert!(
        changed(8, &u64::MAX.to_le_bytes()).contains("damaged at byte 8: the number of tensors")
    );
    let at = |what: &[u8]| file().windows(what.len()).position(|w| w == what).unwrap();
    let message = changed(at(b"a.number") - 8, &(1u64 << 60).to_le_bytes());
    assert!(message.contains("a metadata key has the length 1152921504606846976"), "{message}");
    // Behind the name of `x`: dims, sizes, type, place.
    let x = at(b"\x01\0\0\0\0\0\0\0x\x02") + 9;
    assert!(changed(x, &9u32.to_le_bytes()).contains("`x` has 9 dims"));
    assert!(changed(x + 4, &31u64.to_le_bytes()).contains("[2, 31], which Q8_0 cannot store"));
    assert!(changed(x + 20, &10u32.to_le_bytes()).contains("type Q2_K"));
    assert!(changed(x + 24, &1000u64.to_le_bytes()).contains("`x` reaches past the end"));
    assert!(
        Header::open(Path::new("/no/such/file")).unwrap_err().to_string().contains("cannot read")
    );
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(
        changes in proptest::collection::vec((0usize..300, any::<u8>()), 1..6),
    ) {
        let mut bytes = file();
        for (at, value) in changes {
            let n = bytes.len();
            bytes[at % n] = value;
        }
        if let Ok(header) = open(&bytes) {
            for info in header.tensors().values() {
                let data = &bytes[info.range.clone()];
                prop_assert_eq!(info.quant.decode(data).len(), info.shape.iter().product::<usize>());
            }
        }
    }
}
