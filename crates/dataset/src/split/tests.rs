use std::collections::HashSet;
use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::SourceSpec;

fn jsonl(dir: &Path, name: &str, texts: &[String]) -> SourceSpec {
    let lines = texts.iter().map(|t| serde_json::json!({ "text": t }).to_string() + "\n");
    fs::write(dir.join(name), lines.collect::<String>()).unwrap();
    SourceSpec::of([dir.join(name).display().to_string()])
}

fn sides(
    sources: Vec<SourceSpec>,
    val_fraction: f64,
) -> (Vec<(Side, Document)>, Vec<SourceReport>) {
    let config = BuildConfig { sources, val_fraction, ..Default::default() };
    let mut stream = split_documents(&config).unwrap();
    let documents = stream.by_ref().collect::<Result<_, _>>().unwrap();
    (documents, stream.reports().to_vec())
}

fn texts(documents: &[(Side, Document)], side: Side) -> Vec<&str> {
    documents.iter().filter(|(s, _)| *s == side).map(|(_, d)| d.text.as_str()).collect()
}

#[test]
fn one_file_gives_its_last_lines() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.txt");
    // 10 lines of 10 bytes; 25% are 25 bytes: from byte 75, the next line end is at 80.
    fs::write(&path, "123456789\n".repeat(9) + "abcdefghi\n").unwrap();
    let (documents, reports) = sides(vec![SourceSpec::of([path.display().to_string()])], 0.25);
    assert_eq!(texts(&documents, Side::Train), ["123456789\n".repeat(8)]);
    assert_eq!(texts(&documents, Side::Val), ["123456789\nabcdefghi\n"]);
    assert_eq!(documents[1].1.origin.place, Place::Line(9));
    assert_eq!(reports[0].split, SplitRule::Tail);
    assert_eq!((reports[0].train_bytes, reports[0].val_bytes), (80, 20));
}

#[test]
fn cuts() {
    // At a line end exactly; behind the next one; at a document's end.
    assert_eq!(tail_cut(&["aaaa\nbbbb\n"], 0.5), 5);
    assert_eq!(tail_cut(&["aaaaa\nbbb\n"], 0.5), 6);
    assert_eq!(tail_cut(&["aaaa", "bbbb", "cccc"], 0.4), 8);
    // Only the end of the source follows: the last line end before; then any character.
    assert_eq!(tail_cut(&["aa\nbbbbbbbb"], 0.1), 3);
    assert_eq!(tail_cut(&["aa", "bbbbbbbb"], 0.1), 2);
    assert_eq!(tail_cut(&["aaaaaaaaaa"], 0.25), 8);
    assert_eq!(tail_cut(&["ääääää"], 0.1), 10);
    assert_eq!(tail_cut(&["a日"], 0.1), 1);
    // Nothing to divide, nothing wanted.
    assert_eq!(tail_cut(&["日"], 0.5), 3);
    assert_eq!(tail_cut(&["aa\nbb\n"], 0.0), 6);
}

#[test]
fn few_documents_are_cut_as_one_text() {
    let dir = tempfile::tempdir().unwrap();
    let documents = ["one\ntwo\n", "three\nfour\n", "five\nsix\nseven\n"].map(String::from);
    let (documents, _) = sides(vec![jsonl(dir.path(), "a.jsonl", &documents)], 0.3);
    // 34 bytes, 10 for validation: from byte 24, the end of "five\n".
    assert_eq!(texts(&documents, Side::Train), ["one\ntwo\n", "three\nfour\n", "five\n"]);
    assert_eq!(texts(&documents, Side::Val), ["six\nseven\n"]);
}

#[test]
fn a_hundred_documents_go_by_hash() {
    let dir = tempfile::tempdir().unwrap();
    let all: Vec<String> = (0..2000).map(|i| format!("document {}", i % 1500)).collect();
    let spec = jsonl(dir.path(), "a.jsonl", &all);
    let (documents, reports) = sides(vec![spec.clone()], 0.2);
    assert_eq!(reports[0].split, SplitRule::Hash);
    let val: HashSet<_> = texts(&documents, Side::Val).into_iter().collect();
    let train: HashSet<_> = texts(&documents, Side::Train).into_iter().collect();
    assert!(val.is_disjoint(&train));
    assert!((250..350).contains(&val.len()), "{}", val.len());
    // By definition, from an implementation of BLAKE3 that is used directly.
    for text in val {
        let first = blake3::hash(text.as_bytes()).as_bytes()[..8].try_into().unwrap();
        assert!((u64::from_le_bytes(first) as f64) < 0.2 * 2f64.powi(64));
    }
    let (documents, _) = sides(vec![spec], 0.0);
    assert!(texts(&documents, Side::Val).is_empty());
}

#[test]
fn the_same_text_is_on_one_side_of_all_sources() {
    let dir = tempfile::tempdir().unwrap();
    let many: Vec<String> = (0..300).map(|i| format!("text number {}\n", i % 150)).collect();
    let few: Vec<String> = (0..20).map(|i| format!("text number {i}\n")).collect();
    let sources = vec![
        jsonl(dir.path(), "many.jsonl", &many),
        jsonl(dir.path(), "few.jsonl", &few),
        jsonl(dir.path(), "same.jsonl", &vec!["text number 3\n".to_owned(); 5]),
    ];
    let (documents, _) = sides(sources, 0.3);
    let val: HashSet<_> = texts(&documents, Side::Val).into_iter().collect();
    let train: HashSet<_> = texts(&documents, Side::Train).into_iter().collect();
    assert!(val.is_disjoint(&train), "{:?}", val.intersection(&train));
    assert!(val.contains("text number 19\n") && val.contains("text number 3\n"));
    assert!(train.contains("text number 0\n"));
}

#[test]
fn white_space_is_no_document() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.txt");
    fs::write(&path, "---one---  ---\n---two---").unwrap();
    let mut spec = SourceSpec::of([path.display().to_string()]);
    spec.document_separator = Some("---".to_owned());
    let (documents, reports) = sides(vec![spec.clone()], 0.0);
    assert_eq!(texts(&documents, Side::Train), ["one", "two"]);
    assert_eq!(reports[0].empty_documents, 3);
    fs::write(&path, " \n ").unwrap();
    let config = BuildConfig { sources: vec![spec], ..Default::default() };
    let error = split_documents(&config).unwrap_err();
    assert!(matches!(error, DatasetError::NoDocuments { n_empty: 1, .. }), "{error}");
}

proptest! {
    /// Nothing is lost, order is kept, both halves are whole characters.
    #[test]
    fn the_cut_divides_and_loses_nothing(texts in prop::collection::vec("[a-c\n日]{1,12}", 1..8), fraction in 0.0..0.99) {
        let refs: Vec<&str> = texts.iter().map(String::as_str).collect();
        let cut = tail_cut(&refs, fraction);
        let all = texts.concat();
        prop_assert!(cut > 0 && cut <= all.len() && all.is_char_boundary(cut));
        prop_assert_eq!(cut == all.len(), fraction == 0.0 || all.chars().count() == 1);
        let mut at = 0;
        for text in &refs {
            prop_assert!(cut <= at || cut >= at + text.len() || text.is_char_boundary(cut - at));
            at += text.len();
        }
    }
}
