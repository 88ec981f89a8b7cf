//! `tokenizer.json` files.

use std::path::Path;

use caravan_tokenizer::{Encode, Tokenizer};
use serde_json::{Value, json};

use crate::files::json_model;
use crate::support::{
    Python, Random, assert_round_trip, odd_texts, report, shared, streamed, texts, with_threads,
};

const LLAMA3: &str = "data/tokenizers/llama3-tokenizer.json";

fn load(folder: &Path) -> Tokenizer {
    std::fs::write(folder.join("tokenizer.json"), json_model().to_string()).unwrap();
    Tokenizer::load(folder).unwrap()
}

#[test]
fn ends_are_those_stated_beside_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let ends = |files: &[(&str, Value)]| {
        for (name, value) in files {
            std::fs::write(dir.path().join(name), value.to_string()).unwrap();
        }
        let t = load(dir.path());
        (t.bos_id(), t.eos_id())
    };
    assert_eq!(ends(&[]), (Some(0), Some(1)));
    let config = json!({ "bos_token_id": 3, "eos_token_id": [4, 1] });
    assert_eq!(ends(&[("config.json", config)]), (Some(3), Some(4)));
    let config = json!({ "bos_token": null, "eos_token": { "content": "a" } });
    assert_eq!(ends(&[("tokenizer_config.json", config)]), (None, Some(3)));
    let wrong = json!({ "bos_token": "<nothing>" }).to_string();
    std::fs::write(dir.path().join("tokenizer_config.json"), wrong).unwrap();
    let message = Tokenizer::load(dir.path()).unwrap_err().to_string();
    assert!(message.contains("it names the token \"<nothing>\""), "{message}");
}

#[test]
fn saving_keeps_the_ends() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = json!({ "bos_token": null, "eos_token": "b" }).to_string();
    std::fs::write(from.path().join("tokenizer_config.json"), config).unwrap();
    load(from.path()).save_into(to.path()).unwrap();
    let t = Tokenizer::load(to.path()).unwrap();
    assert_eq!((t.bos_id(), t.eos_id()), (None, Some(4)));
}

#[test]
fn truncation_and_padding_of_the_file_are_not_obeyed() {
    let mut json = json_model();
    json["truncation"] = json!({ "direction": "Right", "max_length": 2,
        "strategy": "LongestFirst", "stride": 0 });
    json["padding"] = json!({ "strategy": { "Fixed": 9 }, "direction": "Right",
        "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "<s>" });
    let t = Tokenizer::from_bytes(json.to_string(), Path::new("x")).unwrap();
    assert_eq!(t.encode("a b a b <s>").unwrap()[..4], [3, 4, 3, 4]);
    assert!(!t.encode("a b <s>").unwrap().contains(&0));
    assert_eq!(t.encode_with_special("a <s>").unwrap(), [3, 0]);
    assert_eq!(t.decode(&[0, 3, 4, 1]).unwrap(), "a b");
    assert_eq!(streamed(&t, &[0, 3, 4, 1]), "a b");
    let message = t.decode(&[3, 5]).unwrap_err().to_string();
    assert!(message.starts_with("token id 5 at position 1 names no token"), "{message}");
}

#[test]
fn shared_llama3_special_tokens() {
    let Some(path) = shared("shared_llama3_special_tokens", LLAMA3) else { return };
    let t = Tokenizer::load(&path).unwrap();
    assert_eq!((t.vocab_size(), t.bos_id(), t.eos_id()), (128_256, Some(128_000), Some(128_001)));
    let text = "<|begin_of_text|>hi<|end_of_text|>";
    let plain = t.encode(text).unwrap();
    assert!(plain.iter().all(|id| *id < 128_000), "{plain:?}");
    assert_eq!(t.decode(&plain).unwrap(), text);
    let special = t.encode_with_special(text).unwrap();
    assert_eq!(special, [&[128_000], t.encode("hi").unwrap().as_slice(), &[128_001]].concat());
    assert_eq!(t.decode(&special).unwrap(), "hi");
    assert_eq!(t.id_of("<|eot_id|>"), Some(128_009));
}

#[test]
fn shared_llama3_text_comes_back() {
    let test = "shared_llama3_text_comes_back";
    let Some(path) = shared(test, LLAMA3) else { return };
    let t = Tokenizer::load(&path).unwrap();
    let random = Random(4).texts(2000);
    for text in odd_texts().iter().chain(&random) {
        assert_round_trip(&t, text);
    }
    // Long enough to be cut; whole texts are compared with Python.
    let texts = texts(test).unwrap();
    let all: Vec<&str> =
        texts.iter().map(|(_, text)| &text[..text.floor_char_boundary(400_000)]).collect();
    let one = with_threads(1, || t.encode_batch(&all).unwrap());
    let four = with_threads(4, || t.encode_batch(&all).unwrap());
    assert!(one == four, "ids depend on the threads");
    for (text, ids) in all.iter().zip(&one) {
        assert!(t.decode(ids).unwrap() == *text, "text does not come back");
    }
}

/// Python encodes each text in one call of the library: this is also the proof that cutting long
/// texts changes nothing.
#[test]
fn python_llama3_ids_are_equal() {
    let test = "python_llama3_ids_are_equal";
    let Some(python) = Python::new(test, "encode.py") else { return };
    let Some(path) = shared(test, LLAMA3) else { return };
    let t = Tokenizer::load(&path).unwrap();
    let mut all = Random(5).texts(10_000);
    // Special strings are tested apart: Python takes them for special.
    all.extend(odd_texts().into_iter().filter(|text| !text.contains("<|")));
    for (_, text) in texts(test).unwrap() {
        all.extend(text.lines().map(str::to_owned));
        all.push(text);
    }
    let special = ["<|begin_of_text|>a <|end_of_text|>\n", "x<|eot_id|>", "<|begin_of_text"];
    let mut random = Random(6);
    let ids: Vec<Vec<u32>> = (0..2000)
        .map(|_| {
            let len = random.below(20);
            (0..len).map(|_| u32::try_from(random.below(128_256)).unwrap()).collect()
        })
        .collect();
    let with_special: Vec<&str> = all.iter().map(String::as_str).chain(special).collect();
    let args = ["tokenizers", path.to_str().unwrap()];
    let (theirs, decoded, secs): (Vec<Vec<u32>>, Vec<String>, f64) =
        python.run(&args, &json!({ "texts": &with_special, "ids": &ids }));
    assert_eq!(theirs.len(), all.len() + special.len());
    let start = std::time::Instant::now();
    let ours = with_threads(1, || t.encode_batch(&with_special[..all.len()]).unwrap());
    report(test, &all, start.elapsed().as_secs_f64(), secs);
    for ((text, ours), theirs) in all.iter().zip(ours).zip(&theirs) {
        assert!(&ours == theirs, "{:?}", text.chars().take(200).collect::<String>());
    }
    for (text, theirs) in special.iter().zip(&theirs[all.len()..]) {
        assert_eq!(&t.encode_with_special(text).unwrap(), theirs, "{text}");
    }
    for (ids, theirs) in ids.iter().zip(decoded) {
        assert_eq!(t.decode(ids).unwrap(), theirs, "{ids:?}");
        assert_eq!(streamed(&t, ids), theirs, "{ids:?}");
    }
}
