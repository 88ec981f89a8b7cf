//! Builds shards of a few documents and reads a batch: `cargo run --release -p caravan-dataset
//! --example build_and_read`.
#![allow(clippy::print_stdout)]

use std::sync::Arc;

use anyhow::Result;
use caravan_dataset::{
    BuildConfig, Loader, LoaderConfig, Packing, ShardSet, Side, SourceSpec, build,
};
use caravan_tokenizer::{ByteTokenizer, Encode};

fn main() -> Result<()> {
    // A JSON lines file of 200 short documents.
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("stories.jsonl");
    let lines = (0..200).map(|i| format!("{{\"text\": \"Llama {i} walks over the mountain.\"}}\n"));
    std::fs::write(&file, lines.collect::<String>())?;

    // Text to shards. 200 documents are enough to be split by their hashes.
    let tokenizer = ByteTokenizer::new();
    let source = SourceSpec::of([file.display().to_string()]);
    let config = BuildConfig { sources: vec![source], val_fraction: 0.1, ..Default::default() };
    let report = build(&config, &tokenizer, &dir.path().join("shards"), &mut |_| {})?;
    println!("training   {:?}\nvalidation {:?}", report.train, report.val);

    // Every byte of the shards is as it was written, and they fit the tokenizer.
    let checked = ShardSet::verify(&dir.path().join("shards"))?;
    println!("verified {} shards, {} bytes", checked.shards, checked.file_bytes);
    let set = Arc::new(ShardSet::open(&dir.path().join("shards"))?);
    set.check_tokenizer(&tokenizer)?;
    println!("first document: {:?}", set.train().document(0)?.text);

    // The batch of any step, at once. Here whole documents are packed into rows of 100 tokens.
    let config = LoaderConfig { seq_len: 99, packing: Packing::BestFit, ..Default::default() };
    let loader = Loader::new(set, Side::Train, config)?;
    let batch = loader.batch(1_000_000, 2)?;
    println!("{} sequences per epoch", loader.sequences_per_epoch());
    for (row, ends) in batch.tokens.chunks(100).zip(&batch.document_ends) {
        println!("{:?}, documents end at {ends:?}", tokenizer.decode(row)?);
    }
    println!("{} targets", batch.n_targets());
    Ok(())
}
