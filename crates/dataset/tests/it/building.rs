use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use caravan_dataset::{
    BuildConfig, DatasetError, ShardSet, Side, SourceSpec, SplitRule, build, content_hash,
    split_documents,
};
use caravan_tokenizer::{ByteTokenizer, DecodeStream, Encode, TokenizerError, TokenizerHash};

use crate::{Dir, built, config};

fn many() -> Vec<String> {
    (0..500).map(|i| format!("Document {i}: {}\n", "löng ".repeat(i % 40))).collect()
}

/// The ids in the shards are those of each whole document, in the order of the sources, and the
/// same as what the split gives.
#[test]
fn shards_hold_the_split_documents() {
    let dir = Dir::new();
    let few = dir.jsonl("few.jsonl", &["one\ntwo\nthree\nfour\n", "五\n六\n"]);
    let mut config = config(vec![dir.jsonl("many.jsonl", &many()), few], 0.1);
    config.shard_bytes = 10_000;
    let set = built(&config, &dir.path("set"));
    let files = fs::read_dir(dir.path("set")).unwrap().count();
    assert!(files > 4, "{files}");
    let tokenizer = ByteTokenizer::new();
    let mut next = [0, 0];
    for item in split_documents(&config).unwrap() {
        let (side, document) = item.unwrap();
        let found = set.split(side).document(next[side as usize]).unwrap();
        next[side as usize] += 1;
        assert_eq!((found.text, found.source), (document.text.as_str(), document.source));
        let mut ids = tokenizer.encode(&document.text).unwrap();
        ids.insert(0, 256);
        ids.push(257);
        assert_eq!(found.tokens(), ids);
    }
    assert_eq!(next, [set.train().n_documents(), set.val().n_documents()]);
    assert!(next[1] > 20);
    let bytes: usize = many().iter().map(String::len).sum::<usize>() + 19 + 8;
    assert_eq!(set.train().n_source_bytes() + set.val().n_source_bytes(), bytes as u64);
    assert_eq!(set.train().n_text_tokens(), set.train().n_source_bytes());
    let report = ShardSet::verify(&dir.path("set")).unwrap();
    assert_eq!(report.shards, files - 1);
    let source = set.train().documents_of(1);
    assert_eq!(set.train().document(source.start).unwrap().source, 1);
    assert_eq!(source.end, set.train().n_documents());
    let rules: Vec<_> = set.manifest().sources.iter().map(|s| s.report.split).collect();
    assert_eq!(rules, [SplitRule::Hash, SplitRule::Tail]);
}

/// The same bytes for every number of threads, every time.
#[test]
fn builds_are_reproducible() {
    let dir = Dir::new();
    let config = config(vec![dir.jsonl("a.jsonl", &many())], 0.1);
    let files = |threads: usize| {
        let out = dir.path(&format!("set{threads}"));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| built(&config, &out));
        ["dataset.json", "train-00000.shard", "val-00000.shard"]
            .map(|f| fs::read(out.join(f)).unwrap())
    };
    assert_eq!(files(1), files(3));
}

#[test]
fn the_content_hash_follows_content_and_settings() {
    let dir = Dir::new();
    let text = |name: &str, text: &str| SourceSpec::of([dir.write(name, text)]);
    let base = config(vec![text("a.txt", "one\n"), text("b.txt", "two\n")], 0.1);
    let hash = |config: &BuildConfig| content_hash(config).unwrap();
    // Names, places and weights do not count.
    let mut same = config(vec![text("sub/c.md", "one\n"), text("d.txt", "two\n")], 0.1);
    same.sources[0].weight = 7.0;
    assert_eq!(hash(&base), hash(&same));
    assert_eq!(hash(&base).len(), 64);
    let changes: [fn(&mut BuildConfig); 6] = [
        |c| c.val_fraction = 0.2,
        |c| c.shard_bytes = 1,
        |c| c.sources[0].text_field = "b".to_owned(),
        |c| c.sources[0].document_separator = Some("\n".to_owned()),
        |c| c.sources.swap(0, 1),
        |c| {
            let paths = c.sources.remove(1).paths;
            c.sources[0].paths.extend(paths);
        },
    ];
    for (i, change) in changes.into_iter().enumerate() {
        let mut other = base.clone();
        change(&mut other);
        assert_ne!(hash(&base), hash(&other), "change {i}");
    }
    dir.write("b.txt", "twO\n");
    assert_ne!(hash(&base), hash(&same));
    let set = built(&base, &dir.path("set"));
    assert_eq!(set.content_hash(), hash(&base));
}

/// A tokenizer that can fail, lie, or lack tokens.
#[derive(Debug)]
struct Odd {
    fails_at: usize,
    id: u32,
    bos: Option<u32>,
    calls: AtomicUsize,
}

impl Odd {
    fn new() -> Self {
        Self { fails_at: usize::MAX, id: 1, bos: Some(2), calls: AtomicUsize::new(0) }
    }
}

impl Encode for Odd {
    fn vocab_size(&self) -> usize {
        100_000
    }
    fn bos_id(&self) -> Option<u32> {
        self.bos
    }
    fn eos_id(&self) -> Option<u32> {
        Some(99_999)
    }
    fn hash(&self) -> TokenizerHash {
        TokenizerHash([7; 32])
    }
    fn encode(&self, _: &str) -> Result<Vec<u32>, TokenizerError> {
        if self.calls.fetch_add(1, Ordering::Relaxed) == self.fails_at {
            return Err(ByteTokenizer::new().decode(&[9999]).unwrap_err());
        }
        Ok(vec![self.id])
    }
    fn decode(&self, _: &[u32]) -> Result<String, TokenizerError> {
        Ok(String::new())
    }
    fn decode_stream(&self) -> DecodeStream<'_> {
        unreachable!("the dataset decodes nothing")
    }
}

#[test]
fn a_failed_build_leaves_nothing() {
    let dir = Dir::new();
    let config = config(vec![dir.jsonl("in/a.jsonl", &many())], 0.1);
    let out = dir.path("out/set");
    let failing = [
        Odd { fails_at: 300, ..Odd::new() },
        Odd { id: 100_000, ..Odd::new() },
        Odd { bos: None, ..Odd::new() },
    ];
    for tokenizer in failing {
        let error = build(&config, &tokenizer, &out, &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("\nhelp: "), "{error}");
        assert!(
            !dir.path("out").exists() || fs::read_dir(dir.path("out")).unwrap().next().is_none()
        );
    }
    // Bad text behind good text: the reader's thread fails, after documents were written.
    let bad = dir.write("in/b.jsonl", "{\"text\": 1}");
    let mut with_bad = config.clone();
    with_bad.sources[0].paths.push(bad);
    let error = build(&with_bad, &Odd::new(), &out, &mut |_| {}).unwrap_err();
    assert!(matches!(error, DatasetError::JsonType { line: 1, .. }), "{error}");
    assert!(fs::read_dir(dir.path("out")).unwrap().next().is_none());

    // And with nothing wrong, ids beyond 16 bits are kept.
    build(&config, &Odd { id: 70_000, ..Odd::new() }, &out, &mut |_| {}).unwrap();
    let set = ShardSet::open(&out).unwrap();
    assert_eq!(set.train().document(5).unwrap().tokens(), [2, 70_000, 99_999]);
    ShardSet::verify(&out).unwrap();
    let error = set.check_tokenizer(&ByteTokenizer::new()).unwrap_err();
    assert!(matches!(error, DatasetError::TokenizerMismatch { .. }));
}

#[test]
fn a_folder_that_holds_something_is_not_touched() {
    let dir = Dir::new();
    let config = config(vec![dir.jsonl("a.jsonl", &many())], 0.1);
    dir.write("set/mine.txt", "mine");
    let error = build(&config, &ByteTokenizer::new(), &dir.path("set"), &mut |_| {}).unwrap_err();
    assert!(matches!(error, DatasetError::OutputExists { .. }), "{error}");
    assert_eq!(fs::read_dir(dir.path("set")).unwrap().count(), 1);
    // An empty folder is taken.
    fs::create_dir(dir.path("empty")).unwrap();
    built(&config, &dir.path("empty"));
}

#[test]
fn text_that_changes_during_the_build_is_noticed() {
    let dir = Dir::new();
    let config = config(vec![dir.jsonl("a.jsonl", &many())], 0.1);
    let mut change = |_| drop(dir.jsonl("a.jsonl", &["other"]));
    let error = build(&config, &ByteTokenizer::new(), &dir.path("set"), &mut change).unwrap_err();
    assert!(matches!(error, DatasetError::SourceChanged { .. }), "{error}");
    assert!(!dir.path("set").exists());
}

#[test]
fn nothing_for_validation_is_said() {
    let dir = Dir::new();
    let source = SourceSpec::of([dir.write("a.txt", "x")]);
    let report =
        build(&config(vec![source], 0.1), &ByteTokenizer::new(), &dir.path("set"), &mut |_| {})
            .unwrap();
    assert_eq!((report.train.documents, report.val.documents), (1, 0));
    assert_eq!(report.notes().len(), 1);
    let set = ShardSet::open(&dir.path("set")).unwrap();
    assert_eq!(set.split(Side::Val).n_documents(), 0);
    assert_eq!(set.val().documents_of(0), 0..0);
}

#[test]
fn progress_counts_up_to_the_end() {
    let dir = Dir::new();
    let config = config(vec![dir.jsonl("a.jsonl", &many())], 0.1);
    let mut last = None;
    let report =
        build(&config, &ByteTokenizer::new(), &dir.path("set"), &mut |p| last = Some(p)).unwrap();
    let last = last.unwrap();
    assert_eq!(last.done.documents, 500);
    assert_eq!(last.done.tokens, report.train.tokens + report.val.tokens);
    assert_eq!((last.source, last.n_sources), (0, 1));
    assert!(last.input_bytes > last.done.text_bytes);
}
