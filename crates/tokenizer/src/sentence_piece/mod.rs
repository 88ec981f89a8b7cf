//! SentencePiece models: encoded by the `sentencepiece` library, decoded from the table of pieces.

mod charsmap;
mod check;
pub(crate) mod proto;
mod split;

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use ahash::AHashMap;
use rayon::prelude::*;
use sentencepiece::SentencePieceProcessor;

use self::proto::{ModelProto, PieceType};
use self::split::{Cuts, Stretch};
use crate::error::{Result, TokenizerError};
use crate::stream::{DecodeStream, DecodeWhole, InvalidBytes, Piece, Pieces, Prefix, Rules};
use crate::tokenizer::Engine;

/// The library keeps offsets as 32-bit numbers of normalised bytes, three for each space.
const MAX_STRETCH: usize = 1 << 29;

/// Texts up to this many bytes are encoded in one call: below it a cache of words costs more than
/// it saves.
const ONE_CALL: usize = 512;

/// A long text is encoded in blocks of about this many bytes, in parallel. Each has its own cache.
const BLOCK: usize = 1 << 18;

/// Stretches up to this many bytes are remembered within a block; longer ones hardly come twice.
const CACHED: usize = 48;

/// A SentencePiece model.
#[derive(Debug)]
pub(crate) struct SentencePiece {
    processor: Processor,
    entries: Vec<Entry>,
    names: Vec<String>,
    ids: HashMap<String, u32>,
    /// Control pieces in text order of matching: longest first.
    controls: Vec<(String, u32)>,
    bos: Option<u32>,
    eos: Option<u32>,
    rules: Rules,
    cuts: Option<Cuts>,
    /// The model rewrites decoded text, which only the library can do.
    denormalizes: bool,
}

/// How a token is shown.
#[derive(Debug)]
enum Entry {
    Text { text: String, marked: bool },
    Byte(u8),
    Control,
}

/// The library's handle.
#[derive(Debug)]
struct Processor(SentencePieceProcessor);

/// SAFETY: the handle is a pointer to a C++ `SentencePieceProcessor` that nobody else has. After
/// loading, only its `const` methods `Encode` and `Decode` are called, which the library documents
/// as safe to call from several threads: they change no member.
#[allow(unsafe_code)]
mod shared {
    unsafe impl Send for super::Processor {}
    unsafe impl Sync for super::Processor {}
}

impl SentencePiece {
    /// Reads a model and checks all that the library takes on trust.
    pub(crate) fn new(bytes: &[u8], path: &Path) -> Result<Self> {
        let model = check::model(bytes, path)?;
        let processor = SentencePieceProcessor::from_serialized_proto(bytes).map_err(|e| {
            TokenizerError::Malformed {
                path: path.to_owned(),
                kind: crate::Kind::SentencePiece.noun(),
                reason: e.to_string(),
            }
        })?;
        let mut controls: Vec<(String, u32)> = (0..)
            .zip(&model.pieces)
            .filter(|(_, p)| p.kind() == PieceType::Control)
            .map(|(id, p)| (p.text().to_owned(), id))
            .collect();
        controls.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        Ok(Self {
            bos: processor.bos_id(),
            eos: processor.eos_id(),
            entries: entries(&model),
            names: model.pieces.iter().map(|p| p.text().to_owned()).collect(),
            ids: (0..).zip(&model.pieces).map(|(id, p)| (p.text().to_owned(), id)).collect(),
            controls,
            rules: rules(&model),
            cuts: Cuts::of(&model),
            denormalizes: model.denormalizes(),
            processor: Processor(processor),
        })
    }

    /// One call of the library.
    fn call(&self, text: &str, out: &mut Vec<u32>) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        if text.len() > MAX_STRETCH {
            return Err(TokenizerError::TextTooLong { len: text.len(), limit: MAX_STRETCH });
        }
        let pieces = self.processor.0.encode(text).map_err(engine)?;
        out.extend(pieces.iter().map(|piece| piece.id));
        Ok(())
    }

    /// The ids of a stretch of a text. What a cut takes away from it is put back.
    fn stretch(&self, stretch: Stretch<'_>, out: &mut Vec<u32>) -> Result<()> {
        let at = out.len();
        self.call(stretch.text, out)?;
        if stretch.drop_prefix {
            out.remove(at);
        }
        Ok(())
    }

    /// The ids of a block, part by part, each distinct short part once.
    fn block<'t>(
        &self,
        block: Stretch<'t>,
        cuts: &Cuts,
        seen: &mut Seen<'t>,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        for stretch in cuts.parts(block, 1) {
            if stretch.text.len() > CACHED {
                self.stretch(stretch, out)?;
            } else if let Some(ids) = seen.ranges.get(&stretch) {
                out.extend_from_slice(&seen.ids[ids.clone()]);
            } else {
                let from = seen.ids.len();
                self.stretch(stretch, &mut seen.ids)?;
                out.extend_from_slice(&seen.ids[from..]);
                seen.ranges.insert(stretch, from..seen.ids.len());
            }
        }
        Ok(())
    }

    /// The ids of some texts, which share what was seen.
    fn run<'t>(&self, texts: &[&'t str]) -> Vec<Result<Vec<u32>>> {
        let mut seen: Seen<'t> = Seen::default();
        let mut all = Vec::with_capacity(texts.len());
        for &text in texts {
            all.push(match &self.cuts {
                Some(cuts) if text.len() <= BLOCK => {
                    let whole = Stretch { text, drop_prefix: false };
                    let mut ids = Vec::with_capacity(text.len() / 3);
                    self.block(whole, cuts, &mut seen, &mut ids).map(|()| ids)
                }
                _ => Engine::encode(self, text),
            });
        }
        all
    }
}

/// The ids of parts that were encoded already.
#[derive(Debug, Default)]
struct Seen<'t> {
    ranges: AHashMap<Stretch<'t>, Range<usize>>,
    ids: Vec<u32>,
}

/// Splits texts into runs of about `BLOCK` bytes; a longer text is a run of its own.
fn runs<'s, 't>(texts: &'s [&'t str]) -> Vec<&'s [&'t str]> {
    let mut runs = Vec::new();
    let (mut from, mut bytes) = (0, 0);
    for (i, text) in texts.iter().enumerate() {
        if i > from && bytes + text.len() > BLOCK {
            runs.push(&texts[from..i]);
            (from, bytes) = (i, 0);
        }
        bytes += text.len();
    }
    runs.push(&texts[from..]);
    runs
}

fn engine(source: sentencepiece::SentencePieceError) -> TokenizerError {
    TokenizerError::Engine { engine: "sentencepiece", source: Box::new(source) }
}

fn entries(model: &ModelProto) -> Vec<Entry> {
    let unknown = model.trainer().unk_surface.unwrap_or_else(|| " \u{2047} ".to_owned());
    let entry = |piece: &proto::SentencePiece| match piece.kind() {
        PieceType::Control => Entry::Control,
        PieceType::Unknown => Entry::Text { text: unknown.clone(), marked: false },
        PieceType::Byte => Entry::Byte(piece.byte().expect("checked when the model was read")),
        PieceType::Normal | PieceType::UserDefined | PieceType::Unused => Entry::Text {
            text: piece.text().replace('\u{2581}', " "),
            marked: piece.text().starts_with('\u{2581}'),
        },
    };
    model.pieces.iter().map(entry).collect()
}

fn rules(model: &ModelProto) -> Rules {
    let normalizer = model.normalizer();
    let prefix = match (normalizer.dummy_prefix(), normalizer.removes_spaces()) {
        (_, true) => Prefix::DropAll,
        (true, false) => Prefix::DropOne,
        (false, false) => Prefix::Keep,
    };
    Rules { invalid: InvalidBytes::Each, prefix }
}

impl Engine for SentencePiece {
    fn vocab_size(&self) -> usize {
        self.entries.len()
    }

    fn bos_id(&self) -> Option<u32> {
        self.bos
    }

    fn eos_id(&self) -> Option<u32> {
        self.eos
    }

    /// Its file cannot say; LLaMA 1 and 2 always do.
    fn adds_bos(&self) -> Result<bool> {
        Ok(self.bos.is_some())
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let mut out = Vec::new();
        let whole = Stretch { text, drop_prefix: false };
        match &self.cuts {
            Some(cuts) if text.len() > ONE_CALL => {
                let blocks: Vec<Stretch<'_>> = cuts.parts(whole, BLOCK).collect();
                let encode = |block: Stretch<'_>| {
                    let mut ids = Vec::with_capacity(block.text.len() / 3);
                    self.block(block, cuts, &mut Seen::default(), &mut ids).map(|()| ids)
                };
                let done: Vec<Result<Vec<u32>>> = blocks.into_par_iter().map(encode).collect();
                for ids in done {
                    out.extend(ids?);
                }
            }
            _ => self.call(text, &mut out)?,
        }
        Ok(out)
    }

    fn encode_batch(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>> {
        let done: Vec<Vec<Result<Vec<u32>>>> =
            runs(texts).into_par_iter().map(|run| self.run(run)).collect();
        done.into_iter().flatten().collect()
    }

    fn encode_with_special(&self, text: &str) -> Result<Vec<u32>> {
        let mut out = Vec::new();
        let mut plain = 0;
        let mut at = 0;
        while at < text.len() {
            let rest = &text[at..];
            if let Some((name, id)) = self.controls.iter().find(|(name, _)| rest.starts_with(name))
            {
                out.extend(Engine::encode(self, &text[plain..at])?);
                out.push(*id);
                at += name.len();
                plain = at;
            } else {
                at += rest.chars().next().map_or(1, char::len_utf8);
            }
        }
        out.extend(Engine::encode(self, &text[plain..])?);
        Ok(out)
    }

    fn decode_stream(&self) -> DecodeStream<'_> {
        if self.denormalizes {
            DecodeStream::of_whole(self)
        } else {
            DecodeStream::of_pieces(self, self.rules)
        }
    }

    fn token(&self, id: u32) -> Option<String> {
        self.names.get(id as usize).cloned()
    }

    fn id_of(&self, token: &str) -> Option<u32> {
        self.ids.get(token).copied()
    }

    fn config_json(&self) -> Option<String> {
        None
    }
}

impl Pieces for SentencePiece {
    fn n_ids(&self) -> usize {
        self.entries.len()
    }

    fn piece(&self, id: u32) -> Option<Piece<'_>> {
        Some(match self.entries.get(id as usize)? {
            Entry::Text { text, marked } => Piece::Text { text, marked: *marked },
            Entry::Byte(byte) => Piece::Bytes(std::slice::from_ref(byte)),
            Entry::Control => Piece::Silent,
        })
    }
}

impl DecodeWhole for SentencePiece {
    fn decode_whole(&self, ids: &[u32]) -> Result<String> {
        for (position, id) in ids.iter().enumerate() {
            if *id as usize >= self.entries.len() {
                return Err(crate::encode::unknown_id(*id, position, self.entries.len()));
            }
        }
        if ids.is_empty() {
            return Ok(String::new());
        }
        self.processor.0.decode_piece_ids(ids).map_err(engine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_keep_all_texts_in_order() {
        let long = "x".repeat(BLOCK + 1);
        let half = "y".repeat(BLOCK / 2);
        let texts = ["a", &half, &half, "b", &long, "c"];
        let runs = runs(&texts);
        assert_eq!(runs.concat(), texts);
        assert_eq!(runs.iter().map(|run| run.len()).collect::<Vec<_>>(), [2, 2, 1, 1]);
    }
}
