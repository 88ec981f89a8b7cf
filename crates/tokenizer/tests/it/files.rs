//! What every file that is no tokenizer gives, and what a folder means.

use std::path::{Path, PathBuf};

use caravan_tokenizer::{Encode, Kind, Tokenizer, TrainConfig, train_bpe};
use serde_json::{Value, json};

/// A small SentencePiece model.
fn model() -> Vec<u8> {
    let text = "the cat sat on the mat and the hat\n".to_owned();
    let config = TrainConfig { vocab_size: 285, ..TrainConfig::default() };
    let texts = [Ok::<_, std::io::Error>(text)].into_iter();
    train_bpe(&config, texts, &mut |_| {}).unwrap().bytes().to_vec()
}

/// A small `tokenizer.json`: words of a list.
pub(crate) fn json_model() -> Value {
    json!({
        "version": "1.0",
        "added_tokens": [
            { "id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
              "normalized": false, "special": true },
            { "id": 1, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false,
              "normalized": false, "special": true },
        ],
        "model": { "type": "WordLevel", "unk_token": "<unk>",
                   "vocab": { "<s>": 0, "</s>": 1, "<unk>": 2, "a": 3, "b": 4 } },
        "pre_tokenizer": { "type": "Whitespace" },
    })
}

fn write(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn every_bad_file_is_named_with_its_fault() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let model = model();
    let json = serde_json::to_vec(&json_model()).unwrap();
    let mut flipped = model.clone();
    flipped[3] = 0xFF; // The length of the first piece's text.
    let mut twice = model.clone();
    let at = twice.windows(6).position(|w| w == b"<0x01>").unwrap();
    twice[at + 4] = b'0';
    let no_model = br#"{"bos_token": "<s>", "tokenizer_class": "LlamaTokenizer"}"#;
    let wrong_model = br#"{"version": "1.0", "model": {"type": "Magic"}}"#;
    std::fs::create_dir(dir.join("folder")).unwrap();
    let cases: Vec<(PathBuf, &str)> = vec![
        (dir.join("missing.model"), "no such file or folder"),
        (dir.join("folder"), "holds neither `tokenizer.model` nor `tokenizer.json`"),
        (write(dir, "empty.model", b""), "is empty"),
        (write(dir, "cut.model", &model[..model.len() / 2]), "is cut off: a field lacks"),
        (write(dir, "cut2.model", &model[..16]), "is cut off: the trainer settings"),
        (write(dir, "flipped.model", &flipped), "SentencePiece model"),
        (write(dir, "twice.model", &twice), "token 4 `<0x00>` occurs twice"),
        (write(dir, "cut.json", &json[..json.len() / 2]), "is cut off: the JSON is not closed"),
        (write(dir, "bad.json", b"{\"model\": }"), "is damaged: expected value at line 1"),
        (write(dir, "config.json", no_model), "it is JSON without a `model`"),
        (write(dir, "magic.json", wrong_model), "Hugging Face tokenizer"),
        (write(dir, "text.txt", b"Once upon a time"), "it is text"),
        (
            write(dir, "lfs.model", b"version https://git-lfs.github.com/spec/v1"),
            "a Git LFS pointer",
        ),
        (write(dir, "page.json", b"<html>404</html>"), "an HTML or XML page"),
        (write(dir, "llama3.model", b"IQ== 0\nIg== 1\n"), "a tiktoken vocabulary"),
        (write(dir, "x.zip", b"PK\x03\x04\0\0"), "an archive"),
    ];
    for (path, expected) in cases {
        let message = Tokenizer::load(&path).unwrap_err().to_string();
        assert!(message.contains(expected), "{}: {message}", path.display());
        assert!(message.contains(path.file_name().unwrap().to_str().unwrap()), "{message}");
        let (_, help) = message.rsplit_once('\n').unwrap();
        assert!(help.starts_with("help: "), "{message}");
    }
}

/// Every cut and every flipped byte is an error or a tokenizer that works: nothing panics.
#[test]
fn no_damage_panics() {
    let model = model();
    for len in (0..model.len()).step_by(7) {
        assert!(Tokenizer::from_bytes(&model[..len], Path::new("x.model")).is_err(), "{len}");
    }
    for at in (0..model.len()).step_by(3) {
        for flip in [0x01, 0x80] {
            let mut damaged = model.clone();
            damaged[at] ^= flip;
            if let Ok(tokenizer) = Tokenizer::from_bytes(damaged, Path::new("x.model"))
                && let Ok(ids) = tokenizer.encode("the cat\n 猫")
            {
                let _ = tokenizer.decode(&ids);
            }
        }
    }
}

#[test]
fn a_folder_means_the_tokenizer_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let json = serde_json::to_vec(&json_model()).unwrap();
    write(dir, "tokenizer.json", &json);
    assert_eq!(Tokenizer::load(dir).unwrap().kind(), Kind::HuggingFace);
    // LLaMA 3 ships a tiktoken file under the name of a SentencePiece model.
    write(dir, "tokenizer.model", b"IQ== 0\nIg== 1\n");
    assert_eq!(Tokenizer::load(dir).unwrap().kind(), Kind::HuggingFace);
    // An empty one is a fault, not a reason to take the other.
    write(dir, "tokenizer.model", b"");
    assert!(Tokenizer::load(dir).unwrap_err().to_string().contains("is empty"));
    let model = model();
    write(dir, "tokenizer.model", &model);
    let tokenizer = Tokenizer::load(dir).unwrap();
    assert_eq!(tokenizer.kind(), Kind::SentencePiece);
    assert_eq!(tokenizer.bytes(), model);
    assert_eq!(tokenizer.hash().0, *blake3::hash(&model).as_bytes());
}

#[test]
fn content_goes_before_the_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "odd.json", &model());
    assert_eq!(Tokenizer::load(&path).unwrap().kind(), Kind::SentencePiece);
}

#[test]
fn saving_gives_the_same_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = Tokenizer::from_bytes(model(), Path::new("x")).unwrap();
    let path = tokenizer.save_into(dir.path()).unwrap();
    assert_eq!(path, dir.path().join("tokenizer.model"));
    assert_eq!(Tokenizer::load(dir.path()).unwrap().hash(), tokenizer.hash());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    let missing = dir.path().join("missing");
    let message = tokenizer.save_into(&missing).unwrap_err().to_string();
    assert!(message.starts_with("writing `"), "{message}");
}
