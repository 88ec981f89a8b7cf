//! Training BPE.

use std::io;

use caravan_tokenizer::{
    Encode, Tokenizer, TokenizerError, TrainConfig, TrainProgress, TrainedModel, train_bpe,
};
use serde::Deserialize;
use serde_json::json;

use crate::support::{Python, Random, assert_round_trip, odd_texts, texts, with_threads};

fn train(config: &TrainConfig, texts: &[&str]) -> Result<TrainedModel, TokenizerError> {
    let texts = texts.iter().map(|text| Ok::<_, io::Error>((*text).to_owned()));
    train_bpe(config, texts, &mut |_| {})
}

fn vocab(vocab_size: usize) -> TrainConfig {
    TrainConfig { vocab_size, ..TrainConfig::default() }
}

const STORY: &str = "The cat sat on the mat.\nThe cat saw 12 hats, and the hats saw the cat.\n\
    吾輩は猫である。名前はまだ無い。\n\tPeter's <unk> tail\n";

/// Text of a small language: words of syllables, with runs that make many equal pairs.
fn babble(seed: u64, n_words: usize) -> String {
    let mut random = Random(seed);
    let mut text = String::new();
    for _ in 0..n_words {
        for _ in 0..=random.below(4) {
            let syllables = ["ka", "to", "ri", "aa", "aaa", "----", "ab", "ba", "ー", "猫"];
            text.push_str(syllables[usize::try_from(random.below(10)).unwrap()]);
        }
        text.push(if random.below(12) == 0 { '\n' } else { ' ' });
    }
    text
}

#[test]
fn the_model_has_llamas_order() {
    let t = train(&vocab(320), &[STORY]).unwrap().tokenizer().unwrap();
    assert_eq!((t.vocab_size(), t.bos_id(), t.eos_id()), (320, Some(1), Some(2)));
    let names: Vec<String> = (0..320).map(|id| t.token(id).unwrap()).collect();
    assert_eq!(names[..4], ["<unk>", "<s>", "</s>", "<0x00>"]);
    assert_eq!(names[258], "<0xFF>");
    assert!(names[259].chars().count() == 2, "{}", names[259]);
    assert!(names[319].chars().count() == 1, "{}", names[319]);
    for name in &names[259..] {
        let inside = name.trim_start_matches('\u{2581}');
        assert!(!inside.contains(['\u{2581}', '\n', '\t']), "{name}");
        assert!(
            name.chars().count() == 1 || !name.contains(|c: char| c.is_ascii_digit()),
            "{name}"
        );
        assert!(name.chars().count() <= 16, "{name}");
    }
}

#[test]
fn all_text_comes_back() {
    let t = train(&vocab(330), &[STORY]).unwrap().tokenizer().unwrap();
    for text in odd_texts().iter().chain(&Random(7).texts(2000)) {
        assert_round_trip(&t, &text.replace('\u{2581}', " "));
    }
    let long = STORY.repeat(5000);
    assert_round_trip(&t, &long);
    assert_eq!(t.decode(&t.encode("a\u{2581}b").unwrap()).unwrap(), "a b");
}

#[test]
fn a_training_is_the_same_every_time() {
    // Hash maps differ from run to run within one process, so that repeating shows their order.
    let documents: Vec<String> = (0..40).map(|i| babble(i, 300)).collect();
    let documents: Vec<&str> = documents.iter().map(String::as_str).collect();
    let first = train(&vocab(600), &documents).unwrap();
    for n in [1, 1, 2, 3, 7, 7, 7] {
        let again = with_threads(n, || train(&vocab(600), &documents).unwrap());
        assert_eq!(again.bytes(), first.bytes(), "{n} threads");
    }
    // Long runs make the same piece in several ways, down to the last merge there is.
    let mut random = Random(1);
    let runs: String = (0..3000)
        .map(|_| {
            let c = ["a", "b", "-", "- "][usize::try_from(random.below(4)).unwrap()];
            c.repeat(usize::try_from(random.below(60)).unwrap())
        })
        .collect();
    let TokenizerError::VocabTooLarge { maximum, .. } =
        train(&vocab(60_000), &[&runs]).unwrap_err()
    else {
        panic!("expected another error")
    };
    let first = train(&vocab(maximum), &[&runs]).unwrap();
    for _ in 0..3 {
        assert_eq!(train(&vocab(maximum), &[&runs]).unwrap(), first);
    }
}

#[test]
fn the_order_of_documents_does_not_matter() {
    let documents: Vec<String> = (0..40).map(|i| babble(i, 300)).collect();
    let documents: Vec<&str> = documents.iter().map(String::as_str).collect();
    let first = train(&vocab(600), &documents).unwrap();
    let reversed: Vec<&str> = documents.iter().rev().copied().collect();
    assert_eq!(train(&vocab(600), &reversed).unwrap().bytes(), first.bytes());
}

#[test]
fn a_vocabulary_that_does_not_fit_is_refused_with_the_limit() {
    let TokenizerError::VocabTooSmall { minimum, n_characters, .. } =
        train(&vocab(200), &[STORY]).unwrap_err()
    else {
        panic!("expected another error")
    };
    assert_eq!(minimum, 3 + 256 + n_characters);
    let smallest = train(&vocab(minimum), &[STORY]).unwrap();
    assert_eq!((smallest.n_characters, smallest.n_merges), (n_characters, 0));
    assert!(train(&vocab(minimum - 1), &[STORY]).is_err());

    let message = train(&vocab(5000), &[STORY]).unwrap_err();
    let TokenizerError::VocabTooLarge { maximum, .. } = message else { panic!("{message}") };
    let largest = train(&vocab(maximum), &[STORY]).unwrap();
    assert_eq!(largest.tokenizer().unwrap().vocab_size(), maximum);
    assert!(train(&vocab(maximum + 1), &[STORY]).is_err());
}

#[test]
fn bad_settings_and_texts_are_refused() {
    let message =
        |config: &TrainConfig, texts: &[&str]| train(config, texts).unwrap_err().to_string();
    let coverage = TrainConfig { character_coverage: 0.5, ..TrainConfig::default() };
    assert!(
        message(&coverage, &[STORY]).starts_with("character_coverage is 0.5, expected 0.98 to 1")
    );
    let coverage = TrainConfig { character_coverage: f64::NAN, ..TrainConfig::default() };
    assert!(message(&coverage, &[STORY]).starts_with("character_coverage is NaN"));
    let length = TrainConfig { max_piece_chars: 0, ..TrainConfig::default() };
    assert!(message(&length, &[STORY]).starts_with("max_piece_chars is 0"));
    for texts in [&[][..], &[""], &["\n\n", ""]] {
        assert!(message(&vocab(300), texts).starts_with("the training text is empty"));
    }
    let broken = [Ok("a".to_owned()), Err(io::Error::other("disk on fire"))].into_iter();
    let e = train_bpe(&vocab(300), broken, &mut |_| {}).unwrap_err();
    assert_eq!(e.to_string(), "disk on fire");
}

#[test]
fn lower_coverage_leaves_rare_characters_to_bytes() {
    let text = format!("{}猫", "ab ba ".repeat(2000));
    let full = TrainConfig { character_coverage: 1.0, ..vocab(266) };
    let t = train(&full, &[&text]).unwrap().tokenizer().unwrap();
    assert!(t.id_of("猫").is_some());
    let t = train(&vocab(265), &[&text]).unwrap().tokenizer().unwrap();
    assert_eq!(t.id_of("猫"), None);
    assert_eq!(t.decode(&t.encode("猫").unwrap()).unwrap(), "猫");
}

#[test]
fn progress_tells_what_is_read_and_ends_with_the_merges() {
    let mut seen = Vec::new();
    let texts = [Ok::<_, io::Error>(STORY.to_owned())].into_iter();
    train_bpe(&vocab(330), texts, &mut |p| seen.push(p)).unwrap();
    let bytes = STORY.len() as u64;
    let TrainProgress::Reading { documents: 1, bytes: read, .. } = seen[0] else {
        panic!("{seen:?}")
    };
    assert_eq!((read, seen[0].done()), (bytes, bytes));
    assert!(matches!(seen.last(), Some(TrainProgress::Merging { done: true, .. })), "{seen:?}");
}

/// One run of sentencepiece's own trainer beside ours.
#[derive(Deserialize)]
struct Theirs {
    /// Tokens of the whole text and of its lines one by one, with their model.
    whole: usize,
    lines: usize,
    train_secs: f64,
    encode_secs: f64,
    /// Ids with our model.
    ours_whole: Vec<u32>,
    ours_texts: Vec<Vec<u32>>,
}

/// Bytes per token are at least 98% of what sentencepiece's trainer reaches, and our model gives
/// Python the same ids.
#[test]
fn python_training_is_as_good_as_sentencepieces() {
    let test = "python_training_is_as_good_as_sentencepieces";
    let Some(python) = Python::new(test, "train.py") else { return };
    let Some(texts) = texts(test) else { return };
    let mut some = Random(8).texts(500);
    some.extend(odd_texts());
    for (name, text) in texts {
        for vocab_size in [1024, 2048, 4096, 8000] {
            let start = std::time::Instant::now();
            let trained = match train(&vocab(vocab_size), &[&text]) {
                Ok(trained) => trained,
                Err(TokenizerError::VocabTooSmall { minimum, .. }) => {
                    eprintln!("{name} {vocab_size}: needs {minimum}");
                    continue;
                }
                Err(e) => panic!("{e}"),
            };
            let train_secs = start.elapsed().as_secs_f64();
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("ours.model");
            trained.save(&path).unwrap();
            let input = json!({ "text": &text, "vocab_size": vocab_size, "texts": &some });
            let theirs: Theirs = python.run(&[path.to_str().unwrap()], &input);

            let t = Tokenizer::load(&path).unwrap();
            let start = std::time::Instant::now();
            let whole = with_threads(1, || t.encode(&text).unwrap());
            let encode_secs = start.elapsed().as_secs_f64();
            let lines: Vec<&str> = text.lines().collect();
            let lines: usize = t.encode_batch(&lines).unwrap().iter().map(Vec::len).sum();
            let mb = text.len() as f64 / 1e6;
            let ratios =
                [theirs.whole as f64 / whole.len() as f64, theirs.lines as f64 / lines as f64];
            eprintln!(
                "{name} {vocab_size}: {:.3} bytes/token, ratio whole {:.4} lines {:.4}; train {train_secs:.2} s \
                 (theirs {:.2}); encode {:.1} MB/s on one thread (theirs {:.1})",
                text.len() as f64 / whole.len() as f64,
                ratios[0],
                ratios[1],
                theirs.train_secs,
                mb / encode_secs,
                mb / theirs.encode_secs,
            );
            assert!(ratios.iter().all(|ratio| *ratio >= 0.98), "{name} {vocab_size}: {ratios:?}");
            assert!(whole == theirs.ours_whole, "{name} {vocab_size}: Python has other ids");
            for (text, theirs) in some.iter().zip(theirs.ours_texts) {
                assert_eq!(t.encode(text).unwrap(), theirs, "{text:?}");
            }
        }
    }
}
