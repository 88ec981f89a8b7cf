//! BLAKE3 as the manifest writes it.

/// Bytes from which hashing on several threads pays.
const PARALLEL: usize = 1 << 20;

/// BLAKE3 in hexadecimal, on all threads where that pays; the result does not depend on it.
pub(crate) fn hash(bytes: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new();
    if bytes.len() >= PARALLEL {
        hasher.update_rayon(bytes);
    } else {
        hasher.update(bytes);
    }
    hasher.finalize().to_hex().to_string()
}

/// Exactly what [`hash`] makes.
pub(crate) fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}
