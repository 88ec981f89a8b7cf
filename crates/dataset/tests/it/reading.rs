use std::io::Write;
use std::path::Path;

use caravan_dataset::{Place, SkipReason, SourceSpec, find_files, read_documents};
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use crate::Dir;

fn read(spec: &SourceSpec) -> Vec<(String, Place)> {
    let documents = read_documents(spec, 3).unwrap().map(Result::unwrap);
    documents.inspect(|d| assert_eq!(d.source, 3)).map(|d| (d.text, d.origin.place)).collect()
}

fn texts(spec: &SourceSpec) -> Vec<String> {
    read(spec).into_iter().map(|(text, _)| text).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

#[test]
fn bytes_are_kept() {
    let dir = Dir::new();
    let text = "\u{feff}one\r\ntwo\rthree\n\n \u{0}nul far behind? no, here: \u{2028} 羊驼";
    let text = text.replace('\u{0}', "");
    let spec = SourceSpec::of([dir.write("a.txt", &text)]);
    assert_eq!(read(&spec), [(text, Place::Whole)]);
}

#[test]
fn separators_divide_with_line_numbers() {
    let dir = Dir::new();
    let mut spec =
        SourceSpec::of([dir.write("a.txt", "one\ntwo\n<|end|>three<|end|>\n\nfour<|end|>")]);
    spec.document_separator = Some("<|end|>".to_owned());
    let expected = [("one\ntwo\n", 1), ("three", 3), ("\n\nfour", 3)];
    assert_eq!(read(&spec), expected.map(|(text, line)| (text.to_owned(), Place::Line(line))));
}

#[test]
fn json_lines() {
    let dir = Dir::new();
    let lines = "\u{feff}{\"text\": \"one\\n\\u00e9\", \"id\": 1}\r\n\n  \n{\"meta\": {\"text\": \"no\"}, \"text\": \"two\"}\n{\"text\":\"\"}";
    let spec = SourceSpec::of([dir.write("a.jsonl", lines)]);
    let expected = [("one\né", 1), ("two", 4), ("", 5)];
    assert_eq!(read(&spec), expected.map(|(text, line)| (text.to_owned(), Place::Line(line))));
    let spec = SourceSpec {
        text_field: "body".to_owned(),
        ..SourceSpec::of([dir.write("b.NDJSON", "{\"body\": \"x\"}")])
    };
    assert_eq!(texts(&spec), ["x"]);
}

/// Files that pyarrow wrote: row groups, a nested column beside, zstd; see `data/make_parquet.py`.
#[test]
fn parquet_rows() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/data/rows.parquet");
    let rows = read(&SourceSpec::of([path.display().to_string()]));
    assert_eq!(rows.len(), 150);
    for (i, (text, place)) in (1..).zip(rows) {
        assert_eq!(
            text,
            format!("Row {i}: llamas walk, 羊驼走路。{}", "\n".repeat(i as usize % 3))
        );
        assert_eq!(place, Place::Row(i));
    }
}

#[test]
fn everything_comes_compressed_too() {
    let dir = Dir::new();
    let text = "some text, again and again\n".repeat(1000);
    let json = format!("{}\n", serde_json::json!({ "text": text }));
    let parquet = include_bytes!("data/rows.parquet");
    // Two gzip members, or two frames, in a row are one file, as `cat a.gz b.gz` makes.
    let (first, second) = text.as_bytes().split_at(5000);
    let paths = [
        dir.write("a.txt.gz", [gzip(first), gzip(second)].concat()),
        dir.write("a.txt.zst", [zstd(first), zstd(second)].concat()),
        dir.write("a.jsonl.gz", gzip(json.as_bytes())),
        dir.write("a.jsonl.zstd", zstd(json.as_bytes())),
        // The first bytes decide, not the name.
        dir.write("plain.txt", gzip(text.as_bytes())),
    ];
    for path in paths {
        assert_eq!(texts(&SourceSpec::of([&path])), std::slice::from_ref(&text), "{path}");
    }
    for path in
        [dir.write("a.parquet.gz", gzip(parquet)), dir.write("a.parquet.zst", zstd(parquet))]
    {
        assert_eq!(texts(&SourceSpec::of([path])).len(), 150);
    }
}

#[test]
fn folders_are_sorted_and_nothing_goes_unsaid() {
    let dir = Dir::new();
    for name in ["b.txt", "a/z.md", "a/B.TXT", "a.txt", "c.jsonl.zst"] {
        dir.write(&format!("in/{name}"), "{\"text\": \"x\"}");
    }
    for name in [".hidden.txt", ".git/a.txt", "pic.png", "README", "a/empty.txt"] {
        dir.write(&format!("in/{name}"), if name.contains("empty") { "" } else { "x" });
    }
    #[cfg(unix)]
    std::os::unix::fs::symlink(dir.path("in"), dir.path("in/a/loop")).unwrap();
    let files = find_files(&SourceSpec::of([dir.text("in"), dir.text("in/b.txt")])).unwrap();
    let name = |path: &Path| path.strip_prefix(dir.path("in")).unwrap().display().to_string();
    let found: Vec<_> = files.files.iter().map(|p| name(p)).collect();
    // By bytes: `.` (2e) is before `/` (2f).
    assert_eq!(found, ["a.txt", "a/B.TXT", "a/z.md", "b.txt", "c.jsonl.zst"]);
    let mut skipped: Vec<_> = files.skipped.iter().map(|s| (name(&s.path), s.reason)).collect();
    skipped.sort_by(|a, b| a.0.cmp(&b.0));
    let expected = [
        (".git", SkipReason::Hidden),
        (".hidden.txt", SkipReason::Hidden),
        ("README", SkipReason::UnknownExtension),
        ("a/empty.txt", SkipReason::Empty),
        ("b.txt", SkipReason::Repeated),
        ("pic.png", SkipReason::UnknownExtension),
    ];
    assert_eq!(skipped, expected.map(|(name, reason)| (name.to_owned(), reason)));
}

#[test]
fn globs_name_files() {
    let dir = Dir::new();
    for name in ["b.rs", "a.rs", ".c.rs", "sub/d.rs", "x[1].txt"] {
        dir.write(name, name);
    }
    assert_eq!(texts(&SourceSpec::of([dir.text("*.rs")])), ["a.rs", "b.rs"]);
    assert_eq!(texts(&SourceSpec::of([dir.text("**/*.rs")])), ["a.rs", "b.rs", "sub/d.rs"]);
    // A name that exists is no pattern.
    assert_eq!(texts(&SourceSpec::of([dir.text("x[1].txt")])), ["x[1].txt"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// `str::split` is the reference.
    #[test]
    fn separated_text_is_split(text in "[ab日\n]{0,60}", separator in "[ab日\n]{1,3}", filler in prop_oneof![Just(0usize), 1_048_500usize..1_048_600]) {
        // Some lie across the end of the first MiB, as much as is read at a time.
        let text = [&text, "-".repeat(filler).as_str(), &text].concat();
        prop_assume!(!text.is_empty());
        let dir = Dir::new();
        let mut spec = SourceSpec::of([dir.write("a.txt", &text)]);
        let mut expected: Vec<_> = text.split(&separator).map(str::to_owned).collect();
        if expected.last().is_some_and(String::is_empty) {
            expected.pop();
        }
        spec.document_separator = Some(separator);
        let found = read(&spec);
        prop_assert_eq!(found.len(), expected.len());
        let mut line = 1;
        for ((text, place), expected) in found.iter().zip(&expected) {
            prop_assert_eq!(text, expected);
            prop_assert_eq!(*place, Place::Line(line));
            let separator = spec.document_separator.as_ref().unwrap();
            line += (text.clone() + separator).matches('\n').count() as u64;
        }
    }

    /// Any bytes behind any name: documents or an error, never a panic.
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 1..400), kind in 0usize..8, at in any::<usize>()) {
        let dir = Dir::new();
        let name = ["a.txt", "a.jsonl", "a.parquet", "a.txt.gz", "a.jsonl.zst", "a.parquet.gz", "b.parquet", "c.parquet"][kind];
        let mut content = match name {
            "a.txt.gz" => gzip(&bytes),
            "a.jsonl.zst" => zstd(&bytes),
            "b.parquet" => include_bytes!("data/rows.parquet").to_vec(),
            "c.parquet" => include_bytes!("data/nulls.parquet").to_vec(),
            _ => bytes.clone(),
        };
        if name != "a.txt" {
            let at = at % content.len();
            content[at] ^= bytes[0];
        }
        let spec = SourceSpec::of([dir.write(name, content)]);
        for document in read_documents(&spec, 0).unwrap() {
            if let Err(error) = document {
                prop_assert!(error.to_string().contains("\nhelp: "), "{}", error);
            }
        }
    }
}
