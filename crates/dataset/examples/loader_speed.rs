//! How fast one thread reads batches, and with how much memory.
//!
//! `cargo run --release -p caravan-dataset --example loader_speed -- [MIB] [SECS] [SEQ_LEN]
//! [DOCUMENT_BYTES]` makes shards of MIB mebibytes of tokens (default 8; 1024 for the published
//! figure) in a temporary folder, then reads them with every packing for SECS seconds (default 0.2)
//! each.
#![allow(clippy::print_stdout)]

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use caravan_dataset::{
    BuildConfig, Loader, LoaderConfig, Packing, ShardSet, Side, SourceSpec, TokenBatch, build,
};
use caravan_tokenizer::ByteTokenizer;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |i: usize, default: f64| -> Result<f64> {
        arguments.get(i).map_or(Ok(default), |a| a.parse().with_context(|| format!("argument {a}")))
    };
    let (mib, secs) = (argument(0, 8.0)?, argument(1, 0.2)?);
    let (seq_len, document) = (argument(2, 1024.0)? as usize, argument(3, 2000.0)? as usize);

    // Synthetic text: one byte is one token of two bytes.
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("text.txt");
    write_text(&file, (mib * 524_288.0) as usize, document)?;
    let source = SourceSpec {
        document_separator: Some("\n\n".to_owned()),
        ..SourceSpec::of([file.display().to_string()])
    };
    let config = BuildConfig { sources: vec![source], val_fraction: 0.0, ..Default::default() };
    let out = dir.path().join("shards");
    let (start, cpu) = (Instant::now(), process_cpu_secs());
    let report = build(&config, &ByteTokenizer::new(), &out, &mut |_| {})?;
    let elapsed = start.elapsed().as_secs_f64();
    let text_mb = report.train.text_bytes as f64 / 1e6;
    println!(
        "build: {text_mb:.0} MB of text in {elapsed:.2} s = {:.1} MB/s, {:.1} MB per second of processor time",
        text_mb / elapsed,
        text_mb / (process_cpu_secs() - cpu)
    );
    std::fs::remove_file(&file)?;

    let start = Instant::now();
    let checked = ShardSet::verify(&out)?;
    let elapsed = start.elapsed().as_secs_f64();
    println!("verify: {} bytes in {} files, {elapsed:.2} s", checked.file_bytes, checked.shards);
    let start = Instant::now();
    let set = Arc::new(ShardSet::open(&out)?);
    println!("open: {:.3} s", start.elapsed().as_secs_f64());

    for packing in [Packing::ConcatSplit, Packing::BestFit] {
        let start = Instant::now();
        let config = LoaderConfig { seq_len, packing, seed: 1, ..Default::default() };
        let loader = Loader::new(set.clone(), Side::Train, config)?;
        println!("{packing:?}: index {:.3} s, {}", start.elapsed().as_secs_f64(), memory());
        let (rows, mut batch) = (16, TokenBatch::default());
        let (mut n_tokens, mut sequence, start, cpu) = (0u64, 0, Instant::now(), cpu_secs());
        while start.elapsed().as_secs_f64() < secs {
            for _ in 0..64 {
                loader.batch_into(sequence, rows, &mut batch)?;
                sequence += rows as u64;
                n_tokens += batch.n_tokens.iter().map(|&n| u64::from(n)).sum::<u64>();
            }
        }
        let millions = n_tokens as f64 / 1e6;
        let epochs = sequence as f64 / loader.sequences_per_epoch() as f64;
        println!(
            "{packing:?}: {:.0} million tokens/s, {:.0} per second of this thread's processor time, \
             {epochs:.2} epochs, {}",
            millions / start.elapsed().as_secs_f64(),
            millions / (cpu_secs() - cpu),
            memory()
        );
        for first in [1, 1_000_000, 1_000_000_000_000] {
            let start = Instant::now();
            (0..100).try_for_each(|i| loader.batch_into(first + i * 997, rows, &mut batch))?;
            let micros = start.elapsed().as_secs_f64() * 1e4;
            println!("{packing:?}: batch at sequence {first}: {micros:.1} microseconds");
        }
    }
    Ok(())
}

/// Documents of `document` bytes, each its own, ended by blank lines.
fn write_text(path: &std::path::Path, bytes: usize, document: usize) -> Result<()> {
    use std::io::Write;
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    let body = "the caravan goes on over the pass, ".repeat(document / 35 + 1);
    for i in 0..bytes.div_ceil(document) {
        // Lengths from half to one and a half times the mean.
        let len = document / 2 + i * 7919 % document.max(1);
        write!(file, "{i} {}\n\n", &body[..len.min(body.len())])?;
    }
    Ok(file.flush()?)
}

/// Processor time of this thread (Linux): on a busy machine, wall time says more about the others.
fn cpu_secs() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(f64::NAN) / 1e9
}

/// Processor time of all threads of this process (Linux; its clock ticks 100 times a second).
fn process_cpu_secs() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    // User and system time are fields 14 and 15; what follows the name begins with field 3.
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// Memory of this process that lies in files, and the rest (Linux).
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = |name| status.lines().find(|l| l.starts_with(name)).map(|l| l.replace('\t', " "));
    let lines = ["VmRSS", "RssAnon", "RssFile"].into_iter().filter_map(line);
    lines.map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join(", ")
}
