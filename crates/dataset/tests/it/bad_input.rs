//! One row per way that input can be bad, with the whole message. The table is `data/messages.md`;
//! on a difference the test prints what it got.

use std::fmt::Write as _;
use std::fs;
use std::sync::Arc;

use caravan_dataset::{
    BuildConfig, DatasetError, Loader, LoaderConfig, Packing, ShardSet, Side, SourceSpec, build,
    find_files, read_documents, split_documents,
};
use caravan_tokenizer::ByteTokenizer;

use crate::{Dir, built, config};

/// The error of reading all documents of a source.
fn reading(spec: &SourceSpec) -> DatasetError {
    match read_documents(spec, 0) {
        Err(error) => error,
        Ok(mut documents) => documents.find_map(Result::err).expect("the source is bad"),
    }
}

fn paths<const N: usize>(paths: [String; N]) -> SourceSpec {
    SourceSpec::of(paths)
}

#[test]
fn messages() {
    let dir = Dir::new();
    let mut table = Vec::new();
    find_rows(&dir, &mut table);
    text_rows(&dir, &mut table);
    format_rows(&dir, &mut table);
    setting_rows(&dir, &mut table);
    shard_rows(&dir, &mut table);
    loader_rows(&dir, &mut table);
    let mut text = String::from("# Messages for bad input\n\n`DIR` stands for a folder.\n");
    for (what, error) in table {
        let message = error.to_string();
        assert!(message.contains("\nhelp: ") && !message.ends_with('.'), "{message}");
        assert!(!message.starts_with(char::is_uppercase), "{message}");
        let message = message.replace(&dir.0.path().display().to_string(), "DIR");
        let message =
            message.replace(&std::env::current_dir().unwrap().display().to_string(), "CWD");
        let message = without_hashes(&message);
        write!(text, "\n{what}\n\n```text\nerror: {message}\n```\n").unwrap();
    }
    let expected = include_str!("data/messages.md");
    assert!(text == expected, "the messages are now:\n{text}");
}

/// Hashes depend on the temporary folder.
fn without_hashes(message: &str) -> String {
    let is_hash = |word: &str| word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit());
    let parts = message.split_inclusive([' ', ',', '\n']);
    let part = |part: &str| {
        let word = part.trim_end_matches([' ', ',', '\n']);
        if is_hash(word) { part.replace(word, "HASH") } else { part.to_owned() }
    };
    parts.map(part).collect()
}

type Table = Vec<(&'static str, DatasetError)>;

fn find_rows(dir: &Dir, table: &mut Table) {
    let missing = find_files(&paths([dir.text("no.txt")]));
    table.push(("A file that is not there", missing.unwrap_err()));
    let empty = find_files(&paths([dir.write("empty.txt", "")]));
    table.push(("An empty file", empty.unwrap_err()));
    dir.write("pictures/a.png", "x");
    dir.write("pictures/.notes.txt", "x");
    let folder = find_files(&paths([dir.text("pictures")]));
    table.push(("A folder without text", folder.unwrap_err()));
    fs::create_dir(dir.path("void")).unwrap();
    table.push(("An empty folder", find_files(&paths([dir.text("void")])).unwrap_err()));
    table.push((
        "A glob that matches nothing",
        find_files(&paths([dir.text("*.json")])).unwrap_err(),
    ));
    table.push(("A malformed glob", find_files(&paths(["a/***/b".to_owned()])).unwrap_err()));
    #[cfg(unix)]
    {
        let socket = std::os::unix::net::UnixListener::bind(dir.path("socket")).unwrap();
        table.push((
            "A pipe, socket or device",
            find_files(&paths([dir.text("socket")])).unwrap_err(),
        ));
        drop(socket);
    }
}

fn text_rows(dir: &Dir, table: &mut Table) {
    let mut bad = |what, name: &str, bytes: &[u8]| {
        table.push((what, reading(&paths([dir.write(name, bytes)]))));
    };
    bad("Bytes that are not UTF-8", "latin.txt", b"caf\xe9 au lait\n");
    bad("A character cut off at the end", "cut.txt", "no 羊".as_bytes().split_last().unwrap().1);
    bad("UTF-16 text", "wide.txt", b"\xff\xfea\0b\0");
    bad("A binary file", "program.txt", b"\x7fELF\x02\x01\x01\0\0");
    let text: String = (0..20_000).map(|i| format!("{} ", i * i)).collect();
    let zst = zstd::encode_all(text.as_bytes(), 3).unwrap();
    bad("zstd data that is cut short", "short.txt.zst", &zst[..zst.len() / 2]);
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gz, &text.as_bytes()[..3000]).unwrap();
    let mut gz = gz.finish().unwrap();
    bad("gzip data that is cut short", "short.txt.gz", &gz[..gz.len() - 9]);
    let middle = gz.len() - 6;
    gz[middle] ^= 0xff;
    bad("gzip data that is damaged", "damaged.txt.gz", &gz);
    bad("A name that promises gzip", "plain.txt.gz", b"just text");
}

fn format_rows(dir: &Dir, table: &mut Table) {
    let mut bad = |what, name: &str, text: &str| {
        table.push((what, reading(&paths([dir.write(name, text)]))));
    };
    bad("A line that is not JSON", "a.jsonl", "{\"text\": \"one\"}\n{\"text\": \"two}\n");
    bad("A line that is no object", "b.jsonl", "{\"text\": \"one\"}\n\n[1]\n");
    bad("Two objects in a line", "c.jsonl", "{\"text\": \"one\"} {\"text\": \"two\"}");
    bad("A line without the field", "d.jsonl", "{\"id\": 1, \"texts\": \"one\"}");
    bad("A field that is no string", "e.jsonl", "{\"text\": null}");
    bad("A parquet file that is none", "f.parquet", "PAR0 and so on");
    let data = format!("{}/tests/it/data", env!("CARGO_MANIFEST_DIR"));
    let copy = |name: &str| dir.write(name, fs::read(format!("{data}/{name}")).unwrap());
    let column = |name: &str, column: &str| {
        let spec = SourceSpec { text_field: column.to_owned(), ..paths([copy(name)]) };
        reading(&spec)
    };
    table.push(("A column that is not there", column("rows.parquet", "txt")));
    table.push(("A column of numbers", column("rows.parquet", "id")));
    table.push(("A column of lists", column("rows.parquet", "tags")));
    table.push(("A null in the column", column("nulls.parquet", "text")));
    table.push(("A column of bytes that are no text", column("nulls.parquet", "raw")));
    let mut bytes = fs::read(format!("{data}/rows.parquet")).unwrap();
    bytes[40..400].fill(0x55);
    table.push(("A damaged parquet file", reading(&paths([dir.write("g.parquet", bytes)]))));
}

fn setting_rows(dir: &Dir, table: &mut Table) {
    let good = dir.jsonl("good.jsonl", &["one\n", "two\n"]);
    let mut bad = |what, config: BuildConfig| {
        let out = dir.path("unbuilt");
        let error = build(&config, &ByteTokenizer::new(), &out, &mut |_| {}).unwrap_err();
        assert!(!out.exists());
        table.push((what, error));
    };
    bad("No source", config(vec![], 0.1));
    bad("A source without paths", config(vec![paths([])], 0.1));
    bad("A fraction that is none", config(vec![good.clone()], 1.0));
    bad("A fraction that is no number", config(vec![good.clone()], f64::NAN));
    let separator = SourceSpec { document_separator: Some(String::new()), ..good.clone() };
    bad("An empty separator", config(vec![separator], 0.1));
    bad("A shard size of zero", BuildConfig { shard_bytes: 0, ..config(vec![good.clone()], 0.1) });
    bad("Nothing but white space", config(vec![paths([dir.write("blank.txt", " \n\n")])], 0.1));
    bad(
        "The same document again and again",
        config(vec![dir.jsonl("same.jsonl", &["one\n"; 4])], 0.3),
    );
    let blocked = dir.write("file", "x") + "/set";
    let error = build(
        &config(vec![good.clone()], 0.1),
        &ByteTokenizer::new(),
        blocked.as_ref(),
        &mut |_| {},
    );
    table.push(("A folder that cannot be made", error.unwrap_err()));
    dir.write("taken/mine.txt", "x");
    let error =
        build(&config(vec![good], 0.1), &ByteTokenizer::new(), &dir.path("taken"), &mut |_| {});
    table.push(("A folder that holds something", error.unwrap_err()));
    let mut late: Vec<String> = (0..150).map(|i| format!("text {i}")).collect();
    late.truncate(150);
    let spec = dir.jsonl("late.jsonl", &late);
    let file = dir.path("late.jsonl");
    fs::write(&file, fs::read_to_string(&file).unwrap() + "{\"tex\": 1}\n").unwrap();
    let error = split_documents(&config(vec![spec], 0.1)).unwrap().find_map(Result::err).unwrap();
    table.push(("A bad line far behind", error));
}

fn shard_rows(dir: &Dir, table: &mut Table) {
    let texts: Vec<String> = (0..120).map(|i| format!("Document number {i}.\n")).collect();
    let set = built(&config(vec![dir.jsonl("docs.jsonl", &texts)], 0.1), &dir.path("set"));
    let path = dir.path("set/train-00000.shard");
    let manifest = dir.path("set/dataset.json");
    let (good, good_manifest) = (fs::read(&path).unwrap(), fs::read_to_string(&manifest).unwrap());
    let mut bad = |what, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        table.push((what, ShardSet::verify(&dir.path("set")).unwrap_err()));
    };
    drop(set);
    bad("A shard that is cut short", &|b| b.truncate(3000));
    bad("A shard that is cut in its header", &|b| b.truncate(100));
    bad("An empty shard", &|b| b.clear());
    bad("A file that is no shard", &|b| b[..4].copy_from_slice(b"PK\x03\x04"));
    bad("A shard of a later version", &|b| b[8] = 2);
    bad("A bit flipped in the header", &|b| b[81] ^= 4);
    bad("A bit flipped in the tokens", &|b| b[301] ^= 4);
    bad("A bit flipped in the text", &|b| *b.last_mut().unwrap() ^= 4);
    bad("Bytes behind the end", &|b| b.push(0));
    fs::remove_file(&path).unwrap();
    table.push(("A shard that is gone", ShardSet::open(&dir.path("set")).unwrap_err()));
    fs::write(&path, &good).unwrap();
    let mut bad = |what, text: &str| {
        fs::write(&manifest, text).unwrap();
        table.push((what, ShardSet::open(&dir.path("set")).unwrap_err()));
    };
    bad("A manifest that is cut short", &good_manifest[..100]);
    bad(
        "A manifest that was edited",
        &good_manifest.replace("\"val_fraction\": 0.1", "\"val_fraction\": 0.2"),
    );
    bad(
        "A manifest of a later version",
        &good_manifest.replace("\"version\": 1", "\"version\": 9"),
    );
    fs::remove_file(&manifest).unwrap();
    table.push(("A folder that is no set", ShardSet::open(&dir.path("set")).unwrap_err()));
    table.push(("A set that is not there", ShardSet::open(&dir.path("no-set")).unwrap_err()));
}

fn loader_rows(dir: &Dir, table: &mut Table) {
    let sources =
        vec![dir.jsonl("l.jsonl", &["a".repeat(90)]), dir.jsonl("m.jsonl", &["b".repeat(20)])];
    let set: Arc<ShardSet> = built(&config(sources, 0.0), &dir.path("small"));
    let mut bad = |what, side, seq_len, packing, weights: &[f64]| {
        let config =
            LoaderConfig { seq_len, packing, weights: weights.to_vec(), ..Default::default() };
        table.push((what, Loader::new(set.clone(), side, config).unwrap_err()));
    };
    let packing = Packing::ConcatSplit;
    bad("A sequence longer than the data", Side::Train, 114, packing, &[]);
    bad("The same, with best fit", Side::Train, 5000, Packing::BestFit, &[]);
    bad("A sequence longer than a source", Side::Train, 50, packing, &[1.0, 1.0]);
    bad("A side that is empty", Side::Val, 8, packing, &[]);
    bad("A sequence of nothing", Side::Train, 0, packing, &[]);
    bad("Weights that do not fit", Side::Train, 8, packing, &[1.0]);
    bad("A negative weight", Side::Train, 8, packing, &[1.0, -1.0]);
}
