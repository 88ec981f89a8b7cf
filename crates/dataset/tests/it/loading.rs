use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use caravan_dataset::{IGNORE, Loader, LoaderConfig, Packing, ShardSet, Side, TokenBatch};
use proptest::prelude::*;

use crate::{Dir, built, config};

const BOS: i32 = 256;
const EOS: i32 = 257;

/// Three sources of documents of 1 to 120 bytes, whose letters tell the source, in several shards.
static SET: LazyLock<(Dir, Arc<ShardSet>)> = LazyLock::new(|| {
    let dir = Dir::new();
    let source = |name: &str, letter: u8, n: usize| {
        let text = |i: usize| {
            let len = 1 + i * 7919 % 120;
            (0..len).map(|j| char::from(letter + ((i * 31 + j * j) % 8) as u8)).collect::<String>()
        };
        dir.jsonl(name, &(0..n).map(text).collect::<Vec<_>>())
    };
    let sources = vec![
        source("a.jsonl", b'a', 150),
        source("b.jsonl", b'i', 40),
        source("c.jsonl", b'q', 300),
    ];
    let mut config = config(sources, 0.0);
    config.shard_bytes = 20_000;
    let set = built(&config, &dir.path("set"));
    (dir, set)
});

fn loader(packing: Packing, seq_len: usize, seed: u64, weights: &[f64]) -> Loader {
    let config =
        LoaderConfig { seq_len, seed, packing, document_mask: true, weights: weights.to_vec() };
    Loader::new(SET.1.clone(), Side::Train, config).unwrap()
}

fn packings() -> impl Strategy<Value = Packing> {
    prop_oneof![Just(Packing::ConcatSplit), Just(Packing::BestFit)]
}

/// Every pair of neighbours in the documents, with how often it occurs.
fn pairs_of_documents() -> BTreeMap<(i32, i32), u64> {
    let mut pairs = BTreeMap::new();
    for document in SET.1.train().documents() {
        for pair in document.unwrap().tokens().windows(2) {
            *pairs.entry((pair[0] as i32, pair[1] as i32)).or_default() += 1;
        }
    }
    pairs
}

fn rows(batch: &TokenBatch) -> Vec<Vec<u32>> {
    batch.tokens.chunks(batch.seq_len + 1).map(<[u32]>::to_vec).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// In one epoch, the pairs (input, target) are exactly the neighbours in the documents: each
    /// token but BOS is a target once, behind the token that is before it, and no target crosses
    /// documents.
    #[test]
    fn each_token_is_a_target_once(packing in packings(), seq_len in 1usize..300, seed: u64, epoch in 0u64..5) {
        let loader = loader(packing, seq_len, seed, &[]);
        let n = loader.sequences_per_epoch();
        let mut pairs = BTreeMap::new();
        let batch = loader.batch(epoch * n, n as usize).unwrap();
        let targets = batch.targets();
        for (&input, &target) in batch.inputs().iter().zip(&targets) {
            if target != IGNORE {
                prop_assert_ne!(target, BOS);
                *pairs.entry((input, target)).or_default() += 1;
            }
        }
        prop_assert_eq!(batch.n_targets(), targets.iter().filter(|&&t| t != IGNORE).count() as u64);
        prop_assert_eq!(pairs, pairs_of_documents());
    }

    /// Starts, found again by looking at the tokens: the last BOS at or before a position.
    #[test]
    fn starts_are_where_documents_begin(packing in packings(), long in 125usize..300, short in 1usize..60, seed: u64) {
        // With best fit, only documents that fit begin with BOS in their row.
        let seq_len = if packing == Packing::BestFit { long } else { short };
        let loader = loader(packing, seq_len, seed, &[]);
        let batch = loader.batch(3, 200).unwrap();
        let (inputs, starts) = (batch.inputs(), batch.document_starts());
        for row in 0..200 {
            let n = batch.n_tokens[row] as usize;
            let mut start = 0;
            for i in 0..seq_len {
                let at = row * seq_len + i;
                if i < n && inputs[at] == BOS || i == n {
                    start = i as i32;
                }
                prop_assert_eq!(starts[at], start, "row {} position {}", row, i);
                prop_assert!(i < n || inputs[at] == EOS);
            }
        }
    }

    /// A sequence is the same in whatever batch it comes.
    #[test]
    fn batches_do_not_matter(packing in packings(), seq_len in 1usize..200, seed: u64, first in 0u64..1_000_000_000_000, weighted: bool, rows in 1usize..9) {
        let weights: &[f64] = if weighted && seq_len < 100 { &[0.5, 0.2, 0.3] } else { &[] };
        let loader = loader(packing, seq_len, seed, weights);
        let whole = loader.batch(first, rows).unwrap();
        let mut again = loader.batch(first ^ 5, 3).unwrap();
        for i in 0..rows {
            loader.batch_into(first + i as u64, 1, &mut again).unwrap();
            prop_assert_eq!(&again.tokens[..], &whole.tokens[i * (seq_len + 1)..][..seq_len + 1]);
            prop_assert_eq!(&again.document_ends[0], &whole.document_ends[i]);
            prop_assert_eq!(again.n_tokens[0], whole.n_tokens[i]);
        }
    }
}

/// Epochs have the same rows in another order; seeds have other rows.
#[test]
fn epochs_permute_rows() {
    for packing in [Packing::ConcatSplit, Packing::BestFit] {
        let one = loader(packing, 50, 1, &[]);
        let n = one.sequences_per_epoch();
        let epoch = |loader: &Loader, e: u64| rows(&loader.batch(e * n, n as usize).unwrap());
        let (mut first, mut later) = (epoch(&one, 0), epoch(&one, 7));
        assert_ne!(first, later);
        first.sort();
        later.sort();
        assert_eq!(first, later);
        let mut other = epoch(&loader(packing, 50, 2, &[]), 0);
        other.sort();
        assert_ne!(first, other);
    }
}

/// Best fit cuts no document that fits, and leaves no two rows that would fit into one.
#[test]
fn best_fit_keeps_documents_whole() {
    let loader = loader(Packing::BestFit, 127, 1, &[]);
    let n = loader.sequences_per_epoch() as usize;
    let batch = loader.batch(0, n).unwrap();
    let ends: usize = batch.document_ends.iter().map(Vec::len).sum();
    assert_eq!(ends, SET.1.train().n_documents());
    let used: u64 = batch.n_tokens.iter().map(|&n| u64::from(n)).sum();
    assert_eq!(used, SET.1.train().n_tokens());
    let mut filled = batch.n_tokens.clone();
    filled.sort_unstable();
    assert!(filled[0] + filled[1] > 128, "{filled:?}");
}

/// A mixed loader gives the sequences of each source one after another, in exact proportion.
#[test]
fn weights_are_exact_and_sources_never_share_a_row() {
    for packing in [Packing::ConcatSplit, Packing::BestFit] {
        let mixed = loader(packing, 20, 3, &[5.0, 0.0, 15.0]);
        let alone = [&[1.0, 0.0, 0.0], &[], &[0.0, 0.0, 2.0]] as [&[f64]; 3];
        let alone = alone.map(|weights| loader(packing, 20, 3, weights));
        assert_eq!(
            mixed.sequences_per_epoch(),
            alone[0].sequences_per_epoch() + alone[2].sequences_per_epoch()
        );
        let mut drawn = [0; 3];
        for i in 0..8000u64 {
            let row = mixed.batch(i, 1).unwrap();
            let letters = row.tokens.iter().filter(|&&t| t < 256).map(|&t| (t as usize - 97) / 8);
            let letters: Vec<usize> = letters.collect();
            let source = letters[0];
            assert!(letters.iter().all(|&s| s == source), "{row:?}");
            assert_eq!(row, alone[source].batch(drawn[source], 1).unwrap());
            drawn[source] += 1;
            assert!((drawn[0] as f64 - (i + 1) as f64 * 0.25).abs() < 1.0);
        }
        assert_eq!(drawn, [2000, 0, 6000]);
        assert!(drawn[0] > 3 * alone[0].sequences_per_epoch());
    }
}

#[test]
fn without_the_mask_attention_is_free_but_targets_stay() {
    let config = LoaderConfig { seq_len: 64, document_mask: false, ..Default::default() };
    let free = Loader::new(SET.1.clone(), Side::Train, config.clone()).unwrap();
    let masked = LoaderConfig { document_mask: true, ..config };
    let masked = Loader::new(SET.1.clone(), Side::Train, masked).unwrap();
    let (free, masked) = (free.batch(9, 8).unwrap(), masked.batch(9, 8).unwrap());
    assert!(free.document_starts().iter().all(|&s| s == 0));
    assert!(masked.document_starts().iter().any(|&s| s > 0));
    assert_eq!((free.inputs(), free.targets()), (masked.inputs(), masked.targets()));
}

#[test]
fn prefetching_gives_the_same_batches_and_ends() {
    let loader = Arc::new(loader(Packing::ConcatSplit, 32, 1, &[]));
    let batches = loader.clone().prefetch((10..).step_by(8), 4).take(20);
    for (k, item) in (0..).zip(batches) {
        let (first, batch) = item.unwrap();
        assert_eq!(first, 10 + 8 * k);
        assert_eq!(batch, loader.batch(first, 4).unwrap());
    }
    // All threads are gone: nobody else holds the loader.
    assert_eq!(Arc::strong_count(&loader), 1);
    drop(loader.clone().prefetch(0.., 1));
    assert_eq!(Arc::strong_count(&loader), 1);
    assert_eq!(loader.clone().prefetch([3, 9].into_iter(), 1).count(), 2);
}

/// Random access: a thousand batches far out take no longer than near ones (with a wide margin for
/// a busy machine).
#[test]
fn far_batches_are_as_fast() {
    let loader = loader(Packing::ConcatSplit, 128, 1, &[0.2, 0.3, 0.5]);
    let time = |first: u64| {
        let start = Instant::now();
        (0..1000).for_each(|i| drop(loader.batch(first + i * 13, 8).unwrap()));
        start.elapsed()
    };
    time(0);
    let (near, far) = (time(1), time(u64::MAX / 2));
    assert!(far < 10 * near + Duration::from_millis(50), "{near:?} {far:?}");
}
