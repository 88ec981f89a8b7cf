//! The tokenizer inside a GGUF file, turned into the file that the same tokenizer has elsewhere: a SentencePiece model or a
//! `tokenizer.json`. So it encodes with the same code, has an identity, and can be saved beside an export.
//!
//! `tokenizer.ggml.model` says which: `llama` is SentencePiece's BPE with scores, `gpt2` is byte-level BPE with merges, whose
//! `tokenizer.ggml.pre` names the rule that cuts text into words first.
//!
//! # Reference
//! `src/llama-vocab.cpp` of ggml-org/llama.cpp (`llm_tokenizer_spm`, `llm_tokenizer_bpe`), `docs/gguf.md` of ggml-org/ggml.

use std::path::Path;

use caravan_gguf::{Array, Header, Value};
use prost::Message as _;
use serde_json::{Map, Value as Json, json};

use crate::error::Result;
use crate::sentence_piece::proto::{
    BPE, ModelProto, NormalizerSpec, PieceType, SentencePiece, TrainerSpec,
};
use crate::sniff::Kind;

/// What the file says, in the form of another one.
#[derive(Debug)]
pub(crate) struct Converted {
    pub(crate) kind: Kind,
    pub(crate) bytes: Vec<u8>,
    pub(crate) bos: Option<u32>,
    pub(crate) eos: Option<u32>,
}

const MODEL: &str = "tokenizer.ggml.model";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";

/// `token_type` of ggml, the same numbers as SentencePiece's.
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// Reads the tokenizer of a GGUF file.
///
/// # Errors
/// The file is damaged, holds no tokenizer or one of a kind or rule that is not known here.
pub(crate) fn convert(path: &Path) -> Result<Converted> {
    let header = Header::open(path)?;
    let vocabulary = Vocabulary::of(&header)?;
    let id = |name: &str| -> Result<Option<u32>> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let Some(id) = header.size(&key)? else { return Ok(None) };
        if id >= vocabulary.tokens.len() {
            let expected = format!("below {}, the number of tokens", vocabulary.tokens.len());
            return Err(header.wrong(&key, &expected).into());
        }
        Ok(u32::try_from(id).ok())
    };
    let (bos, eos) = (id("bos")?, id("eos")?);
    let adds_bos = header.flag("tokenizer.ggml.add_bos_token")?;
    let (kind, bytes) = match header.string(MODEL)? {
        Some("llama") => {
            (Kind::SentencePiece, scores(&header, &vocabulary, [bos, eos], id("unknown")?)?)
        }
        Some("gpt2") => {
            let rule = rule(&header)?;
            let bos = bos.filter(|_| adds_bos.unwrap_or(rule.adds_bos));
            (Kind::HuggingFace, merges(&header, &vocabulary, rule, bos)?)
        }
        _ => {
            let help = "take the tokenizer.json or tokenizer.model of the model";
            return Err(header.wrong_with(MODEL, "\"llama\" or \"gpt2\"", help).into());
        }
    };
    Ok(Converted { kind, bytes, bos, eos })
}

/// Names and types of all tokens.
struct Vocabulary {
    tokens: Vec<String>,
    types: Vec<i64>,
}

impl Vocabulary {
    fn of(header: &Header) -> Result<Self> {
        let Some(Value::Array(Array::String(names))) = header.metadata().get(TOKENS) else {
            return Err(header.wrong(TOKENS, "a list of texts").into());
        };
        let text = |name: &Vec<u8>| String::from_utf8(name.clone());
        let tokens: std::result::Result<Vec<String>, _> = names.iter().map(text).collect();
        let tokens = tokens.map_err(|_| header.wrong(TOKENS, "a list of texts in UTF-8"))?;
        let types = match header.metadata().get(TYPES) {
            None => vec![1; tokens.len()],
            Some(Value::Array(Array::Signed(types))) if types.len() == tokens.len() => {
                types.clone()
            }
            Some(Value::Array(Array::Unsigned(types))) if types.len() == tokens.len() => {
                types.iter().map(|t| i64::try_from(*t).unwrap_or(0)).collect()
            }
            Some(_) => {
                let expected = format!("a list of {} numbers, one for each token", tokens.len());
                return Err(header.wrong(TYPES, &expected).into());
            }
        };
        Ok(Self { tokens, types })
    }
}

fn scores(
    header: &Header,
    vocabulary: &Vocabulary,
    [bos, eos]: [Option<u32>; 2],
    unknown: Option<u32>,
) -> Result<Vec<u8>> {
    const SCORES: &str = "tokenizer.ggml.scores";
    let n = vocabulary.tokens.len();
    let scores = match header.metadata().get(SCORES) {
        Some(Value::Array(Array::Float(scores))) if scores.len() == n => scores,
        _ => {
            let expected = format!("a list of {n} numbers, one for each token");
            return Err(header.wrong(SCORES, &expected).into());
        }
    };
    let pieces = vocabulary.tokens.iter().zip(&vocabulary.types).zip(scores);
    let pieces = pieces.map(|((token, kind), score)| {
        let kind = i32::try_from(*kind).ok().filter(|kind| PieceType::try_from(*kind).is_ok());
        let kind = kind.ok_or_else(|| header.wrong(TYPES, "numbers from 1 to 6"))?;
        Ok(SentencePiece {
            piece: Some(token.clone()),
            score: Some(*score as f32),
            r#type: Some(kind),
        })
    });
    let pieces = pieces.collect::<Result<Vec<_>>>()?;
    let id = |id: Option<u32>| Some(id.and_then(|id| i32::try_from(id).ok()).unwrap_or(-1));
    let of_type = |kind: i64| vocabulary.types.iter().position(|t| *t == kind).map(|i| i as u32);
    let byte_fallback = pieces.iter().any(|p| p.r#type == Some(PieceType::Byte as i32));
    let model = ModelProto {
        pieces,
        trainer_spec: Some(TrainerSpec {
            model_type: Some(BPE),
            vocab_size: i32::try_from(n).ok(),
            byte_fallback: Some(byte_fallback),
            unk_id: id(unknown.or_else(|| of_type(UNKNOWN))),
            bos_id: id(bos),
            eos_id: id(eos),
            pad_id: Some(-1),
            ..TrainerSpec::default()
        }),
        normalizer_spec: Some(NormalizerSpec {
            name: Some("identity".to_owned()),
            precompiled_charsmap: Some(Vec::new()),
            add_dummy_prefix: Some(header.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true)),
            remove_extra_whitespaces: Some(
                header.flag("tokenizer.ggml.remove_extra_whitespaces")?.unwrap_or(false),
            ),
            escape_whitespaces: Some(true),
        }),
        denormalizer_spec: None,
    };
    Ok(model.encode_to_vec())
}

/// How text is cut into words before merges are made.
#[derive(Clone, Copy, Debug)]
struct Rule {
    name: &'static str,
    cut: Cut,
    /// Whether a text begins with BOS where the file does not say.
    adds_bos: bool,
    /// A word that is a token is that token, whatever the merges say.
    whole_words: bool,
}

#[derive(Clone, Copy, Debug)]
enum Cut {
    /// GPT-2's own expression.
    Gpt2,
    /// Every digit alone, then GPT-2's.
    Digits,
    /// This expression.
    Expression(&'static str),
}

/// Contractions, words with one leading character, up to three digits, punctuation, line ends, spaces (of `tokenizer.json`
/// of LLaMA 3).
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const fn rule_of(name: &'static str, cut: Cut) -> Rule {
    Rule { name, cut, adds_bos: false, whole_words: false }
}

const fn llama3(name: &'static str) -> Rule {
    Rule { name, cut: Cut::Expression(LLAMA3), adds_bos: true, whole_words: true }
}

const RULES: [Rule; 8] = [
    rule_of("gpt-2", Cut::Gpt2),
    rule_of("gpt2", Cut::Gpt2),
    rule_of("smollm", Cut::Digits),
    rule_of("starcoder", Cut::Digits),
    rule_of("refact", Cut::Digits),
    llama3("llama-bpe"),
    llama3("llama3"),
    llama3("llama-v3"),
];

fn rule(header: &Header) -> Result<Rule> {
    const PRE: &str = "tokenizer.ggml.pre";
    let stated = header.string(PRE)?;
    RULES.into_iter().find(|rule| Some(rule.name) == stated).ok_or_else(|| {
        let known = RULES.map(|rule| rule.name).join(", ");
        let help = "take the tokenizer.json of the model: a wrong rule would give other ids";
        header.wrong_with(PRE, &format!("one of {known}"), help).into()
    })
}

fn merges(
    header: &Header,
    vocabulary: &Vocabulary,
    rule: Rule,
    bos: Option<u32>,
) -> Result<Vec<u8>> {
    const MERGES: &str = "tokenizer.ggml.merges";
    let Some(Value::Array(Array::String(merges))) = header.metadata().get(MERGES) else {
        return Err(header.wrong(MERGES, "a list of texts").into());
    };
    let pair = |merge: &Vec<u8>| {
        let text = std::str::from_utf8(merge).ok()?;
        // The first of a pair may itself begin with a space in no known file, but is never empty.
        let cut = text.char_indices().skip(1).find(|(_, c)| *c == ' ')?.0;
        Some(json!([text[..cut], text[cut + 1..]]))
    };
    let merges = merges.iter().map(pair).collect::<Option<Vec<Json>>>();
    let merges =
        merges.ok_or_else(|| header.wrong(MERGES, "pairs of tokens with a space between"))?;
    let named = || vocabulary.tokens.iter().zip(&vocabulary.types).enumerate();
    let vocab: Map<String, Json> = vocabulary
        .tokens
        .iter()
        .enumerate()
        .map(|(id, token)| (token.clone(), json!(id)))
        .collect();
    if vocab.len() != vocabulary.tokens.len() {
        return Err(header.wrong(TOKENS, "a list of texts that all differ").into());
    }
    let added: Vec<Json> = named()
        .filter(|(_, (_, kind))| [UNKNOWN, CONTROL, USER_DEFINED].contains(kind))
        .map(|(id, (token, kind))| {
            json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": *kind != USER_DEFINED,
            })
        })
        .collect();
    let bytes = |use_regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex });
    let pre_tokenizer = match rule.cut {
        Cut::Gpt2 => bytes(true),
        Cut::Digits => json!({
            "type": "Sequence",
            "pretokenizers": [{ "type": "Digits", "individual_digits": true }, bytes(true)],
        }),
        Cut::Expression(regex) => json!({
            "type": "Sequence",
            "pretokenizers": [
                { "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false },
                bytes(false),
            ],
        }),
    };
    let post_processor = bos.map(|id| {
        let token = &vocabulary.tokens[id as usize];
        let begin = json!({ "SpecialToken": { "id": token, "type_id": 0 } });
        let text = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
        let special = json!({ token: { "id": token, "ids": [id], "tokens": [token] } });
        json!({
            "type": "TemplateProcessing", "single": [begin, text("A")],
            "pair": [begin, text("A"), begin, text("B")], "special_tokens": special,
        })
    });
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null, "pre_tokenizer": pre_tokenizer, "post_processor": post_processor,
        "decoder": bytes(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": rule.whole_words, "vocab": vocab, "merges": merges,
        },
    });
    Ok(file.to_string().into_bytes())
}
