//! From a file and `key=value` words to a [`RunConfig`].

use std::path::Path;

use toml::{Table, Value};

use super::keys::{find, suggestion};
use super::{KEYS, Key, RunConfig};
use crate::error::{Result, TrainError};

impl RunConfig {
    /// Reads a TOML file.
    ///
    /// # Errors
    /// The file cannot be read, is not TOML, has a key that does not exist or a value of another
    /// type.
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(TrainError::io("reading", path))?;
        Self::from_toml(&text, path)
    }

    /// Parses TOML text; `path` names it in errors.
    ///
    /// # Errors
    /// As [`RunConfig::from_file`].
    pub fn from_toml(text: &str, path: &Path) -> Result<Self> {
        let mut table: Table = toml::from_str(text).map_err(|e| TrainError::BadToml {
            path: path.to_path_buf(),
            problem: toml_problem(&e, text),
        })?;
        let origin = format!("configuration `{}`", path.display());
        let stages = super::stage::take(&mut table, &origin)?;
        let config = from_sections(sort_into_sections(table, &origin)?, &origin)?;
        Ok(Self { stages, ..config })
    }

    /// Applies `key=value` words in order.
    ///
    /// # Errors
    /// A word without `=`, an unknown key, a value of another type.
    pub fn with_overrides(self, words: &[String]) -> Result<Self> {
        if words.is_empty() {
            return Ok(self);
        }
        let origin = "command line";
        let mut sections = Table::try_from(&self).expect("a configuration is a TOML table");
        for word in words {
            let Some((name, value)) = word.split_once('=') else {
                return Err(TrainError::BadValue {
                    origin: origin.to_owned(),
                    key: word.clone(),
                    problem: "is neither an option nor `key=value`".to_owned(),
                    help: "write settings as key=value without spaces, e.g. steps=500".to_owned(),
                });
            };
            let key = find(name.trim()).ok_or_else(|| TrainError::UnknownKey {
                origin: origin.to_owned(),
                key: name.trim().to_owned(),
                help: suggestion(name.trim()),
            })?;
            if matches!(key.name, "steps" | "seq_len") && !self.stages.is_empty() {
                return Err(TrainError::BadValue {
                    origin: origin.to_owned(),
                    key: key.name.to_owned(),
                    problem: "is what the stages make it".to_owned(),
                    help: format!("change `{}` of the [[stages]] in the file", key.name),
                });
            }
            let section = sections.entry(key.section).or_insert_with(|| Value::Table(Table::new()));
            let Value::Table(section) = section else { unreachable!("sections are tables") };
            section.insert(key.name.to_owned(), parse_value(key.name, value.trim()));
            // One word at a time, so that the error names the word at fault.
            from_sections(sections.clone(), origin)?;
        }
        from_sections(sections, origin)
    }

    /// The resolved configuration as TOML, every key that has a value.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a configuration is a TOML table")
    }

    /// Keys that differ from `other` and that a resumed run may not change, with both values.
    pub fn identity_changes(&self, other: &Self) -> Vec<(&'static str, String, String)> {
        let pairs = self.values().into_iter().zip(other.values());
        let names = KEYS.iter().map(|key| (key.name, key.free)).chain([("stages", false)]);
        names
            .zip(pairs)
            .filter(|((_, free), ((_, a), (_, b)))| !free && a != b)
            .map(|((name, _), ((_, a), (_, b)))| (name, a, b))
            .collect()
    }

    /// Every key of [`KEYS`], and the stages, with its value as it is written, `unset` where it has none.
    pub(crate) fn values(&self) -> Vec<(&'static str, String)> {
        let table = Table::try_from(self).expect("a configuration is a TOML table");
        let value = |key: &Key| table.get(key.section).and_then(|section| section.get(key.name));
        let text = |key| value(key).map_or("unset".to_owned(), ToString::to_string);
        let stages = table.get("stages").map_or("none".to_owned(), ToString::to_string);
        KEYS.iter().map(|key| (key.name, text(key))).chain([("stages", stages)]).collect()
    }
}

/// Moves keys written at the top level into their section and refuses unknown ones.
fn sort_into_sections(table: Table, origin: &str) -> Result<Table> {
    let unknown = |place: String, key: &str| TrainError::UnknownKey {
        origin: place,
        key: key.to_owned(),
        help: suggestion(key),
    };
    let mut sorted = Table::new();
    let mut put = |name: &str, value: Value, place: String| -> Result<()> {
        let key = find(name).ok_or_else(|| unknown(place.clone(), name))?;
        let section = sorted.entry(key.section).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(section) = section else { unreachable!("sections are tables") };
        if section.insert(name.to_owned(), value).is_some() {
            return Err(TrainError::BadValue {
                origin: place,
                key: name.to_owned(),
                problem: "is set twice".to_owned(),
                help: "keep one of the two lines".to_owned(),
            });
        }
        Ok(())
    };
    for (name, value) in table {
        match value {
            Value::Table(inner) => {
                for (key, value) in inner {
                    put(&key, value, format!("{origin}, table [{name}]"))?;
                }
            }
            value => put(&name, value, origin.to_owned())?,
        }
    }
    Ok(sorted)
}

fn from_sections(mut sections: Table, origin: &str) -> Result<RunConfig> {
    // A whole number is fine where a fraction is expected: `peak_lr = 1`.
    for (section, name) in [
        ("optim", "peak_lr"),
        ("optim", "min_lr"),
        ("optim", "weight_decay"),
        ("optim", "grad_clip"),
        ("optim", "beta1"),
        ("optim", "beta2"),
        ("data", "val_fraction"),
        ("model", "rope_theta"),
        ("model", "init_std"),
    ] {
        if let Some(v) = sections.get_mut(section).and_then(|s| s.get_mut(name))
            && let Value::Integer(i) = v
        {
            *v = Value::Float(*i as f64);
        }
    }
    if let Some(v) = sections.get_mut("data").and_then(|s| s.get_mut("weights"))
        && let Value::Array(items) = v
    {
        for item in items {
            if let Value::Integer(i) = item {
                *item = Value::Float(*i as f64);
            }
        }
    }
    for key in KEYS {
        let Some(value) = sections.get(key.section).and_then(|s| s.get(key.name)) else { continue };
        let mut section = Table::new();
        section.insert(key.name.to_owned(), value.clone());
        let mut one = Table::new();
        one.insert(key.section.to_owned(), Value::Table(section));
        if let Err(e) = one.try_into::<RunConfig>() {
            return Err(TrainError::BadValue {
                origin: origin.to_owned(),
                key: key.name.to_owned(),
                problem: format!("= {value}: {}", e.message()),
                help: format!("give `{}` a value of the expected kind", key.name),
            });
        }
    }
    sections.try_into::<RunConfig>().map_err(|e| TrainError::BadValue {
        origin: origin.to_owned(),
        key: "configuration".to_owned(),
        problem: e.message().to_owned(),
        help: "correct that value".to_owned(),
    })
}

/// The value of a `key=value` word: TOML where it parses as such (numbers, `true`, quoted text,
/// lists), else the text itself. A list may be written with commas alone: `text=a.txt,b.txt`.
fn parse_value(name: &str, text: &str) -> Value {
    let list = matches!(name, "text" | "weights");
    let toml = |text: &str| {
        toml::from_str::<Table>(&format!("v = {text}")).ok().and_then(|mut t| t.remove("v"))
    };
    // Names that look like numbers are still names.
    let word = matches!(name, "tokenizer" | "preset" | "text_field" | "cache_dir" | "memory_limit");
    match toml(text) {
        Some(Value::Array(items)) if list => Value::Array(items),
        Some(value) if list => Value::Array(vec![value]),
        Some(Value::String(s)) => Value::String(s),
        Some(value) if !word => value,
        _ if list => Value::Array(
            text.split(',')
                .map(|t| toml(t).unwrap_or_else(|| Value::String(t.to_owned())))
                .collect(),
        ),
        _ => Value::String(unescape(name, text)),
    }
}

/// `document_separator=\n\n` is typed in a shell, where a line break is awkward.
fn unescape(name: &str, text: &str) -> String {
    if name == "document_separator" {
        text.replace("\\n", "\n").replace("\\t", "\t").replace("\\r", "\r")
    } else {
        text.to_owned()
    }
}

fn toml_problem(error: &toml::de::Error, text: &str) -> String {
    let line = error.span().map(|s| text[..s.start.min(text.len())].matches('\n').count() + 1);
    match line {
        Some(line) => format!("line {line}: {}", error.message().replace('\n', "; ")),
        None => error.message().replace('\n', "; "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn every_key_of_the_structure_is_in_the_table_and_back() {
        let full = RunConfig::default()
            .with_overrides(&words(&[
                "memory_limit=8GiB",
                "document_separator=\\n\\n",
                "tokenizer=t.model",
                "vocab_size=300",
                "preset=8m",
                "n_layers=2",
                "d_model=64",
                "n_heads=4",
                "n_kv_heads=2",
                "head_dim=16",
                "d_ff=128",
                "rope_theta=1e4",
                "init_std=0.05",
                "tie_embeddings=true",
                "min_lr=1e-5",
                "warmup_steps=3",
            ]))
            .unwrap();
        let table = Table::try_from(&full).unwrap();
        let mut seen = 0;
        for (section, inner) in &table {
            for name in inner.as_table().unwrap().keys() {
                assert_eq!(find(name).map(|k| k.section), Some(section.as_str()), "{name}");
                seen += 1;
            }
        }
        assert_eq!(seen, KEYS.len());
        assert_eq!(full.data.document_separator.as_deref(), Some("\n\n"));
    }

    #[test]
    fn file_and_overrides_meet() {
        let c =
            RunConfig::from_toml("steps = 7\n[optim]\npeak_lr = 1\n", Path::new("c.toml")).unwrap();
        assert_eq!((c.run.steps, c.optim.peak_lr), (7, 1.0));
        let c =
            c.with_overrides(&words(&["peak_lr=3e-4", "text=a.txt,b.txt", "tokenizer=7"])).unwrap();
        assert_eq!((c.run.steps, c.optim.peak_lr), (7, 3e-4));
        assert_eq!((c.data.text.len(), c.data.tokenizer.as_deref()), (2, Some("7")));
        assert_eq!(RunConfig::from_toml(&c.to_toml(), Path::new("x")).unwrap(), c);
    }

    #[test]
    fn mistakes_name_the_key_and_the_nearest() {
        let e =
            RunConfig::default().with_overrides(&words(&["peek_lr=1"])).unwrap_err().to_string();
        assert!(
            e.contains("unknown key `peek_lr`") && e.contains("did you mean `peak_lr`?"),
            "{e}"
        );
        let e =
            RunConfig::default().with_overrides(&words(&["batch_size=1"])).unwrap_err().to_string();
        assert!(e.contains("`global_batch`"), "{e}");
        let e =
            RunConfig::default().with_overrides(&words(&["steps=many"])).unwrap_err().to_string();
        assert!(e.contains("`steps`") && e.contains("many"), "{e}");
        let e = RunConfig::from_toml("[run]\nsteps = 1\nstepz = 2\n", Path::new("c.toml"))
            .unwrap_err()
            .to_string();
        assert!(e.contains("c.toml") && e.contains("[run]") && e.contains("`steps`"), "{e}");
        let e = RunConfig::from_toml("steps = = 2\n", Path::new("c.toml")).unwrap_err().to_string();
        assert!(e.contains("line 1"), "{e}");
    }
}
