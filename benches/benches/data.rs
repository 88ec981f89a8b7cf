//! Text to tokens, tokens to batches.

use std::sync::Arc;

use caravan_benches::corpus;
use caravan_dataset::{
    BuildConfig, Loader, LoaderConfig, ShardSet, Side, SourceSpec, TokenBatch, build,
};
use caravan_tokenizer::{ByteTokenizer, Encode, TrainConfig, train_bpe};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn tokenizer(c: &mut Criterion) {
    let lines = corpus();
    let bytes: usize = lines.iter().map(String::len).sum();
    let train = || {
        let config = TrainConfig { vocab_size: 2048, ..TrainConfig::default() };
        let texts = lines.iter().cloned().map(Ok::<_, std::io::Error>);
        train_bpe(&config, texts, &mut |_| {}).expect("enough text")
    };
    let mut group = c.benchmark_group("tokenizer");
    group.throughput(Throughput::Bytes(bytes as u64)).sample_size(10);
    group.bench_function("train/2048", |b| b.iter(train));
    let tokenizer = train().tokenizer().expect("a whole model");
    let texts: Vec<&str> = lines.iter().map(String::as_str).collect();
    group.bench_function("encode_batch", |b| {
        b.iter(|| tokenizer.encode_batch(&texts).expect("plain text"))
    });
    group.finish();
}

fn loader(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a folder");
    let text = dir.path().join("text.txt");
    std::fs::write(&text, corpus().join("\n").repeat(16)).expect("room on the disk");
    let source = SourceSpec {
        document_separator: Some("\n".to_owned()),
        ..SourceSpec::of([text.display().to_string()])
    };
    let config = BuildConfig { sources: vec![source], val_fraction: 0.0, ..BuildConfig::default() };
    let shards = dir.path().join("shards");
    build(&config, &ByteTokenizer, &shards, &mut |_| {}).expect("good text");
    let set = Arc::new(ShardSet::open(&shards).expect("whole shards"));
    let mut group = c.benchmark_group("loader");
    for rows in [8, 64] {
        let config = LoaderConfig { seq_len: 1024, seed: 1, ..LoaderConfig::default() };
        let loader = Loader::new(Arc::clone(&set), Side::Train, config).expect("enough text");
        let mut batch = TokenBatch::default();
        let mut first = 0;
        group.throughput(Throughput::Elements(rows as u64 * 1024));
        group.bench_function(format!("batch_into/{rows}x1024"), |b| {
            b.iter(|| {
                loader.batch_into(first, rows, &mut batch).expect("a sequence number in range");
                first += rows as u64;
            });
        });
    }
    group.finish();
}

criterion_group!(benches, tokenizer, loader);
criterion_main!(benches);
