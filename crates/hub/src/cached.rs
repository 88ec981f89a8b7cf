//! A model that was brought earlier, found without the server.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use hf_hub::CacheRepo;

use crate::fetch::INDEX;
use crate::repo::Repo;

/// The folder or file that the server would give, where all of it is here.
///
/// Weights are brought last, so that with them everything beside them is here.
pub(crate) fn find(cache: &CacheRepo, repo: &Repo) -> Option<PathBuf> {
    if let Some(file) = &repo.file {
        return cache.get(file);
    }
    let folder = cache.get("config.json")?.parent()?.to_owned();
    let is_here = match folder.join(INDEX).exists() {
        true => parts(&folder)?.iter().all(|part| folder.join(part).exists()),
        false => has_weights(&folder)?,
    };
    is_here.then_some(folder)
}

/// The files that the index of the weights names.
fn parts(folder: &Path) -> Option<BTreeSet<String>> {
    let text = std::fs::read(folder.join(INDEX)).ok()?;
    let index: serde_json::Value = serde_json::from_slice(&text).ok()?;
    let names = index.get("weight_map")?.as_object()?.values();
    let names: Option<BTreeSet<String>> = names.map(|n| n.as_str().map(str::to_owned)).collect();
    names.filter(|names| !names.is_empty())
}

fn has_weights(folder: &Path) -> Option<bool> {
    let mut files = std::fs::read_dir(folder).ok()?.filter_map(Result::ok);
    Some(files.any(|file| file.path().extension().is_some_and(|end| end == "safetensors")))
}
