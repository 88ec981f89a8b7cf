//! What a server allows.

use std::time::Duration;

/// Bounds on what clients can ask for and hold.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Choices that are written at once.
    pub slots: usize,
    /// Choices that may wait beside them; one more is answered with 429.
    pub queue: usize,
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// Largest `max_tokens` of a choice.
    pub max_tokens: usize,
    /// Connections at once; more wait to be accepted.
    pub connections: usize,
    /// How long a client may take for the headers, and then for the body.
    pub read: Duration,
    /// How long running requests may go on after the server was told to stop.
    pub shutdown: Duration,
    /// The key that requests must bear, if there is one.
    pub api_key: Option<String>,
}

impl Default for Limits {
    /// 64 slots, 256 waiting, bodies of 1 MiB, 4,096 tokens, 1,024 connections, 30 seconds to read, 30 to stop, no key.
    fn default() -> Self {
        Self {
            slots: 64,
            queue: 256,
            body_bytes: 1 << 20,
            max_tokens: 4096,
            connections: 1024,
            read: Duration::from_secs(30),
            shutdown: Duration::from_secs(30),
            api_key: None,
        }
    }
}

/// Whether two secrets are equal, in a time that depends on their lengths alone.
pub(crate) fn same_secret(given: &[u8], expected: &[u8]) -> bool {
    let mut difference = given.len() ^ expected.len();
    for (i, byte) in given.iter().enumerate() {
        // Cyclic, so that a wrong length takes as long as a right one.
        let other = expected.get(i % expected.len().max(1)).copied().unwrap_or(0);
        difference |= usize::from(byte ^ other);
    }
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::same_secret;

    #[test]
    fn secrets_are_equal_or_not() {
        assert!(same_secret(b"abc", b"abc") && same_secret(b"", b""));
        for wrong in [&b"abd"[..], b"ab", b"abcd", b"", b"abcabc"] {
            assert!(!same_secret(wrong, b"abc"), "{wrong:?}");
        }
        assert!(!same_secret(b"abc", b""));
    }
}
