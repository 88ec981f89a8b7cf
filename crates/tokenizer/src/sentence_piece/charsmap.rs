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

#[cfg(test)]
mod tests {
    use super::*;

    /// A table of one block of units and some texts.
    fn table(units: &[(usize, u32)], texts: &[u8]) -> Vec<u8> {
        let mut trie = vec![0; 1024];
        for (i, unit) in units {
            trie[UNIT * i..][..UNIT].copy_from_slice(&unit.to_le_bytes());
        }
        [&1024_u32.to_le_bytes(), trie.as_slice(), texts].concat()
    }

    #[test]
    fn what_stays_inside_is_taken() {
        check(&[]).unwrap();
        check(&table(&[], b"\0")).unwrap();
        // A node whose children are in its own block, and a leaf that points to the second text.
        check(&table(&[(0, 7 << 10), (9, 1 << 31 | 3)], "é\0a\0".as_bytes())).unwrap();
    }

    #[test]
    fn what_leads_outside_is_refused() {
        let fault = |blob: &[u8]| check(blob).unwrap_err();
        assert_eq!(fault(&[1, 2]), "shorter than its size field");
        assert!(fault(&table(&[], b"")).starts_with("trie of 1024 bytes in 1024"));
        assert!(fault(&table(&[], b"a")).contains("do not end with NUL"));
        assert!(fault(&table(&[], b"\xFF\0")).starts_with("replacement texts: invalid utf-8"));
        // 256 units on; the second form of an offset, in steps of 256.
        assert!(fault(&table(&[(3, 256 << 10)], b"\0")).starts_with("unit 3 points to unit 259"));
        assert!(
            fault(&table(&[(0, 1 << 10 | 1 << 9)], b"\0")).starts_with("unit 0 points to unit 256")
        );
        // Behind the texts, and into the middle of a character.
        assert!(fault(&table(&[(0, 1 << 31 | 9)], b"\0")).contains("byte 9 of the replacement"));
        assert!(fault(&table(&[(0, 1 << 31 | 1)], "é\0".as_bytes())).contains("byte 1"));
    }
}
