//! The table of character rewrites (`nmt_nfkc` and such) that a foreign model may carry.
//!
//! The library walks it without bounds checks and the wrapper takes its output for UTF-8, so a
//! flipped bit could read past its end or panic. Everything the walk can reach is checked here.
//!
//! # Reference
//! `Normalizer::DecodePrecompiledCharsMap` of sentencepiece, and the double array of Darts-clone.

/// Bytes of one unit of the double array.
const UNIT: usize = 4;

/// Checks a table: `trie size: u32`, the double array, replacement texts that end with NUL.
pub(super) fn check(blob: &[u8]) -> Result<(), String> {
    if blob.is_empty() {
        return Ok(());
    }
    let (size, rest) = blob.split_first_chunk::<4>().ok_or("shorter than its size field")?;
    let size = u32::from_le_bytes(*size) as usize;
    if size < 1024 || !size.is_multiple_of(1024) || size >= rest.len() {
        return Err(format!("trie of {size} bytes in {} bytes", rest.len()));
    }
    let (trie, texts) = rest.split_at(size);
    let texts = std::str::from_utf8(texts).map_err(|e| format!("replacement texts: {e}"))?;
    if !texts.ends_with('\0') {
        return Err("replacement texts do not end with NUL".to_owned());
    }
    let n_blocks = size / UNIT / 256;
    for (i, unit) in trie.as_chunks::<UNIT>().0.iter().enumerate() {
        let unit = u32::from_le_bytes(*unit);
        if unit >> 31 == 1 {
            // A leaf: the offset of a replacement.
            let value = (unit & 0x7FFF_FFFF) as usize;
            if !texts.is_char_boundary(value) {
                return Err(format!("unit {i} points to byte {value} of the replacement texts"));
            }
        } else {
            // An inner node: its children lie in the block of 256 units it points to.
            let offset = (unit >> 10) << ((unit & (1 << 9)) >> 6);
            let children = i ^ offset as usize;
            if children / 256 >= n_blocks {
                return Err(format!("unit {i} points to unit {children} of {}", n_blocks * 256));
            }
        }
    }
    Ok(())
}
