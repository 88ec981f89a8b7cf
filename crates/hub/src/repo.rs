//! What a user writes to name a model on the hub.

use std::fmt;

use crate::error::{HubError, Result};

/// A repository, and perhaps one file of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repo {
    /// `owner/name`.
    pub id: String,
    /// A branch, a tag or a commit.
    pub revision: String,
    /// The one file that is wanted, such as a GGUF file; without it the model in Hugging Face form is.
    pub file: Option<String>,
}

impl Repo {
    /// Reads `owner/name`, `owner/name@revision`, `owner/name:file` or `owner/name@revision:file`.
    ///
    /// # Errors
    /// [`HubError::Name`] for anything else.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong =
            |problem: &str| HubError::Name { found: text.to_owned(), problem: problem.to_owned() };
        let (repo, file) = match text.split_once(':') {
            Some((repo, file)) => (repo, Some(file)),
            None => (text, None),
        };
        let (id, revision) = repo.split_once('@').unwrap_or((repo, "main"));
        let parts: Vec<&str> = id.split('/').collect();
        let is_word = |part: &&str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !part.is_empty() && part.chars().all(plain) && !part.starts_with('.')
        };
        if parts.len() != 2 || !parts.iter().all(is_word) {
            return Err(wrong("the repository is not of the form owner/name"));
        }
        if revision.is_empty() {
            return Err(wrong("there is no revision after the @"));
        }
        // A name from elsewhere must not lead out of the cache.
        let is_inside = |path: &str| path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if !is_inside(revision) || file.is_some_and(|file| !is_inside(file)) {
            return Err(wrong("a revision and a file are plain relative paths"));
        }
        Ok(Self { id: id.to_owned(), revision: revision.to_owned(), file: file.map(str::to_owned) })
    }
}

impl fmt::Display for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.id)?;
        if self.revision != "main" {
            write!(f, "@{}", self.revision)?;
        }
        match &self.file {
            Some(file) => write!(f, ":{file}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_four_forms() {
        for (text, revision, file) in [
            ("a-b/c.d_1", "main", None),
            ("a-b/c.d_1@v2", "v2", None),
            ("a-b/c.d_1:q/m.gguf", "main", Some("q/m.gguf")),
            ("a-b/c.d_1@refs/pr/3:m.gguf", "refs/pr/3", Some("m.gguf")),
        ] {
            let repo = Repo::parse(text).unwrap();
            assert_eq!(
                (repo.id.as_str(), repo.revision.as_str(), repo.file.as_deref()),
                ("a-b/c.d_1", revision, file)
            );
            assert_eq!(repo.to_string(), text);
        }
        assert_eq!(Repo::parse("a/b@main").unwrap().to_string(), "a/b");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "", "a", "a/b/c", "/b", "a/", "../b", "a/..", "a/b@", "a/b:", "a/b:../c", "a b/c",
            "a/b@../x",
        ] {
            let message = Repo::parse(text).unwrap_err().to_string();
            assert!(message.contains(&format!("`{text}`")) && message.contains("\nhelp: "));
        }
    }
}
