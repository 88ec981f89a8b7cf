//! Text to a tokenizer and shards, each made once and found again by content hash.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use caravan_dataset::{
    BuildConfig, BuildReport, DocumentCounts, Loader, LoaderConfig, ShardSet, Side, SourceSpec,
    Unit,
};
use caravan_tokenizer::{Encode, Tokenizer, TrainConfig, train_bpe};

use crate::config::RunConfig;
use crate::error::{Result, TrainError};
use crate::observer::{Event, Observer};
use crate::plan::{Plan, group};

/// Everything that training reads.
#[derive(Debug)]
pub struct Data {
    /// The tokenizer, given or trained.
    pub tokenizer: Arc<Tokenizer>,
    /// The shards of whole documents, made or found.
    pub shards: Arc<ShardSet>,
    /// Shards of what the stages cut documents into, whole documents included where one trains on them.
    pub units: Vec<(Unit, Arc<ShardSet>)>,
    /// Training sequences of every stage.
    pub loaders: Vec<Arc<Loader>>,
}

/// What the dataset crate is to build from this configuration.
pub fn build_config(config: &RunConfig) -> BuildConfig {
    let d = &config.data;
    let sources = d
        .text
        .iter()
        .enumerate()
        .map(|(i, path)| SourceSpec {
            paths: vec![path.clone()],
            weight: d.weights.get(i).copied().unwrap_or(1.0),
            text_field: d.text_field.clone(),
            document_separator: d.document_separator.clone(),
        })
        .collect();
    BuildConfig { sources, val_fraction: d.val_fraction, ..BuildConfig::default() }
}

/// Finds or makes tokenizer and shards, and opens the loader.
///
/// # Errors
/// Texts that cannot be read, a tokenizer that does not load or cannot be trained, a sequence
/// longer than the data, a full disk.
pub fn prepare(plan: &Plan, observer: &mut dyn Observer) -> Result<Data> {
    let config = &plan.config;
    if config.data.text.is_empty() {
        return Err(TrainError::plan(
            "there is no text to train on",
            "name files or folders with --text, or a configuration with --config",
        ));
    }
    let build = build_config(config);
    let content = caravan_dataset::content_hash(&build)?;
    let cache = Path::new(&config.data.cache_dir);
    let tokenizer = match &config.data.tokenizer {
        Some(path) => given_tokenizer(path, config)?,
        None => trained_tokenizer(&build, &content, plan.model.vocab_size, cache, observer)?,
    };
    let whole = Arc::new(shards(&build, &content, &tokenizer, cache, observer)?);
    let mut units: Vec<(Unit, Arc<ShardSet>)> = Vec::new();
    let mut loaders = Vec::new();
    for stage in &plan.stages {
        let set = match (units.iter().find(|(unit, _)| *unit == stage.unit), stage.unit) {
            (Some((_, set)), _) => Arc::clone(set),
            (None, unit) => {
                let set = if unit == Unit::Document {
                    Arc::clone(&whole)
                } else {
                    let build = BuildConfig { unit, ..build.clone() };
                    let content = caravan_dataset::content_hash(&build)?;
                    Arc::new(shards(&build, &content, &tokenizer, cache, observer)?)
                };
                units.push((unit, Arc::clone(&set)));
                set
            }
        };
        loaders.push(Arc::new(loader(&stage.config, plan, set)?));
    }
    Ok(Data { tokenizer: Arc::new(tokenizer), shards: whole, units, loaders })
}

/// A loader of training sequences as the configuration, or a stage's, says.
///
/// # Errors
/// A sequence longer than the data, weights that do not fit the sources.
pub fn loader(config: &RunConfig, plan: &Plan, shards: Arc<ShardSet>) -> Result<Loader> {
    let loader = LoaderConfig {
        seq_len: config.run.seq_len,
        seed: config.run.seed,
        packing: plan.packing,
        document_mask: config.data.document_mask,
        weights: config.data.weights.clone(),
    };
    Ok(Loader::new(shards, Side::Train, loader)?)
}

fn given_tokenizer(path: &str, config: &RunConfig) -> Result<Tokenizer> {
    let tokenizer = Tokenizer::load(Path::new(path))?.beginning_with_bos();
    if let Some(asked) = config.data.vocab_size
        && asked != tokenizer.vocab_size()
    {
        return Err(TrainError::plan(
            format!(
                "vocab_size = {asked}, but tokenizer `{path}` has {} tokens",
                tokenizer.vocab_size()
            ),
            format!("leave vocab_size out or set vocab_size={}", tokenizer.vocab_size()),
        ));
    }
    Ok(tokenizer)
}

fn trained_tokenizer(
    build: &BuildConfig,
    content: &str,
    vocab_size: usize,
    cache: &Path,
    observer: &mut dyn Observer,
) -> Result<Tokenizer> {
    let dir = cache.join("tokenizers");
    let path = dir.join(format!("{}-{vocab_size}.model", &content[..16]));
    if path.exists() {
        observer.event(&Event::Note(&format!("tokenizer: found `{}`", path.display())));
        return Ok(Tokenizer::load(&path)?.beginning_with_bos());
    }
    observer.event(&Event::Note(&format!(
        "tokenizer: training {vocab_size} BPE tokens on the training text"
    )));
    let documents = caravan_dataset::split_documents(build)?.filter_map(|item| match item {
        Ok((Side::Train, document)) => Some(Ok(document.text)),
        Ok((Side::Val, _)) => None,
        Err(e) => Some(Err(e)),
    });
    let config = TrainConfig { vocab_size, ..TrainConfig::default() };
    let trained = train_bpe(&config, documents, &mut |progress| {
        observer.event(&Event::Progress {
            what: progress.stage(),
            done: progress.done(),
            total: progress.total(),
        });
    })?;
    std::fs::create_dir_all(&dir).map_err(TrainError::io("making folder", &dir))?;
    write_whole(&path, trained.bytes())?;
    Ok(Tokenizer::load(&path)?.beginning_with_bos())
}

fn shards(
    build: &BuildConfig,
    content: &str,
    tokenizer: &Tokenizer,
    cache: &Path,
    observer: &mut dyn Observer,
) -> Result<ShardSet> {
    let tokenizer_hash = tokenizer.hash().to_string();
    let dir = cache.join("shards").join(format!("{}-{}", &content[..16], &tokenizer_hash[..16]));
    if dir.exists() {
        let set = ShardSet::open(&dir)?;
        set.check_tokenizer(tokenizer)?;
        observer.event(&Event::Note(&format!("shards: found `{}`", dir.display())));
        return Ok(set);
    }
    if let Some(parent) = dir.parent() {
        std::fs::create_dir_all(parent).map_err(TrainError::io("making folder", parent))?;
    }
    let report = caravan_dataset::build(build, tokenizer, &dir, &mut |progress| {
        observer.event(&Event::Progress {
            what: "shards",
            done: progress.done.text_bytes,
            total: Some(progress.input_bytes),
        });
    })?;
    for note in report.notes() {
        observer.event(&Event::Note(&format!("shards: {note}")));
    }
    observer.event(&Event::Note(&describe_shards(&report, build.unit)));
    Ok(ShardSet::open(&dir)?)
}

/// One line on what was built.
pub fn describe_shards(report: &BuildReport, unit: Unit) -> String {
    let side = |c: &DocumentCounts| {
        format!(
            "{} {}s, {} tokens, {} bytes",
            group(c.documents),
            unit.name(),
            group(c.tokens),
            group(c.text_bytes)
        )
    };
    format!("shards: training {}; validation {}", side(&report.train), side(&report.val))
}

/// Writes a file so that it is there whole or not at all.
///
/// # Errors
/// The folder cannot be written to or the disk is full.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<PathBuf> {
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut aside =
        tempfile::NamedTempFile::new_in(dir).map_err(TrainError::io("writing", path))?;
    std::io::Write::write_all(&mut aside, bytes).map_err(TrainError::io("writing", path))?;
    aside.as_file().sync_all().map_err(TrainError::io("writing", path))?;
    aside.persist(path).map_err(|e| TrainError::io("writing", path)(e.error))?;
    Ok(path.to_path_buf())
}
