//! The `.model` file of a training.

use prost::Message;

use super::{N_BYTES, N_SPECIAL, TrainConfig};
use crate::sentence_piece::proto::{
    BPE, ModelProto, NormalizerSpec, PieceType, SentencePiece, TrainerSpec,
};

/// Special tokens, bytes, merges by rank, characters by frequency: LLaMA's order. The score of a
/// piece is its negative rank, so that the library merges in the order of training.
pub(super) fn write(config: &TrainConfig, merges: &[String], alphabet: &[char]) -> Vec<u8> {
    let piece = |text: String, score: f32, kind: PieceType| SentencePiece {
        piece: Some(text),
        score: Some(score),
        r#type: (kind != PieceType::Normal).then_some(kind as i32),
    };
    let mut pieces = vec![
        piece("<unk>".to_owned(), 0.0, PieceType::Unknown),
        piece("<s>".to_owned(), 0.0, PieceType::Control),
        piece("</s>".to_owned(), 0.0, PieceType::Control),
    ];
    debug_assert_eq!(pieces.len(), N_SPECIAL);
    pieces.extend((0..N_BYTES).map(|b| piece(format!("<0x{b:02X}>"), 0.0, PieceType::Byte)));
    let characters = alphabet.iter().map(char::to_string);
    for (rank, text) in merges.iter().cloned().chain(characters).enumerate() {
        pieces.push(piece(text, -(rank as f32), PieceType::Normal));
    }
    let model = ModelProto {
        trainer_spec: Some(trainer_spec(config)),
        normalizer_spec: Some(normalizer_spec()),
        denormalizer_spec: None,
        pieces,
    };
    model.encode_to_vec()
}

fn trainer_spec(config: &TrainConfig) -> TrainerSpec {
    TrainerSpec {
        model_type: Some(BPE),
        vocab_size: i32::try_from(config.vocab_size).ok(),
        character_coverage: Some(config.character_coverage as f32),
        max_sentencepiece_length: i32::try_from(config.max_piece_chars).ok(),
        split_by_unicode_script: Some(true),
        split_by_whitespace: Some(true),
        split_by_number: Some(true),
        treat_whitespace_as_suffix: Some(false),
        split_digits: Some(config.split_digits),
        allow_whitespace_only_pieces: Some(false),
        hard_vocab_limit: Some(true),
        byte_fallback: Some(true),
        unk_id: Some(0),
        bos_id: Some(1),
        eos_id: Some(2),
        pad_id: Some(-1),
        unk_surface: None,
        unk_piece: Some("<unk>".to_owned()),
        bos_piece: Some("<s>".to_owned()),
        eos_piece: Some("</s>".to_owned()),
        pad_piece: Some("<pad>".to_owned()),
    }
}

fn normalizer_spec() -> NormalizerSpec {
    NormalizerSpec {
        name: Some("identity".to_owned()),
        precompiled_charsmap: Some(Vec::new()),
        add_dummy_prefix: Some(true),
        remove_extra_whitespaces: Some(false),
        escape_whitespaces: Some(true),
    }
}
