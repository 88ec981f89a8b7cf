//! Any tokenizer that was read from a file.

use std::fmt::Debug;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::encode::Encode;
use crate::error::{Result, TokenizerError};
use crate::hash::TokenizerHash;
use crate::sniff::{Kind, kind_of};
use crate::stream::DecodeStream;

/// A tokenizer read from a file, with the bytes of that file.
///
/// It encodes and decodes through [`Encode`].
#[derive(Debug)]
pub struct Tokenizer {
    kind: Kind,
    bytes: Vec<u8>,
    hash: TokenizerHash,
    adds_bos: bool,
    engine: Box<dyn Engine>,
}

impl Tokenizer {
    /// Reads a SentencePiece `.model`, a `tokenizer.json`, a folder that holds one, or the tokenizer of a GGUF file, which
    /// becomes one of the two: [`kind`](Self::kind) and [`bytes`](Self::bytes) are then those of that form.
    ///
    /// The content decides which it is, not the name. In a folder `tokenizer.model` goes before
    /// `tokenizer.json`, unless it is no SentencePiece model (LLaMA 3 has a tiktoken file of that
    /// name). BOS and EOS of a `tokenizer.json` are those that `tokenizer_config.json` or
    /// `config.json` beside it state, otherwise those with a usual name, such as `<s>` or
    /// `<|begin_of_text|>`.
    ///
    /// # Errors
    /// The path is missing or unreadable, or the file is empty, cut off, damaged, of another kind,
    /// or of a kind whose feature is not compiled in.
    pub fn load(path: &Path) -> Result<Self> {
        let path = &file_of(path)?;
        if caravan_gguf::Header::is_gguf(path) {
            return Self::of_gguf(path);
        }
        let bytes = std::fs::read(path).map_err(io("reading", path))?;
        Self::new(bytes, path, path.parent())
    }

    /// Reads a tokenizer from the bytes of its file. `path` is what error messages call it.
    ///
    /// # Errors
    /// As [`Tokenizer::load`].
    pub fn from_bytes(bytes: impl Into<Vec<u8>>, path: &Path) -> Result<Self> {
        Self::new(bytes.into(), path, None)
    }

    /// The same tokenizer for a model whose every text begins with BOS, whatever the tokenizer's files say: such are all that
    /// are trained here.
    #[must_use]
    pub fn beginning_with_bos(mut self) -> Self {
        self.adds_bos = self.engine.bos_id().is_some();
        self
    }

    /// Which kind of file it came from.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The name of its file in a model's folder: `tokenizer.model` or `tokenizer.json`.
    #[must_use]
    pub fn file_name(&self) -> &'static str {
        self.kind.file_name()
    }

    /// The bytes of the file it was read from.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Writes the file into a folder, whole or not at all, and returns its path. Beside a
    /// `tokenizer.json` goes a `tokenizer_config.json` that states BOS and EOS, which the file
    /// itself cannot; one that is there already is kept.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn save_into(&self, dir: &Path) -> Result<PathBuf> {
        let path = dir.join(self.file_name());
        write_whole(&path, &self.bytes)?;
        let config = dir.join("tokenizer_config.json");
        if let Some(text) = self.engine.config_json()
            && !config.exists()
        {
            write_whole(&config, text.as_bytes())?;
        }
        Ok(path)
    }

    /// The ids of a text in which special tokens are special: their names in the text become their
    /// ids. Only for text whose origin is trusted, such as a chat template.
    ///
    /// With SentencePiece, each stretch between two special tokens is encoded as a text of its own
    /// (so that it begins with the dummy prefix), as Meta's LLaMA 2 code does.
    ///
    /// # Errors
    /// As [`Encode::encode`].
    pub fn encode_with_special(&self, text: &str) -> Result<Vec<u32>> {
        self.engine.encode_with_special(text)
    }

    /// The name of a token as the file has it, such as `▁the` or `<0x0A>`; none if the id names no
    /// token.
    #[must_use]
    pub fn token(&self, id: u32) -> Option<String> {
        self.engine.token(id)
    }

    /// The id of the token with exactly this name.
    #[must_use]
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.engine.id_of(token)
    }

    fn new(bytes: Vec<u8>, path: &Path, folder: Option<&Path>) -> Result<Self> {
        let kind = kind_of(&bytes, path)?;
        Self::of_kind(kind, bytes, path, folder.map_or(Ends::ByName, Ends::Beside))
    }

    #[cfg(all(feature = "sentencepiece", feature = "huggingface"))]
    fn of_gguf(path: &Path) -> Result<Self> {
        let crate::gguf::Converted { kind, bytes, bos, eos } = crate::gguf::convert(path)?;
        Self::of_kind(kind, bytes, path, Ends::Stated { bos, eos })
    }

    #[cfg(not(all(feature = "sentencepiece", feature = "huggingface")))]
    fn of_gguf(path: &Path) -> Result<Self> {
        let feature = "sentencepiece,huggingface";
        Err(TokenizerError::FeatureMissing { path: path.to_owned(), kind: "GGUF file", feature })
    }

    fn of_kind(kind: Kind, bytes: Vec<u8>, path: &Path, ends: Ends<'_>) -> Result<Self> {
        let hash = TokenizerHash::of(&bytes);
        let engine = engine(kind, &bytes, path, ends)?;
        Ok(Self { kind, bytes, hash, adds_bos: engine.adds_bos()?, engine })
    }
}

impl Encode for Tokenizer {
    fn vocab_size(&self) -> usize {
        self.engine.vocab_size()
    }

    fn bos_id(&self) -> Option<u32> {
        self.engine.bos_id()
    }

    fn eos_id(&self) -> Option<u32> {
        self.engine.eos_id()
    }

    fn adds_bos(&self) -> bool {
        self.adds_bos
    }

    fn hash(&self) -> TokenizerHash {
        self.hash
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.engine.encode(text)
    }

    fn encode_batch(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>> {
        self.engine.encode_batch(texts)
    }

    fn decode(&self, ids: &[u32]) -> Result<String> {
        self.engine.decode_stream().all(ids)
    }

    fn decode_stream(&self) -> DecodeStream<'_> {
        self.engine.decode_stream()
    }
}

/// Where BOS and EOS of a tokenizer without its own are stated.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(all(feature = "sentencepiece", feature = "huggingface")),
    allow(dead_code, reason = "a reader that is not compiled in reads nothing")
)]
pub(crate) enum Ends<'a> {
    /// Nowhere: tokens with a usual name.
    ByName,
    /// In files of this folder, if it has such.
    Beside(&'a Path),
    /// Here.
    Stated {
        /// Begins a document.
        bos: Option<u32>,
        /// Ends one.
        eos: Option<u32>,
    },
}

/// What a kind of tokenizer must do.
pub(crate) trait Engine: Debug + Send + Sync {
    fn vocab_size(&self) -> usize;
    fn bos_id(&self) -> Option<u32>;
    fn eos_id(&self) -> Option<u32>;
    /// Whether the files say that a text begins with BOS.
    fn adds_bos(&self) -> Result<bool>;
    fn encode(&self, text: &str) -> Result<Vec<u32>>;
    fn encode_batch(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>>;
    fn encode_with_special(&self, text: &str) -> Result<Vec<u32>>;
    fn decode_stream(&self) -> DecodeStream<'_>;
    fn token(&self, id: u32) -> Option<String>;
    fn id_of(&self, token: &str) -> Option<u32>;
    /// The `tokenizer_config.json` that goes with the file, if it needs one.
    fn config_json(&self) -> Option<String>;
}

#[cfg_attr(
    not(feature = "huggingface"),
    allow(unused_variables, reason = "a reader that is not compiled in reads nothing")
)]
fn engine(kind: Kind, bytes: &[u8], path: &Path, ends: Ends<'_>) -> Result<Box<dyn Engine>> {
    match kind {
        #[cfg(feature = "sentencepiece")]
        Kind::SentencePiece => {
            Ok(Box::new(crate::sentence_piece::SentencePiece::new(bytes, path)?))
        }
        #[cfg(feature = "huggingface")]
        Kind::HuggingFace => {
            Ok(Box::new(crate::hugging_face::HuggingFace::new(bytes, path, ends)?))
        }
        #[cfg(not(all(feature = "sentencepiece", feature = "huggingface")))]
        _ => Err(TokenizerError::FeatureMissing {
            path: path.to_owned(),
            kind: kind.noun(),
            feature: kind.feature(),
        }),
    }
}

/// The file that a path means: itself, or the tokenizer in a folder.
fn file_of(path: &Path) -> Result<PathBuf> {
    let meta = std::fs::metadata(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => TokenizerError::Missing { path: path.to_owned() },
        _ => io("reading", path)(e),
    })?;
    if !meta.is_dir() {
        return Ok(path.to_owned());
    }
    let model = path.join(Kind::SentencePiece.file_name());
    let json = path.join(Kind::HuggingFace.file_name());
    match (model.is_file(), json.is_file()) {
        (true, true) => {
            let bytes = std::fs::read(&model).map_err(io("reading", &model))?;
            let other =
                matches!(kind_of(&bytes, &model), Err(TokenizerError::NotATokenizer { .. }));
            Ok(if other { json } else { model })
        }
        (true, false) => Ok(model),
        (false, true) => Ok(json),
        (false, false) => Err(TokenizerError::NoTokenizerInFolder { path: path.to_owned() }),
    }
}

/// Writes beside and renames, so that a reader sees the old file or the new one.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let beside = path.with_file_name(name);
    let written = std::fs::File::create(&beside)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&beside, path));
    written.map_err(|e| {
        // The first error is the one to tell; what is left over is at most one small file.
        let _ = std::fs::remove_file(&beside);
        io("writing", path)(e)
    })
}

fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> TokenizerError {
    let path = path.to_owned();
    move |source| TokenizerError::Io { doing, path, source }
}

#[cfg(all(test, not(feature = "sentencepiece")))]
mod tests {
    use super::*;

    #[test]
    fn a_kind_that_is_not_compiled_in_is_named_with_its_feature() {
        let model = b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02";
        let message = Tokenizer::from_bytes(*model, Path::new("x.model")).unwrap_err().to_string();
        assert!(message.starts_with("`x.model` is a SentencePiece model, which this build"));
        assert!(message.ends_with("with the feature `sentencepiece`"));
    }
}
