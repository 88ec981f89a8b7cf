//! Asking a hub what a repository has, and bringing what a model needs.

use std::path::{Path, PathBuf};

use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, CacheRepo, Repo as HubRepo, RepoType};
use sha2::{Digest as _, Sha256};

use crate::cached;
use crate::error::{HubError, Result};
use crate::repo::Repo;

/// A hub to ask.
#[derive(Clone, Debug, Default)]
pub struct Hub {
    endpoint: Option<String>,
    cache: Option<PathBuf>,
    token: Option<String>,
}

/// What happens on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A file is on its way.
    Progress {
        /// Its name.
        file: String,
        /// Bytes that are here, those of an earlier try included.
        done: u64,
        /// Its size.
        total: u64,
    },
    /// A file is here and checked.
    Done {
        /// Its name.
        file: String,
    },
    /// The server does not answer, and what was brought earlier is taken. It may have something newer.
    Offline {
        /// What the transfer said.
        problem: String,
    },
}

/// Where the hub is unless something else is said.
const ENDPOINT: &str = "https://huggingface.co";

/// How often a transfer is taken up again by itself.
const RETRIES: usize = 3;

impl Hub {
    /// huggingface.co and its cache in the user's home, with the token that `huggingface-cli login` left there.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another server, such as `http://127.0.0.1:8000`.
    #[must_use]
    pub fn with_endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoint = Some(endpoint.into().trim_end_matches('/').to_owned());
        self
    }

    /// Another folder for what is downloaded.
    #[must_use]
    pub fn with_cache(mut self, cache: impl Into<PathBuf>) -> Self {
        self.cache = Some(cache.into());
        self
    }

    /// A token for repositories that are not open to all.
    #[must_use]
    pub fn with_token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Brings what is not here yet, and returns the folder of the model, or the one file that was asked for.
    ///
    /// # Errors
    /// No such repository, or nothing in it that can be loaded; a failed transfer, which goes on where it ended when this is
    /// called again; a file that is not what the server said.
    pub fn fetch(&self, repo: &Repo, on_event: &mut dyn FnMut(&Event)) -> Result<PathBuf> {
        let mut builder = ApiBuilder::new().with_progress(false).with_retries(RETRIES);
        if let Some(cache) = &self.cache {
            builder = builder.with_cache_dir(cache.clone());
        }
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint.clone());
        }
        if let Some(token) = &self.token {
            builder = builder.with_token(Some(token.clone()));
        }
        let api = builder.build().map_err(|e| self.error(format!("asking for `{repo}`"), &e))?;
        let info = match api.repo(name_of(repo)).info() {
            Ok(info) => info,
            Err(error) => {
                // A server that answers has the last word; one that does not cannot take away what is here.
                let is_answer = status(&error).is_some_and(|status| status < 500);
                let here = cached::find(&self.cache_of(repo), repo).filter(|_| !is_answer);
                let asked = self.error(format!("the repository `{repo}`"), &error);
                let Some(path) = here else { return Err(asked) };
                on_event(&Event::Offline { problem: error.to_string() });
                return Ok(path);
            }
        };
        let all: Vec<&str> = info.siblings.iter().map(|file| file.rfilename.as_str()).collect();
        let wanted = wanted(repo, &all)?;
        let mut folder = PathBuf::new();
        for file in &wanted {
            let path = self.bring(&api, repo, file, on_event)?;
            on_event(&Event::Done { file: (*file).to_owned() });
            if repo.file.is_some() {
                return Ok(path);
            }
            folder = path.parent().unwrap_or(Path::new("")).to_owned();
        }
        Ok(folder)
    }

    fn bring(
        &self,
        api: &Api,
        repo: &Repo,
        file: &str,
        on_event: &mut dyn FnMut(&Event),
    ) -> Result<PathBuf> {
        let cache = self.cache_of(repo);
        // What was brought before is asked for without a word of the server.
        if let Some(path) = cache.get(file) {
            return Ok(path);
        }
        let failed = |e: ApiError| self.error(format!("`{file}` of `{repo}`"), &e);
        let api_repo = api.repo(name_of(repo));
        let about = api.metadata(&api_repo.url(file)).map_err(failed)?;
        // The library makes names of files of these.
        for name in [about.etag(), about.commit_hash()] {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if name.is_empty() || name.starts_with('.') || !name.chars().all(is_plain) {
                let problem = format!("its tag or commit `{name}` is no plain word");
                let endpoint = self.endpoint.clone().unwrap_or_else(|| ENDPOINT.to_owned());
                return Err(HubError::Transfer { what: format!("`{file}`"), endpoint, problem });
            }
        }
        let size = about.size() as u64;
        mend(&cache.blob_path(about.etag()).with_extension("part"), size)?;
        let report = Report { file, done: 0, total: size, on_event };
        let path = api_repo.download_with_progress(file, report).map_err(failed)?;
        check(repo, file, &path, size)?;
        Ok(path)
    }

    fn cache_of(&self, repo: &Repo) -> CacheRepo {
        let cache = self.cache.as_ref().map_or_else(Cache::default, |dir| Cache::new(dir.clone()));
        cache.repo(name_of(repo))
    }

    fn error(&self, what: String, error: &ApiError) -> HubError {
        let endpoint = self.endpoint.clone().unwrap_or_else(|| ENDPOINT.to_owned());
        match status(error) {
            Some(status @ (401 | 403)) => HubError::Refused {
                what,
                endpoint,
                status,
                help: "ask for access on its page and log in with `huggingface-cli login`; names that do not exist are answered like this, too",
            },
            Some(404) => HubError::Refused {
                what,
                endpoint,
                status: 404,
                help: "check the spelling of owner, name, revision and file",
            },
            Some(status) => HubError::Refused {
                what,
                endpoint,
                status,
                help: "try again later: what has arrived is kept",
            },
            None => HubError::Transfer { what, endpoint, problem: error.to_string() },
        }
    }
}

fn name_of(repo: &Repo) -> HubRepo {
    HubRepo::with_revision(repo.id.clone(), RepoType::Model, repo.revision.clone())
}

/// Makes what is left of an earlier try one that can be gone on with. The library asks for all bytes behind those that are
/// here, which a server refuses if there are none, as when a program was killed just before it named the file.
fn mend(part: &Path, size: u64) -> Result<()> {
    let io = |action| move |source| HubError::Io { action, path: part.to_owned(), source };
    let Ok(about) = part.metadata() else { return Ok(()) };
    if about.len() > size {
        return std::fs::remove_file(part).map_err(io("remove"));
    }
    if about.len() == size && size > 0 {
        let file = std::fs::OpenOptions::new().write(true).open(part).map_err(io("open"))?;
        file.set_len(size - 1).map_err(io("shorten"))?;
    }
    Ok(())
}

/// The status of HTTP that an error is about.
fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(error) => match **error {
            ureq::Error::StatusCode(status) => Some(status),
            _ => None,
        },
        ApiError::TooManyRetries(error) => status(error),
        _ => None,
    }
}

/// The list of the parts that weights lie in.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// Which of a repository's files a model needs.
fn wanted<'a>(repo: &'a Repo, all: &[&'a str]) -> Result<Vec<&'a str>> {
    let content =
        |problem: String, help: String| HubError::Content { repo: repo.to_string(), problem, help };
    let ending = |end: &str| all.iter().copied().filter(|f| f.ends_with(end)).collect::<Vec<_>>();
    if let Some(file) = &repo.file {
        return match all.contains(&file.as_str()) {
            true => Ok(vec![file.as_str()]),
            false => Err(content(
                "has no such file".to_owned(),
                format!("its files are {}", all.join(", ")),
            )),
        };
    }
    let weights: Vec<&str> =
        ending(".safetensors").into_iter().filter(|file| !file.contains('/')).collect();
    if !all.contains(&"config.json") || weights.is_empty() {
        let gguf = ending(".gguf");
        return Err(match gguf.first() {
            Some(first) => content(
                "has GGUF files".to_owned(),
                format!("name one of them, as in {repo}:{first}; there are {}", gguf.join(", ")),
            ),
            None => content(
                "has no config.json with weights in .safetensors".to_owned(),
                "only these are read; convert other weights with transformers, by save_pretrained"
                    .to_owned(),
            ),
        });
    }
    const BESIDE: [&str; 9] = [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
        "added_tokens.json",
        INDEX,
    ];
    // With an index the weights are its parts; some repositories have another copy as one file.
    let weights = match all.contains(&INDEX) {
        true => weights.into_iter().filter(|file| file.contains("-of-")).collect(),
        false => weights,
    };
    Ok(BESIDE.into_iter().filter(|file| all.contains(file)).chain(weights).collect())
}

/// Holds a file against its size, and against its SHA-256 where the hub has named it by that.
fn check(repo: &Repo, file: &str, path: &Path, size: u64) -> Result<()> {
    let io = |action| move |source| HubError::Io { action, path: path.to_owned(), source };
    let blob = std::fs::canonicalize(path).map_err(io("find"))?;
    let found = blob.metadata().map_err(io("read"))?.len();
    let name = blob.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let mut differs = (found != size).then(|| (format!("{size} bytes"), format!("{found}")));
    if differs.is_none() && name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit()) {
        let mut hasher = Sha256::new();
        let mut reader = std::fs::File::open(&blob).map_err(io("read"))?;
        std::io::copy(&mut reader, &mut hasher).map_err(io("read"))?;
        let hash: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        differs = (hash != name.to_lowercase()).then(|| (format!("SHA-256 {name}"), hash));
    }
    let Some((expected, found)) = differs else { return Ok(()) };
    for path in [path, &blob] {
        std::fs::remove_file(path).map_err(io("remove"))?;
    }
    Err(HubError::Damaged { repo: repo.to_string(), file: file.into(), expected, found })
}

/// Hands the library's progress on.
struct Report<'a> {
    file: &'a str,
    done: u64,
    total: u64,
    on_event: &'a mut dyn FnMut(&Event),
}

impl Progress for Report<'_> {
    fn init(&mut self, _: usize, _: &str) {
        self.done = 0;
    }

    fn update(&mut self, size: usize) {
        self.done += size as u64;
        let (done, total) = (self.done, self.total);
        (self.on_event)(&Event::Progress { file: self.file.to_owned(), done, total });
    }

    fn finish(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_needs_these_files() {
        let repo = Repo::parse("a/b").unwrap();
        let all = [
            "README.md",
            "config.json",
            "model.safetensors",
            "onnx/x.safetensors",
            "tokenizer.json",
        ];
        let expected = ["config.json", "tokenizer.json", "model.safetensors"];
        assert_eq!(wanted(&repo, &all).unwrap(), expected);
        let all = [
            "config.json",
            "consolidated.safetensors",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
        ];
        let found = wanted(&repo, &all).unwrap();
        assert_eq!(found.len(), 4);
        assert!(!found.contains(&"consolidated.safetensors"));
        let message = wanted(&repo, &["m.Q4_0.gguf"]).unwrap_err().to_string();
        assert!(message.contains("a/b:m.Q4_0.gguf"), "{message}");
        let message = wanted(&repo, &["config.json", "pytorch_model.bin"]).unwrap_err().to_string();
        assert!(message.contains("save_pretrained"), "{message}");
        let one = Repo::parse("a/b:m.gguf").unwrap();
        assert_eq!(wanted(&one, &["m.gguf", "n.gguf"]).unwrap(), ["m.gguf"]);
        assert!(
            wanted(&one, &["n.gguf"]).unwrap_err().to_string().contains("its files are n.gguf")
        );
    }
}
