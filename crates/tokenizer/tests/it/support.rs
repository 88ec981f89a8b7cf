//! What several tests need: the shared folder, Python, random text.

use std::path::{Path, PathBuf};
use std::process::Command;

use caravan_tokenizer::{DecodeStream, Encode};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The only place that reads the environment.
#[allow(clippy::disallowed_methods, reason = "tests are told where optional things lie")]
mod environment {
    pub(super) fn read(name: &str) -> Option<String> {
        std::env::var(name).ok().filter(|value| !value.is_empty())
    }
}

/// A file of the shared folder, or nothing and one loud line.
pub(crate) fn shared(test: &str, file: &str) -> Option<PathBuf> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared");
    let root = environment::read("CARAVAN_SHARED").unwrap_or_else(|| default.to_owned());
    let path = Path::new(&root).join(file);
    if !path.exists() {
        eprintln!("NOT RUN: {test}: no {file} in the shared folder");
        return None;
    }
    Some(path)
}

/// The three texts of the shared folder.
pub(crate) fn texts(test: &str) -> Option<Vec<(&'static str, String)>> {
    ["tinyshakespeare.txt", "wagahai.ja.txt", "wikitext2.valid.txt"]
        .into_iter()
        .map(|name| {
            let path = shared(test, &format!("data/text/{name}"))?;
            Some((name, std::fs::read_to_string(path).unwrap()))
        })
        .collect()
}

/// A Python script of `tests/python`, or nothing and one loud line.
pub(crate) struct Python {
    interpreter: String,
    script: PathBuf,
}

impl Python {
    pub(crate) fn new(test: &str, script: &str) -> Option<Self> {
        let Some(interpreter) = environment::read("CARAVAN_PYTHON") else {
            eprintln!("NOT RUN: {test}: CARAVAN_PYTHON is not set");
            return None;
        };
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(script);
        Some(Self { interpreter, script })
    }

    /// Runs the script with a JSON file as its input and reads the JSON file it writes.
    pub(crate) fn run<T: DeserializeOwned>(&self, args: &[&str], input: &Value) -> T {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("in.json"), dir.path().join("out.json"));
        std::fs::write(&from, serde_json::to_vec(input).unwrap()).unwrap();
        let mut command = Command::new(&self.interpreter);
        command.arg(&self.script).args(args).arg(&from).arg(&to);
        let done = command.output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        serde_json::from_slice(&std::fs::read(&to).unwrap()).unwrap()
    }
}

/// SplitMix64, so that the texts are the same everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }

    fn within(&mut self, from: u32, to: u32) -> char {
        let code = from + u32::try_from(self.below(u64::from(to - from + 1))).unwrap();
        char::from_u32(code).unwrap_or('\u{FFFD}')
    }

    fn char(&mut self) -> char {
        const ODD: [char; 12] = [
            '\0', '\t', '\n', '\r', '\u{7F}', '\u{85}', '\u{A0}', '\u{200D}', '\u{2028}',
            '\u{3000}', '\u{FEFF}', '\u{FFFD}',
        ];
        match self.below(16) {
            0..=2 => ' ',
            3..=5 => self.within(0x21, 0x7E),
            6 => self.within(0, 0x1F),
            7 => self.within(0x80, 0x24F),
            8 => self.within(0x300, 0x36F),
            9 => self.within(0x370, 0x1FFF),
            10 => self.within(0x3040, 0x9FFF),
            11 => self.within(0x1F300, 0x1FAFF),
            12 => ODD[usize::try_from(self.below(12)).unwrap()],
            13 => self.within(0x2000, 0x2BFF),
            14 => self.within(0x10000, 0x10_FFFF),
            // All scalars; surrogates become U+FFFD.
            _ => self.within(0, 0x10_FFFF),
        }
    }

    /// A text of up to 60 characters; every tenth repeats one character, for runs.
    pub(crate) fn text(&mut self) -> String {
        let n = self.below(61);
        if self.below(10) == 0 {
            let c = self.char();
            return (0..n).map(|_| if self.below(8) == 0 { self.char() } else { c }).collect();
        }
        (0..n).map(|_| self.char()).collect()
    }

    pub(crate) fn texts(&mut self, n: usize) -> Vec<String> {
        (0..n).map(|_| self.text()).collect()
    }
}

/// Texts that have broken tokenizers before.
pub(crate) fn odd_texts() -> Vec<String> {
    let mut texts: Vec<String> = [
        "",
        " ",
        "  ",
        "   a",
        "a  ",
        "\n",
        "\n\n",
        " \n a",
        "a \n",
        "\t",
        "\0",
        "a\0b",
        "\r\n",
        "▁a ▁ b",
        "<s>",
        "</s>",
        "<unk>",
        "<0x0A>",
        "<|begin_of_text|>",
        "a<s>b</s>",
        "[INST] hi [/INST]",
        "👩‍👩‍👧‍👦 🇩🇪",
        "e\u{301}\u{302}",
        "\u{FEFF}x",
        "\u{FFFD}",
        "I'm you'LL 1234567 x",
        "吾輩は猫である。",
    ]
    .map(str::to_owned)
    .into();
    texts.push(" ".repeat(1000));
    texts.push("a".repeat(5000));
    texts.push("ab ".repeat(3000));
    texts.push("あ".repeat(2000));
    texts.push("\n".repeat(700));
    texts
}

/// Whether text and ids go together: decoding gives the text, and a stream gives the same.
pub(crate) fn assert_round_trip(tokenizer: &dyn Encode, text: &str) {
    let ids = tokenizer.encode(text).unwrap();
    let begin: String = text.chars().take(200).collect();
    // Not assert_eq, which would print texts of megabytes.
    assert!(tokenizer.decode(&ids).unwrap() == text, "decoding: {begin:?}");
    assert!(streamed(tokenizer, &ids) == text, "streaming: {begin:?}");
}

/// The concatenation of what a stream gives.
pub(crate) fn streamed(tokenizer: &dyn Encode, ids: &[u32]) -> String {
    let mut stream = DecodeStream::new(tokenizer);
    let mut text: String = ids.iter().filter_map(|id| stream.push(*id).unwrap()).collect();
    text.push_str(&stream.finish().unwrap().unwrap_or_default());
    text
}

/// Encodes with so many threads.
pub(crate) fn with_threads<T: Send>(n: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap().install(work)
}

/// Prints the rates of one thread, ours and Python's.
pub(crate) fn report(test: &str, texts: &[String], ours_secs: f64, theirs_secs: f64) {
    let mb = texts.iter().map(String::len).sum::<usize>() as f64 / 1e6;
    let (ours, theirs) = (mb / ours_secs, mb / theirs_secs);
    eprintln!("{test}: {mb:.1} MB, one thread: {ours:.1} MB/s, Python {theirs:.1} MB/s");
}
