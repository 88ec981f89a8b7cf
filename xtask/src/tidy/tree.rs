//! Rules on every file: nothing of one machine or person, nothing large, nothing copied from the
//! shared test data.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use xshell::{Shell, cmd};

use super::{File, Finding};
use crate::project;

const MIB: u64 = 1 << 20;
/// The largest file, and the limits on `fixtures/`: all of it, and what is not the story corpus.
const MAX_FILE: u64 = 2 * MIB;
const MAX_FIXTURES: u64 = 2 * MIB;
const MAX_REFERENCES: u64 = MIB;

/// Files of the shared data that are shorter than this may be equal by chance.
const MIN_COPIED: u64 = 1024;

/// The machine that tidy runs on, whose traces must not be in the repository.
#[derive(Debug)]
pub(super) struct Machine {
    /// Beginnings of absolute paths.
    folders: Vec<String>,
    /// Its name, where that is not an ordinary word.
    host: Option<String>,
    /// Folder of test data that is not ours to publish; need not exist.
    shared: PathBuf,
}

impl Machine {
    /// Looks at the machine.
    ///
    /// # Errors
    /// When the name of the machine cannot be asked for.
    pub(super) fn look(sh: &Shell) -> Result<Self> {
        let mut folders: Vec<String> =
            ["work", "home", "root", "Users"].iter().map(|folder| format!("/{folder}/")).collect();
        let home = project::variable("HOME").map(PathBuf::from);
        for folder in [project::root().parent().map(Path::to_path_buf), home].into_iter().flatten()
        {
            if folder.components().count() > 1 {
                folders.push(format!("{}/", folder.display()));
            }
        }
        let host = if project::find_program("hostname").is_some() {
            Some(cmd!(sh, "hostname").quiet().read()?).filter(|name| is_telling(name))
        } else {
            None
        };
        let shared = project::variable("CARAVAN_SHARED").map(PathBuf::from);
        let shared = shared.unwrap_or_else(|| project::root().join("../shared"));
        Ok(Self { folders, host, shared })
    }
}

/// Holds the rules over every file.
///
/// # Errors
/// When the shared data cannot be read.
pub(super) fn check(files: &[File], machine: &Machine) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for file in files {
        findings.extend(size(file));
        // The lock file is cargo's, with addresses of its registry.
        if file.path != "Cargo.lock"
            && let Some(text) = &file.text
        {
            findings.extend(traces(&file.path, text, machine));
        }
    }
    findings.extend(fixtures(files));
    findings.extend(copies(files, &machine.shared)?);
    Ok(findings)
}

fn size(file: &File) -> Option<Finding> {
    (file.n_bytes > MAX_FILE).then(|| {
        Finding::failure(&file.path, format!("{} bytes; {MAX_FILE} is the limit", file.n_bytes))
    })
}

fn fixtures(files: &[File]) -> Vec<Finding> {
    let fixtures = files.iter().filter(|file| file.path.starts_with("fixtures/"));
    let (corpus, references): (Vec<&File>, Vec<&File>) = fixtures.partition(|file| {
        file.path.starts_with("fixtures/stories.") || file.path == "fixtures/corpus.json"
    });
    let sum = |files: &[&File]| files.iter().map(|file| file.n_bytes).sum::<u64>();
    let limits = [
        ("in all", sum(&corpus) + sum(&references), MAX_FIXTURES),
        ("beside the corpus", sum(&references), MAX_REFERENCES),
    ];
    let over = limits.iter().filter(|(_, n_bytes, limit)| n_bytes > limit);
    over.map(|(what, n_bytes, limit)| {
        Finding::failure("fixtures/", format!("{n_bytes} bytes {what}; {limit} is the limit"))
    })
    .collect()
}

/// Paths and names that mean something on one machine only, and mail addresses.
fn traces(path: &str, text: &str, machine: &Machine) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let place = format!("{path}:{}", index + 1);
        if let Some(folder) = machine.folders.iter().find(|folder| has_path(line, folder)) {
            findings.push(Finding::failure(&place, format!("a path of one machine: `{folder}`")));
        }
        if let Some(host) = machine.host.as_ref().filter(|host| has_word(line, host)) {
            findings.push(Finding::failure(&place, format!("the name of a machine: `{host}`")));
        }
        if let Some(address) = line.split(is_outside_address).find(|word| is_address(word)) {
            findings.push(Finding::failure(&place, format!("a mail address: `{address}`")));
        }
    }
    findings
}

/// `folder` stands in `line` as the beginning of a path, not inside one (`src/home/`).
fn has_path(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before
            .is_some_and(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | '}' | ')'))
    })
}

fn has_word(line: &str, word: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric() && c != '-' && c != '.')
        .any(|part| part.trim_matches('.') == word)
}

/// A name with a digit, dash or dot and some length: `vm` or `laptop` is a word like others.
fn is_telling(host: &str) -> bool {
    host.len() >= 6 && host.contains(|c: char| c.is_ascii_digit() || c == '-' || c == '.')
}

fn is_outside_address(c: char) -> bool {
    !(c.is_ascii_alphanumeric() || matches!(c, '@' | '.' | '_' | '-' | '+'))
}

/// A name, `@`, a host with a dot in it.
fn is_address(word: &str) -> bool {
    let Some((name, host)) = word.split_once('@') else { return false };
    let Some((domain, top)) = host.trim_end_matches('.').rsplit_once('.') else { return false };
    let is_name = |part: &str| !part.is_empty() && part.chars().any(|c| c.is_ascii_alphanumeric());
    is_name(name)
        && is_name(domain)
        && top.len() >= 2
        && top.chars().all(|c| c.is_ascii_lowercase())
}

/// Files whose content is that of a file of the shared data.
fn copies(files: &[File], shared: &Path) -> Result<Vec<Finding>> {
    let mut by_size: HashMap<u64, Vec<&File>> = HashMap::new();
    for file in files.iter().filter(|file| file.n_bytes >= MIN_COPIED) {
        by_size.entry(file.n_bytes).or_default().push(file);
    }
    let mut findings = Vec::new();
    let mut folders = vec![shared.join("data"), shared.join("reference")];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let Some(candidates) = by_size.get(&path.metadata()?.len()) else { continue };
            let content = std::fs::read(&path)?;
            for file in candidates {
                if std::fs::read(&file.full)? == content {
                    let message =
                        "a copy of a file of the shared data, which is not ours to publish";
                    findings.push(Finding::failure(&file.path, message));
                }
            }
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            folders: vec![format!("/{}/", "home"), format!("/{}/", "work")],
            host: Some("node-17".to_owned()),
            shared: PathBuf::from("no such folder"),
        }
    }

    fn found(text: &str) -> usize {
        traces("a.md", text, &machine()).len()
    }

    #[test]
    fn a_path_of_one_machine_fails() {
        assert_eq!(found(&format!("see /{}/me/x", "home")), 1);
        assert_eq!(found(&format!("\"/{}/x\"", "work")), 1);
        assert_eq!(found(&format!("src/{}/x and target/home/y", "work")), 0);
    }

    #[test]
    fn the_name_of_the_machine_fails() {
        assert_eq!(found("measured on node-17."), 1);
        assert_eq!(found("measured on node-17.example"), 0);
        assert_eq!(found("measured on node-17, twice"), 1);
        assert_eq!(found("measured on node-170"), 0);
        assert!(is_telling("node-17") && !is_telling("vm") && !is_telling("laptop"));
    }

    #[test]
    fn a_mail_address_fails() {
        let address = ["someone", "example.org"].join("@");
        assert_eq!(found(&format!("ask <{address}>.")), 1);
        assert_eq!(found("uses actions/checkout@v4 and a @ b.c and x@y"), 0);
    }

    #[test]
    fn large_files_and_fixtures_fail() {
        let file = |path: &str, n_bytes| File { n_bytes, ..File::of_text(path, "") };
        assert!(size(&file("a.bin", MAX_FILE + 1)).is_some());
        assert_eq!(size(&file("a.bin", MAX_FILE)), None);
        assert_eq!(fixtures(&[file("fixtures/stories.en.jsonl", MAX_REFERENCES + 1)]), []);
        assert_eq!(
            fixtures(&[file("fixtures/tiny/model.safetensors", MAX_REFERENCES + 1)]).len(),
            1
        );
        let files = [
            file("fixtures/stories.en.jsonl", MAX_FIXTURES / 2 + 1),
            file("fixtures/stories.zh.jsonl", MAX_FIXTURES / 2),
        ];
        assert_eq!(fixtures(&files).len(), 1);
    }

    #[test]
    fn a_copy_of_shared_data_fails() {
        let sh = Shell::new().unwrap();
        let folder = sh.create_temp_dir().unwrap();
        let data = folder.path().join("data/text");
        std::fs::create_dir_all(&data).unwrap();
        let content = "a".repeat(2000);
        std::fs::write(data.join("theirs.txt"), &content).unwrap();
        std::fs::write(folder.path().join("ours.txt"), &content).unwrap();
        let mut file = File::of_text("ours.txt", &content);
        file.full = folder.path().join("ours.txt");
        assert_eq!(copies(std::slice::from_ref(&file), folder.path()).unwrap().len(), 1);
        std::fs::write(&file.full, "b".repeat(2000)).unwrap();
        assert_eq!(copies(&[file], folder.path()).unwrap(), []);
    }
}
