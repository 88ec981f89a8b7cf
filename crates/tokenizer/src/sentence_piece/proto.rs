//! The messages of `sentencepiece_model.proto` that this crate reads or writes, with its field
//! numbers and defaults. Fields that are not listed are skipped when reading.

/// A whole model file.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pub(crate) pieces: Vec<SentencePiece>,
    #[prost(message, optional, tag = "2")]
    pub(crate) trainer_spec: Option<TrainerSpec>,
    #[prost(message, optional, tag = "3")]
    pub(crate) normalizer_spec: Option<NormalizerSpec>,
    #[prost(message, optional, tag = "5")]
    pub(crate) denormalizer_spec: Option<NormalizerSpec>,
}

/// One token.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SentencePiece {
    #[prost(string, optional, tag = "1")]
    pub(crate) piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    pub(crate) score: Option<f32>,
    #[prost(enumeration = "PieceType", optional, tag = "3")]
    pub(crate) r#type: Option<i32>,
}

/// What a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum PieceType {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// How the model was trained.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TrainerSpec {
    #[prost(int32, optional, tag = "3")]
    pub(crate) model_type: Option<i32>,
    #[prost(int32, optional, tag = "4")]
    pub(crate) vocab_size: Option<i32>,
    #[prost(float, optional, tag = "10")]
    pub(crate) character_coverage: Option<f32>,
    #[prost(int32, optional, tag = "20")]
    pub(crate) max_sentencepiece_length: Option<i32>,
    #[prost(bool, optional, tag = "21")]
    pub(crate) split_by_unicode_script: Option<bool>,
    #[prost(bool, optional, tag = "22")]
    pub(crate) split_by_whitespace: Option<bool>,
    #[prost(bool, optional, tag = "23")]
    pub(crate) split_by_number: Option<bool>,
    #[prost(bool, optional, tag = "24")]
    pub(crate) treat_whitespace_as_suffix: Option<bool>,
    #[prost(bool, optional, tag = "25")]
    pub(crate) split_digits: Option<bool>,
    #[prost(bool, optional, tag = "26")]
    pub(crate) allow_whitespace_only_pieces: Option<bool>,
    #[prost(bool, optional, tag = "33")]
    pub(crate) hard_vocab_limit: Option<bool>,
    #[prost(bool, optional, tag = "35")]
    pub(crate) byte_fallback: Option<bool>,
    #[prost(int32, optional, tag = "40")]
    pub(crate) unk_id: Option<i32>,
    #[prost(int32, optional, tag = "41")]
    pub(crate) bos_id: Option<i32>,
    #[prost(int32, optional, tag = "42")]
    pub(crate) eos_id: Option<i32>,
    #[prost(int32, optional, tag = "43")]
    pub(crate) pad_id: Option<i32>,
    #[prost(string, optional, tag = "44")]
    pub(crate) unk_surface: Option<String>,
    #[prost(string, optional, tag = "45")]
    pub(crate) unk_piece: Option<String>,
    #[prost(string, optional, tag = "46")]
    pub(crate) bos_piece: Option<String>,
    #[prost(string, optional, tag = "47")]
    pub(crate) eos_piece: Option<String>,
    #[prost(string, optional, tag = "48")]
    pub(crate) pad_piece: Option<String>,
}

/// `TrainerSpec.ModelType.BPE`; the default is 1, UNIGRAM.
pub(crate) const BPE: i32 = 2;

/// What happens to text before it is encoded.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct NormalizerSpec {
    #[prost(string, optional, tag = "1")]
    pub(crate) name: Option<String>,
    #[prost(bytes = "vec", optional, tag = "2")]
    pub(crate) precompiled_charsmap: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "3")]
    pub(crate) add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    pub(crate) remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5")]
    pub(crate) escape_whitespaces: Option<bool>,
}

impl ModelProto {
    pub(crate) fn trainer(&self) -> TrainerSpec {
        self.trainer_spec.clone().unwrap_or_default()
    }

    pub(crate) fn normalizer(&self) -> NormalizerSpec {
        self.normalizer_spec.clone().unwrap_or_default()
    }

    /// Whether decoded text is rewritten.
    pub(crate) fn denormalizes(&self) -> bool {
        self.denormalizer_spec.as_ref().is_some_and(|spec| !spec.charsmap().is_empty())
    }
}

impl SentencePiece {
    pub(crate) fn text(&self) -> &str {
        self.piece.as_deref().unwrap_or_default()
    }

    pub(crate) fn kind(&self) -> PieceType {
        self.r#type.and_then(|t| PieceType::try_from(t).ok()).unwrap_or(PieceType::Normal)
    }

    /// The byte of a piece such as `<0x0A>`.
    pub(crate) fn byte(&self) -> Option<u8> {
        let hex = self.text().strip_prefix("<0x")?.strip_suffix('>')?;
        let canonical = hex.len() == 2 && !hex.bytes().any(|b| b.is_ascii_lowercase() || b == b'+');
        canonical.then(|| u8::from_str_radix(hex, 16).ok())?
    }
}

impl NormalizerSpec {
    pub(crate) fn charsmap(&self) -> &[u8] {
        self.precompiled_charsmap.as_deref().unwrap_or_default()
    }

    pub(crate) fn dummy_prefix(&self) -> bool {
        self.add_dummy_prefix.unwrap_or(true)
    }

    pub(crate) fn removes_spaces(&self) -> bool {
        self.remove_extra_whitespaces.unwrap_or(true)
    }

    pub(crate) fn escapes_spaces(&self) -> bool {
        self.escape_whitespaces.unwrap_or(true)
    }
}
