//! The full check of a shard: both hashes, every token, every document's text.

use rayon::prelude::*;

use super::Shard;
use super::header::{LEN, hex};
use crate::DatasetError;

impl Shard {
    /// Checks what [`Shard::open`] left: the hash of the payload, the gaps, BOS and EOS of each
    /// document, each id, and the text's UTF-8.
    pub(crate) fn verify(&self) -> Result<(), DatasetError> {
        self.check_gaps()?;
        (0..self.n_documents()).into_par_iter().try_for_each(|i| self.check_document(i))?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_rayon(&self.bytes()[LEN..]);
        let hash = hasher.finalize();
        if hash.as_bytes() != &self.header.payload_hash {
            let found = hex(&self.header.payload_hash);
            return Err(self.wrong("the hash of the content", 144, hash.to_hex(), found));
        }
        Ok(())
    }

    /// Checks the tokens and the text of document `i`.
    pub(crate) fn check_document(&self, i: usize) -> Result<(), DatasetError> {
        let (start, end) = self.document(i);
        let tokens = self.tokens(start, end);
        let at = |k: u64| self.layout.tokens.0 + (start + k) * self.header.token_bytes();
        if let Some((k, id)) = tokens.first_above(self.header.vocab_size) {
            let expected = format!("below {}", self.header.vocab_size);
            return Err(self.wrong("a token id", at(k as u64), expected, id));
        }
        let (first, last) = (tokens.at(0), tokens.at(tokens.len() - 1));
        if first != self.header.bos {
            let expected = format!("{} (BOS)", self.header.bos);
            return Err(self.wrong("the first token of a document", at(0), expected, first));
        }
        if last != self.header.eos {
            let expected = format!("{} (EOS)", self.header.eos);
            return Err(self.wrong(
                "the last token of a document",
                at(end - start - 1),
                expected,
                last,
            ));
        }
        if let Err(error) = std::str::from_utf8(self.text(i)) {
            let k = error.valid_up_to();
            let (offset, byte) = (self.text_offset(i) + k as u64, self.text(i)[k]);
            return Err(self.wrong("the text", offset, "valid UTF-8", format!("{byte:#04x}")));
        }
        Ok(())
    }

    fn check_gaps(&self) -> Result<(), DatasetError> {
        let mut end = LEN as u64;
        for (_, (start, len)) in self.layout.sections() {
            let gap = &self.bytes()[end as usize..start as usize];
            if let Some(k) = gap.iter().position(|&b| b != 0) {
                return Err(self.wrong("a gap", end + k as u64, "0", gap[k]));
            }
            end = start + len;
        }
        Ok(())
    }
}
