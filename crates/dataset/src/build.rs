//! From text to shards: one thread reads, all cores encode, documents keep their order.

use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::thread;

use caravan_tokenizer::{Encode, TokenizerHash};

use crate::manifest::{Manifest, ShardEntry, SourceEntry};
use crate::shard::{EXTENSION, Header, ShardWriter, VERSION};
use crate::staging::Staging;
use crate::units::Pieces;
use crate::{
    BuildConfig, DatasetError, Document, DocumentCounts, Side, SourceReport, content_hash,
    split_documents,
};

/// A batch is encoded when it has this much text ...
const BATCH_BYTES: usize = 4 << 20;
/// ... or so many documents.
const BATCH_DOCUMENTS: usize = 8192;
/// Batches that wait between the reader and the encoder.
const QUEUE: usize = 2;

/// How far a build is; given after each batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BuildProgress {
    /// Source that is being read.
    pub source: usize,
    /// How many there are.
    pub n_sources: usize,
    /// Documents, tokens and bytes of text written so far.
    pub done: DocumentCounts,
    /// Size of all source files on the disk, compressed ones as they lie.
    pub input_bytes: u64,
}

/// What a build made.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct BuildReport {
    /// The manifest, as it was written.
    pub manifest: Manifest,
    /// What the training side holds.
    pub train: DocumentCounts,
    /// What the validation side holds.
    pub val: DocumentCounts,
}

impl BuildReport {
    /// What a user should be told: files that were skipped, documents that were dropped, a side
    /// that is empty. One sentence each.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for (i, source) in self.manifest.sources.iter().enumerate() {
            for file in &source.report.skipped {
                notes.push(format!("source {i}: skipped {}: {}", file.path.display(), file.reason));
            }
            if source.report.empty_documents > 0 {
                let n = source.report.empty_documents;
                notes.push(format!("source {i}: dropped {n} documents without any text"));
            }
        }
        if self.val.documents == 0 && self.manifest.val_fraction > 0.0 {
            notes.push(
                "no document is on the validation side: the text is too small for val_fraction"
                    .to_owned(),
            );
        }
        notes
    }
}

/// Builds the shards of `config` in the folder `out`, which must be absent or empty. The folder
/// appears whole or not at all.
///
/// Memory: a few batches of 4 MiB of text (or one document, if it is larger), 20 bytes per document
/// of the open shards.
///
/// # Errors
/// Those of [`split_documents`]; a tokenizer without BOS or EOS, or that fails; a disk that is
/// full; an `out` that holds something; no document for training; sources that changed while they
/// were read. Nothing is left behind.
pub fn build(
    config: &BuildConfig,
    tokenizer: &dyn Encode,
    out: &Path,
    progress: &mut dyn FnMut(BuildProgress),
) -> Result<BuildReport, DatasetError> {
    config.validate()?;
    let special = Special::of(tokenizer)?;
    let mut documents = Pieces::new(split_documents(config)?, config.unit);
    let content = content_hash(config)?;
    let staging = Staging::create(out)?;
    let mut writer = Writer::new(config, special, tokenizer.hash(), staging.folder());
    let mut state = BuildProgress {
        n_sources: config.sources.len(),
        input_bytes: input_bytes(config)?,
        ..BuildProgress::default()
    };
    let reports = thread::scope(|scope| {
        let (send, receive) = sync_channel::<Result<Batch, DatasetError>>(QUEUE);
        let reader = scope.spawn(move || {
            while let Some(batch) = next_batch(&mut documents).transpose() {
                let failed = batch.is_err();
                if send.send(batch).is_err() || failed {
                    break;
                }
            }
            documents.documents().reports().to_vec()
        });
        for batch in receive {
            let batch = batch?;
            writer.write(&batch, tokenizer)?;
            state.done = writer.done();
            state.source = batch.last().map_or(0, |(_, document)| document.source);
            progress(state);
        }
        Ok(reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    let report = writer.finish(reports, &content)?;
    let found = content_hash(config)?;
    if found != content {
        return Err(DatasetError::SourceChanged { expected: content, found });
    }
    staging.commit()?;
    Ok(report)
}

type Batch = Vec<(Side, Document)>;

/// The next documents, `None` at the end.
fn next_batch(
    documents: &mut impl Iterator<Item = Result<(Side, Document), DatasetError>>,
) -> Result<Option<Batch>, DatasetError> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while bytes < BATCH_BYTES && batch.len() < BATCH_DOCUMENTS {
        let Some(item) = documents.next().transpose()? else { break };
        bytes += item.1.text.len();
        batch.push(item);
    }
    Ok((!batch.is_empty()).then_some(batch))
}

fn input_bytes(config: &BuildConfig) -> Result<u64, DatasetError> {
    let mut total = 0;
    for source in &config.sources {
        for path in crate::find_files(source)?.files {
            total += path.metadata().map_err(DatasetError::io("read", &path))?.len();
        }
    }
    Ok(total)
}

/// What the shards need to know of the tokenizer.
#[derive(Debug, Clone, Copy)]
struct Special {
    vocab_size: usize,
    bos: u32,
    eos: u32,
}

impl Special {
    fn of(tokenizer: &dyn Encode) -> Result<Self, DatasetError> {
        let vocab_size = tokenizer.vocab_size();
        if vocab_size == 0 || vocab_size > i32::MAX as usize {
            return Err(DatasetError::VocabSize { found: vocab_size });
        }
        let bos = tokenizer.bos_id().ok_or(DatasetError::NoSpecial { missing: "BOS" })?;
        let eos = tokenizer.eos_id().ok_or(DatasetError::NoSpecial { missing: "EOS" })?;
        Ok(Self { vocab_size, bos, eos })
    }
}

/// Writes batches into the shards of both sides.
struct Writer<'a> {
    config: &'a BuildConfig,
    special: Special,
    tokenizer_hash: TokenizerHash,
    folder: &'a Path,
    /// The open shard of each side.
    open: [Option<ShardWriter>; 2],
    shards: Vec<ShardEntry>,
    /// Per source, tokens of each side.
    tokens: Vec<[u64; 2]>,
    totals: [DocumentCounts; 2],
}

impl<'a> Writer<'a> {
    fn new(
        config: &'a BuildConfig,
        special: Special,
        hash: TokenizerHash,
        folder: &'a Path,
    ) -> Self {
        Self {
            config,
            special,
            tokenizer_hash: hash,
            folder,
            open: [None, None],
            shards: Vec::new(),
            tokens: vec![[0; 2]; config.sources.len()],
            totals: Default::default(),
        }
    }

    fn done(&self) -> DocumentCounts {
        let mut done = self.totals[0];
        done += self.totals[1];
        done
    }

    fn write(&mut self, batch: &Batch, tokenizer: &dyn Encode) -> Result<(), DatasetError> {
        let texts: Vec<&str> = batch.iter().map(|(_, document)| document.text.as_str()).collect();
        let origin = || Box::new(batch[0].1.origin.clone());
        let ids = tokenizer
            .encode_batch(&texts)
            .map_err(|source| DatasetError::Encode { origin: origin(), source })?;
        if ids.len() != texts.len() {
            let (expected, found) = (texts.len(), ids.len());
            return Err(DatasetError::BadEncoding {
                origin: origin(),
                expected: format!("{expected} encoded documents"),
                found: format!("{found}"),
            });
        }
        for ((side, document), ids) in batch.iter().zip(&ids) {
            self.push(*side, document, ids)?;
        }
        Ok(())
    }

    fn push(&mut self, side: Side, document: &Document, ids: &[u32]) -> Result<(), DatasetError> {
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= self.special.vocab_size) {
            return Err(DatasetError::BadEncoding {
                origin: Box::new(document.origin.clone()),
                expected: format!("ids below {}", self.special.vocab_size),
                found: format!("the id {id}"),
            });
        }
        let shard = match self.open[side as usize].take() {
            Some(shard) => shard,
            None => self.begin(side)?,
        };
        let shard = self.open[side as usize].insert(shard);
        // Sources are a list in a configuration; 2^32 of them cannot be named.
        shard.push(ids, &document.text, document.source as u32)?;
        let full = shard.token_bytes() >= self.config.shard_bytes;
        let counts = DocumentCounts {
            documents: 1,
            tokens: ids.len() as u64 + 2,
            text_bytes: document.text.len() as u64,
        };
        self.totals[side as usize] += counts;
        self.tokens[document.source][side as usize] += counts.tokens;
        if full { self.close(side) } else { Ok(()) }
    }

    fn begin(&self, side: Side) -> Result<ShardWriter, DatasetError> {
        let header = Header {
            side,
            vocab_size: self.special.vocab_size as u64,
            tokenizer_hash: self.tokenizer_hash,
            bos: self.special.bos,
            eos: self.special.eos,
            n_documents: 0,
            n_tokens: 0,
            n_text_bytes: 0,
            payload_hash: [0; 32],
        };
        ShardWriter::create(&self.folder.join(self.file_name(side)), &header)
    }

    fn file_name(&self, side: Side) -> String {
        let n = self.shards.iter().filter(|shard| shard.side == side).count();
        let name = if side == Side::Train { "train" } else { "val" };
        format!("{name}-{n:05}.{EXTENSION}")
    }

    fn close(&mut self, side: Side) -> Result<(), DatasetError> {
        let Some(shard) = self.open[side as usize].take() else { return Ok(()) };
        let file = self.file_name(side);
        let (path, counts, file_bytes) = shard.finish()?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_mmap_rayon(&path).map_err(DatasetError::io("read", &path))?;
        let blake3 = hasher.finalize().to_hex().to_string();
        self.shards.push(ShardEntry { file, side, counts, file_bytes, blake3 });
        Ok(())
    }

    fn finish(
        mut self,
        reports: Vec<SourceReport>,
        content: &str,
    ) -> Result<BuildReport, DatasetError> {
        self.close(Side::Train)?;
        self.close(Side::Val)?;
        let [train, val] = self.totals;
        if train.documents == 0 {
            return Err(DatasetError::NoTraining { n_val: val.documents });
        }
        self.shards.sort_by_key(|shard| shard.side);
        let specs = self.config.sources.iter().zip(reports).zip(&self.tokens);
        let sources = specs.map(|((spec, report), &[train_tokens, val_tokens])| SourceEntry {
            paths: spec.paths.clone(),
            text_field: spec.text_field.clone(),
            document_separator: spec.document_separator.clone(),
            report,
            train_tokens,
            val_tokens,
        });
        let mut manifest = Manifest {
            format: "caravan-dataset".to_owned(),
            version: VERSION,
            tokenizer_hash: self.tokenizer_hash,
            vocab_size: self.special.vocab_size,
            bos_id: self.special.bos,
            eos_id: self.special.eos,
            content_hash: content.to_owned(),
            val_fraction: self.config.val_fraction,
            shard_bytes: self.config.shard_bytes,
            sources: sources.collect(),
            shards: self.shards,
            checksum: String::new(),
        };
        manifest.write(self.folder)?;
        Ok(BuildReport { manifest, train, val })
    }
}
