//! Labelled texts in files: TSV, CSV and JSON lines.

use std::collections::BTreeSet;
use std::path::Path;

use crate::error::{FinetuneError, Result, read_text};

/// A text and its class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Line of the file where it begins, counted from 1.
    pub line: usize,
    /// What is to be classified.
    pub text: String,
    /// The name of its class.
    pub label: String,
}

/// What the columns, or fields, are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    /// That of the text.
    pub text: String,
    /// That of the class.
    pub label: String,
}

impl Default for Columns {
    /// `text` and `label`.
    fn default() -> Self {
        Self { text: "text".to_owned(), label: "label".to_owned() }
    }
}

const FORMS: &str = "name it .tsv (text, tab, class), .csv (with a header) or .jsonl ({\"text\": .., \"label\": ..})";

/// Reads a file of examples; its ending says which form it has.
///
/// - `.tsv`: two columns, text and class, or more with a header that names them; no quotes.
/// - `.csv`: a header that names the columns; quotes as in RFC 4180.
/// - `.jsonl`: an object per line; the class is a text, a number or a boolean.
///
/// # Errors
/// The file is unreadable, empty or of another form, or a row has no text or class, with its line.
pub fn read_examples(path: &Path, columns: &Columns) -> Result<Vec<Example>> {
    let rows = rows(path, columns, true)?;
    let example = |(line, text, label): (usize, String, Option<String>)| {
        let row = |problem: &str| FinetuneError::Row {
            path: path.to_owned(),
            line,
            problem: problem.to_owned(),
            help: "give every row a text and a class".to_owned(),
        };
        let label = label.map(|label| label.trim().to_owned()).filter(|label| !label.is_empty());
        if text.trim().is_empty() {
            return Err(row("the text is empty"));
        }
        Ok(Example { line, text, label: label.ok_or_else(|| row("there is no class"))? })
    };
    rows.into_iter().map(example).collect()
}

/// Reads texts without classes from the same forms, or a text per line from any other file.
///
/// # Errors
/// As [`read_examples`], but a class may be missing.
pub fn read_texts(path: &Path, columns: &Columns) -> Result<Vec<String>> {
    Ok(rows(path, columns, false)?.into_iter().map(|(_, text, _)| text).collect())
}

/// The names of all classes, numbers by size and before other names.
///
/// # Errors
/// There are fewer than two.
pub fn class_names(path: &Path, examples: &[Example]) -> Result<Vec<String>> {
    let names: BTreeSet<&str> = examples.iter().map(|example| example.label.as_str()).collect();
    let mut names: Vec<String> = names.into_iter().map(str::to_owned).collect();
    if names.len() < 2 {
        return Err(FinetuneError::File {
            path: path.to_owned(),
            problem: format!(
                "all {} examples are of the class `{}`",
                examples.len(),
                names.concat()
            ),
            help: "give examples of at least two classes".to_owned(),
        });
    }
    names.sort_by(|a, b| match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(x), Ok(y)) => x.total_cmp(&y).then_with(|| a.cmp(b)),
        (Ok(_), Err(_)) => std::cmp::Ordering::Less,
        (Err(_), Ok(_)) => std::cmp::Ordering::Greater,
        _ => a.cmp(b),
    });
    Ok(names)
}

type Row = (usize, String, Option<String>);

fn rows(path: &Path, columns: &Columns, labelled: bool) -> Result<Vec<Row>> {
    let text = read_text(path)?;
    let text = text.as_str();
    let ending = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_lowercase();
    let rows = match ending.as_str() {
        "csv" => separated(path, text, columns, labelled)?,
        "tsv" => tabbed(path, text, columns, labelled)?,
        "jsonl" | "ndjson" | "json" => objects(path, text, columns)?,
        _ if !labelled => plain(text),
        _ => {
            let problem = format!("the ending `.{ending}` is none of a file of examples");
            return Err(FinetuneError::File {
                path: path.to_owned(),
                problem,
                help: FORMS.to_owned(),
            });
        }
    };
    if rows.is_empty() {
        let (path, problem) = (path.to_owned(), "it has no rows".to_owned());
        return Err(FinetuneError::File { path, problem, help: FORMS.to_owned() });
    }
    Ok(rows)
}

fn plain(text: &str) -> Vec<Row> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(i, line)| (i + 1, line.to_owned(), None)).collect()
}

/// Where the columns are, from a header.
fn places(
    path: &Path,
    header: &[&str],
    columns: &Columns,
    labelled: bool,
) -> Result<(usize, Option<usize>)> {
    let place = |name: &str| header.iter().position(|column| column.trim() == name);
    let missing = |name: &str| FinetuneError::Row {
        path: path.to_owned(),
        line: 1,
        problem: format!("there is no column `{name}` among {}", header.join(", ")),
        help: "name the columns with --text-column and --label-column".to_owned(),
    };
    let text = place(&columns.text).ok_or_else(|| missing(&columns.text))?;
    match place(&columns.label) {
        None if labelled => Err(missing(&columns.label)),
        label => Ok((text, label)),
    }
}

fn separated(path: &Path, text: &str, columns: &Columns, labelled: bool) -> Result<Vec<Row>> {
    let mut reader = csv::ReaderBuilder::new().flexible(false).from_reader(text.as_bytes());
    let bad = |error: &csv::Error| {
        let line = error.position().map_or(1, |position| position.line() as usize);
        FinetuneError::Row {
            path: path.to_owned(),
            line,
            problem: error.to_string(),
            help: "quote fields with commas, quotes or line ends, and double the quotes inside"
                .to_owned(),
        }
    };
    let header = reader.headers().map_err(|e| bad(&e))?.clone();
    let header: Vec<&str> = header.iter().collect();
    let (text_at, label_at) = places(path, &header, columns, labelled)?;
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|e| bad(&e))?;
        let line = record.position().map_or(0, |position| position.line() as usize);
        let field = |at: usize| record.get(at).unwrap_or_default().to_owned();
        rows.push((line, field(text_at), label_at.map(field)));
    }
    Ok(rows)
}

fn tabbed(path: &Path, text: &str, columns: &Columns, labelled: bool) -> Result<Vec<Row>> {
    let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).peekable();
    let first: Vec<&str> =
        lines.peek().map(|(_, line)| line.split('\t').collect()).unwrap_or_default();
    let has_header = first.iter().any(|column| column.trim() == columns.text);
    let (n, (text_at, label_at)) = match has_header {
        true => (first.len(), places(path, &first, columns, labelled)?),
        false => (if labelled { 2 } else { first.len() }, (0, (first.len() > 1).then_some(1))),
    };
    let mut rows = Vec::new();
    for (i, line) in lines.skip(usize::from(has_header)) {
        let fields: Vec<&str> = line.split('\t').collect();
        if fields.len() != n {
            return Err(FinetuneError::Row {
                path: path.to_owned(),
                line: i + 1,
                problem: format!("{} columns, expected {n}", fields.len()),
                help: "separate text and class by one tab; without a header there are two columns"
                    .to_owned(),
            });
        }
        rows.push((i + 1, fields[text_at].to_owned(), label_at.map(|at| fields[at].to_owned())));
    }
    Ok(rows)
}

fn objects(path: &Path, text: &str, columns: &Columns) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let row = |problem: String| FinetuneError::Row {
            path: path.to_owned(),
            line: i + 1,
            problem,
            help: "write an object such as {\"text\": \"..\", \"label\": \"..\"} on each line"
                .to_owned(),
        };
        let value: serde_json::Value =
            serde_json::from_str(line).map_err(|e| row(e.to_string()))?;
        let text = value.get(&columns.text).and_then(|text| text.as_str());
        let text = text.ok_or_else(|| row(format!("there is no text `{}`", columns.text)))?;
        let label = match value.get(&columns.label) {
            None | Some(serde_json::Value::Null) => None,
            Some(serde_json::Value::String(label)) => Some(label.clone()),
            Some(other @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_))) => {
                Some(other.to_string())
            }
            Some(_) => {
                return Err(row(format!("`{}` is neither a text nor a number", columns.label)));
            }
        };
        rows.push((i + 1, text.to_owned(), label));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> std::result::Result<Vec<(String, String)>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let found = read_examples(&path, &Columns::default()).map_err(|e| e.to_string())?;
        Ok(found.into_iter().map(|e| (e.text, e.label)).collect())
    }

    fn pair(text: &str, label: &str) -> (String, String) {
        (text.to_owned(), label.to_owned())
    }

    #[test]
    fn every_form_is_read() {
        let expected = [pair("good \"x\", y", "1"), pair("bad", "0")];
        assert_eq!(read("a.tsv", "good \"x\", y\t1\r\n\nbad\t0\r\n").unwrap(), expected);
        assert_eq!(
            read("a.tsv", "label\tid\ttext\n1\t7\tgood \"x\", y\n0\t8\tbad\n").unwrap(),
            expected
        );
        assert_eq!(
            read("a.csv", "\u{feff}label,text\n1,\"good \"\"x\"\", y\"\n0,bad\n").unwrap(),
            expected
        );
        let lines = "{\"text\": \"good \\\"x\\\", y\", \"label\": 1}\n{\"label\": \"0\", \"text\": \"bad\"}\n";
        assert_eq!(read("a.jsonl", lines).unwrap(), expected);
        assert_eq!(
            read("a.csv", "label,text\n1,\"two\nlines\"\n").unwrap(),
            [pair("two\nlines", "1")]
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (name, text, expected) in [
            ("a.tsv", "a\t1\nb\n", "line 2: 1 columns, expected 2"),
            ("a.tsv", "a\t1\n\t0\n", "line 2: the text is empty"),
            ("a.tsv", "a\t1\nb\t \n", "line 2: there is no class"),
            ("a.csv", "x,text\n1,2\n", "line 1: there is no column `label` among x, text"),
            ("a.csv", "label,text\n1\n", "line 2"),
            (
                "a.jsonl",
                "{\"text\": \"a\", \"label\": 1}\n{\"text\": 5}\n",
                "line 2: there is no text `text`",
            ),
            ("a.jsonl", "{", "line 1"),
            ("a.jsonl", "{\"text\": \"a\", \"label\": [1]}", "neither a text nor a number"),
            ("a.txt", "a", "the ending `.txt`"),
            ("a.tsv", "\n", "it has no rows"),
        ] {
            let message = read(name, text).unwrap_err();
            assert!(message.contains(expected) && message.contains("\nhelp: "), "{message}");
        }
    }

    #[test]
    fn classes_are_ordered_and_at_least_two() {
        let example = |label: &str| Example { line: 1, text: "x".into(), label: label.into() };
        let path = Path::new("f");
        let names = class_names(path, &["10", "b", "9", "a", "9"].map(example)).unwrap();
        assert_eq!(names, ["9", "10", "a", "b"]);
        let message = class_names(path, &[example("a"), example("a")]).unwrap_err().to_string();
        assert!(message.contains("all 2 examples are of the class `a`"), "{message}");
    }
}
