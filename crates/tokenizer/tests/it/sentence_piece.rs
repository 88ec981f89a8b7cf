//! SentencePiece models.

use caravan_tokenizer::{Encode, Tokenizer};
use serde_json::json;

use crate::support::{
    Python, Random, assert_round_trip, odd_texts, report, shared, streamed, texts, with_threads,
};

const LLAMA2: &str = "data/tokenizers/llama2-tokenizer.model";

#[test]
fn shared_llama2_special_tokens() {
    let Some(path) = shared("shared_llama2_special_tokens", LLAMA2) else { return };
    let t = Tokenizer::load(&path).unwrap();
    assert_eq!((t.vocab_size(), t.bos_id(), t.eos_id()), (32000, Some(1), Some(2)));
    assert_eq!(t.token(1).as_deref(), Some("<s>"));
    assert_eq!((t.token(13).as_deref(), t.id_of("<0x0A>")), (Some("<0x0A>"), Some(13)));
    assert_eq!((t.token(32000), t.id_of("no such token")), (None, None));
    // In text they are text; only where they are asked for they are special.
    let plain = t.encode("<s>a</s>").unwrap();
    assert!(!plain.contains(&1) && !plain.contains(&2), "{plain:?}");
    let a = t.encode("a").unwrap();
    assert_eq!(t.encode_with_special("<s>a</s>").unwrap(), [&[1], a.as_slice(), &[2]].concat());
    assert_eq!(t.encode_with_special("<s").unwrap(), t.encode("<s").unwrap());
    assert_eq!(t.decode(&[1, a[0], 2]).unwrap(), "a");
    let message = t.decode(&[1, 32000]).unwrap_err().to_string();
    assert!(message.starts_with("token id 32000 at position 1 names no token"), "{message}");
}

#[test]
fn shared_llama2_text_comes_back() {
    let Some(path) = shared("shared_llama2_text_comes_back", LLAMA2) else { return };
    let t = Tokenizer::load(&path).unwrap();
    let random = Random(1).texts(2000);
    for text in odd_texts().iter().chain(&random) {
        let text = text.replace('\u{2581}', " ");
        assert_round_trip(&t, &text);
    }
    for (_, text) in texts("shared_llama2_text_comes_back").unwrap() {
        assert_round_trip(&t, &text);
    }
}

#[test]
fn shared_llama2_is_the_same_for_every_number_of_threads() {
    let test = "shared_llama2_is_the_same_for_every_number_of_threads";
    let Some(path) = shared(test, LLAMA2) else { return };
    let t = Tokenizer::load(&path).unwrap();
    let texts = texts(test).unwrap();
    let all: Vec<&str> = texts.iter().map(|(_, text)| text.as_str()).collect();
    let one = with_threads(1, || t.encode_batch(&all).unwrap());
    let four = with_threads(4, || t.encode_batch(&all).unwrap());
    assert!(one == four, "ids depend on the threads");
    for (text, ids) in all.iter().zip(&one) {
        assert!(&t.encode(text).unwrap() == ids, "a batch differs from a text");
    }
    let lines: Vec<&str> = all.iter().flat_map(|text| text.lines()).collect();
    let batch = t.encode_batch(&lines).unwrap();
    for (line, ids) in lines.iter().zip(&batch).step_by(97) {
        assert_eq!(&t.encode(line).unwrap(), ids);
    }
}

/// Python encodes each text in one call of the library: this is also the proof that cutting long
/// texts changes nothing.
#[test]
fn python_llama2_ids_are_equal() {
    let Some(python) = Python::new("python_llama2_ids_are_equal", "encode.py") else { return };
    let Some(path) = shared("python_llama2_ids_are_equal", LLAMA2) else { return };
    compare(&python, &path, "python_llama2_ids_are_equal");
}

/// A unigram model with nfkc normalisation and without byte fallback. The library here is older
/// than Python's and breaks ties between equally likely splits in another way (`-----`), so texts
/// compare by the number of their tokens and by what they decode to.
#[test]
fn python_unigram_splits_are_as_good() {
    let test = "python_unigram_splits_are_as_good";
    let Some(python) = Python::new(test, "encode.py") else { return };
    let Some(path) = shared(test, "data/tokenizers/sp_test_model.model") else { return };
    let Some(texts) = texts(test) else { return };
    let t = Tokenizer::load(&path).unwrap();
    let mut all = Random(2).texts(10_000);
    all.extend(texts.iter().flat_map(|(_, text)| text.lines()).map(str::to_owned));
    let args = ["sentencepiece", path.to_str().unwrap()];
    let (theirs, _, _): (Vec<Vec<u32>>, Vec<String>, f64) =
        python.run(&args, &json!({ "texts": &all, "ids": [] }));
    let (_, decoded, _): (Vec<Vec<u32>>, Vec<String>, f64) =
        python.run(&args, &json!({ "texts": [], "ids": &theirs }));
    let refs: Vec<&str> = all.iter().map(String::as_str).collect();
    let ours = t.encode_batch(&refs).unwrap();
    let mut n_equal = 0;
    for (ours, (theirs, decoded)) in ours.iter().zip(theirs.iter().zip(&decoded)) {
        n_equal += usize::from(ours == theirs);
        assert_eq!(ours.len(), theirs.len(), "{decoded:?}");
        assert_eq!(&t.decode(ours).unwrap(), decoded);
        assert_eq!(&t.decode(theirs).unwrap(), decoded);
    }
    eprintln!("{test}: {n_equal} of {} texts have the same ids", ours.len());
    assert!(n_equal * 1000 >= ours.len() * 999);
}

fn compare(python: &Python, path: &std::path::Path, test: &str) {
    let t = Tokenizer::load(path).unwrap();
    let mut all = Random(2).texts(10_000);
    all.extend(odd_texts());
    for (_, text) in texts(test).unwrap() {
        all.extend(text.lines().map(str::to_owned));
        all.push(text);
    }
    let mut random = Random(3);
    let n = t.vocab_size() as u64;
    let ids: Vec<Vec<u32>> = (0..2000)
        .map(|_| {
            // Half of them from the first ids, where control and byte tokens lie.
            let n = if random.below(2) == 0 { 300 } else { n };
            let len = random.below(20);
            (0..len).map(|_| u32::try_from(random.below(n)).unwrap()).collect()
        })
        .collect();
    let args = ["sentencepiece", path.to_str().unwrap()];
    let (theirs, decoded, secs): (Vec<Vec<u32>>, Vec<String>, f64) =
        python.run(&args, &json!({ "texts": &all, "ids": &ids }));
    assert_eq!(theirs.len(), all.len());
    let refs: Vec<&str> = all.iter().map(String::as_str).collect();
    let start = std::time::Instant::now();
    let ours = with_threads(1, || t.encode_batch(&refs).unwrap());
    report(test, &all, start.elapsed().as_secs_f64(), secs);
    for ((text, ours), theirs) in all.iter().zip(ours).zip(theirs) {
        assert!(ours == theirs, "{:?}", text.chars().take(200).collect::<String>());
    }
    for (ids, theirs) in ids.iter().zip(decoded) {
        assert_eq!(t.decode(ids).unwrap(), theirs, "{ids:?}");
        assert_eq!(streamed(&t, ids), theirs, "{ids:?}");
    }
}

/// Flipped bits in a model with a table of characters, which the library walks without checks.
#[test]
fn shared_no_flipped_bit_crashes() {
    let file = "data/tokenizers/sp_test_model.model";
    let Some(path) = shared("shared_no_flipped_bit_crashes", file) else { return };
    let bytes = std::fs::read(path).unwrap();
    let text = "Ｆｕｌｌ ｗｉｄｔｈ ﬁ ㍿ e\u{301} ①  a\u{AD}b\n猫ﾊﾟ";
    let mut random = Random(9);
    let mut n_loaded = 0;
    for _ in 0..300 {
        let mut damaged = bytes.clone();
        let at = usize::try_from(random.below(bytes.len() as u64)).unwrap();
        damaged[at] ^= 1 << random.below(8);
        if let Ok(t) = Tokenizer::from_bytes(damaged, std::path::Path::new("x.model")) {
            n_loaded += 1;
            if let Ok(ids) = t.encode(text) {
                let _ = t.decode(&ids);
            }
        }
    }
    // Most bits of a model are scores and unreached parts of the table.
    assert!(n_loaded > 30, "{n_loaded}");
}
