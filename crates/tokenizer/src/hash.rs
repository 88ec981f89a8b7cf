//! The identity of a tokenizer: shards and checkpoints carry it, so that ids never meet a tokenizer
//! that did not make them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::TokenizerError;

/// BLAKE3 of a tokenizer file's bytes; shown, parsed and serialised as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenizerHash(pub [u8; 32]);

impl TokenizerHash {
    /// The hash of a tokenizer file with this content.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Display for TokenizerHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for TokenizerHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenizerHash({self})")
    }
}

impl FromStr for TokenizerHash {
    type Err = TokenizerError;

    fn from_str(text: &str) -> Result<Self, TokenizerError> {
        blake3::Hash::from_hex(text)
            .map(|hash| Self(*hash.as_bytes()))
            .map_err(|_| TokenizerError::BadHash { found: text.to_owned() })
    }
}

impl Serialize for TokenizerHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TokenizerHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(|_| {
            serde::de::Error::custom(format_args!(
                "`{text}` is no tokenizer hash, expected 64 hexadecimal digits"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BLAKE3 of no bytes, from the test vectors of the BLAKE3 paper's repository.
    const OF_NOTHING: &str = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";

    #[test]
    fn text_form_is_the_published_vector_and_parses_back() {
        let hash = TokenizerHash::of(b"");
        assert_eq!(hash.to_string(), OF_NOTHING);
        assert_eq!(OF_NOTHING.parse::<TokenizerHash>().unwrap(), hash);
        assert_eq!(serde_json::to_string(&hash).unwrap(), format!("\"{OF_NOTHING}\""));
        let back: TokenizerHash = serde_json::from_str(&format!("\"{OF_NOTHING}\"")).unwrap();
        assert_eq!(back, hash);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in
            ["", "af13", &OF_NOTHING[1..], &format!("{OF_NOTHING}0"), "zz".repeat(32).as_str()]
        {
            let message = text.parse::<TokenizerHash>().unwrap_err().to_string();
            assert!(message.contains("64 hexadecimal digits"), "{message}");
        }
        assert!(serde_json::from_str::<TokenizerHash>("\"xyz\"").is_err());
        assert!(serde_json::from_str::<TokenizerHash>("7").is_err());
    }
}
