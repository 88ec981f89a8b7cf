use std::sync::Arc;

use burn::tensor::{DType, Int, Tensor, TensorData};
use caravan_collective::{Communicator, threads};
use caravan_model::{Attend, Forward, Kernels, Positions};
use caravan_parallel::context::{Ring, local_batch, local_positions};
use caravan_parallel::{Activations, ParallelError, forward_backward};

use crate::common::{batch, bits, config, device, model};
use crate::sequence::{Heads, Layout, TOLERANCE, attended, balanced, close, compare, float64};

const NAMES: [&str; 4] = ["out", "dq", "dk", "dv"];

/// Odd sizes: grouped and single heads, heads of 8 and 32, chunks shorter and longer than a kernel's block of queries.
fn shapes() -> Vec<Heads> {
    let mut shapes = Vec::new();
    for (ranks, chunk) in [(2, 1), (2, 37), (3, 7), (4, 3), (4, 35)] {
        for ([n_heads, n_kv_heads], head_dim) in [([6, 2], 8), ([3, 3], 32), ([4, 1], 8)] {
            for documents in [false, true] {
                let rows = if head_dim == 32 { 1 } else { 3 };
                let heads = Heads { ranks, rows, n_heads, n_kv_heads, head_dim, chunk, documents };
                shapes.push(heads);
            }
        }
    }
    shapes
}

#[test]
fn a_ring_attends_as_float64_loops() {
    // f32 sums of up to a few hundred terms; f64 runs the composed kernels, its unit is 2e-16.
    let ways = [
        (Kernels::Fused, DType::F32, 3e-6),
        (Kernels::Reference, DType::F32, 3e-6),
        (Kernels::Fused, DType::F64, 1e-13),
    ];
    let mut worst = [0f64; 3];
    for heads in shapes() {
        let expected = float64(&heads);
        for ((kernels, dtype, tolerance), worst) in ways.into_iter().zip(&mut worst) {
            let found = attended(&heads, kernels, dtype).unwrap();
            for (name, (found, expected)) in NAMES.iter().zip(found.whole.iter().zip(&expected)) {
                let name = format!("{name} {kernels:?} {dtype:?} {heads:?}");
                *worst = worst.max(close(&name, found, expected, tolerance).unwrap());
            }
        }
    }
    println!("largest differences from float64: {worst:?}");
}

/// The kernel that one rank runs, on the same f32 values.
#[test]
fn a_ring_attends_as_one_rank() {
    let mut worst = 0f64;
    for heads in shapes() {
        let one = Heads { ranks: 1, chunk: heads.chunk * heads.ranks, ..heads };
        assert_eq!(one.seq_len(), heads.seq_len());
        let expected = attended(&one, Kernels::Fused, DType::F32).unwrap();
        let found = attended(&heads, Kernels::Fused, DType::F32).unwrap();
        for (name, (found, expected)) in NAMES.iter().zip(found.whole.iter().zip(&expected.whole)) {
            worst = worst.max(close(name, found, expected, TOLERANCE).unwrap());
        }
    }
    println!("largest difference from one rank: {worst:.1e}");
}

/// Ranks run as they come; merging and summing must not.
#[test]
fn a_ring_gives_the_same_bits_every_time() {
    let bits = |documents| {
        let heads = Heads {
            ranks: 4,
            rows: 2,
            n_heads: 6,
            n_kv_heads: 2,
            head_dim: 8,
            chunk: 9,
            documents,
        };
        let found = attended(&heads, Kernels::Fused, DType::F32).unwrap();
        found.whole.map(|values| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>())
    };
    for documents in [false, true] {
        let expected = bits(documents);
        (0..20).for_each(|_| assert!(bits(documents) == expected));
    }
}

#[test]
fn narrow_numbers_travel_narrow() {
    let heads = Heads {
        ranks: 3,
        rows: 2,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 8,
        chunk: 7,
        documents: true,
    };
    let found = attended(&heads, Kernels::Fused, DType::BF16).unwrap();
    for (name, (found, expected)) in NAMES.iter().zip(found.whole.iter().zip(&float64(&heads))) {
        // Inputs, results and gradients are rounded to 8 bits; sums are not.
        close(name, found, expected, 2e-2).unwrap();
    }
    let elements = 2 * 2 * 2 * 14 * 8; // keys and values, rows, heads, positions, head_dim
    assert_eq!(found.bytes, vec![[2 * 2 * elements, 2 * (2 + 4) * elements]; 3]);
}

#[test]
fn every_rank_works_as_much_at_every_step() {
    for heads in shapes() {
        let found = attended(&heads, Kernels::Fused, DType::F32).unwrap();
        balanced(&found.multiply_adds).unwrap();
        // In chunks of n: a triangle of 2n by 2n at home, then two squares of n by n; two products forward, five backward.
        let (n, ranks) = (heads.chunk as u64, heads.ranks);
        let each = (heads.rows * heads.n_heads * heads.head_dim * 7) as u64;
        let expected: Vec<u64> = (0..ranks)
            .map(|step| each * if step == 0 { n * (2 * n + 1) } else { 2 * n * n })
            .collect();
        assert_eq!(found.multiply_adds, vec![expected; ranks], "{heads:?}");
        // Together they do what one rank does.
        let s = heads.seq_len() as u64;
        let all: u64 = found.multiply_adds.iter().flatten().sum();
        assert_eq!(all, each * s * (s + 1) / 2);
    }
}

#[test]
fn bytes_are_those_of_the_theory() {
    for heads in shapes() {
        let found = attended(&heads, Kernels::Fused, DType::F32).unwrap();
        let Heads { ranks, rows, n_kv_heads, head_dim, chunk, .. } = heads;
        // Keys and values of a rank, at all steps but the last; backward again, with their gradients.
        let step = (2 * rows * n_kv_heads * 2 * chunk * head_dim * 4) as u64;
        let forward = (ranks as u64 - 1) * step;
        assert_eq!(found.bytes, vec![[forward, 2 * forward]; ranks], "{heads:?}");
    }
}

#[test]
fn a_ring_of_one_is_plain_attention() {
    let model = model(&config(false), Kernels::Fused);
    let batch = batch(97, 2, 33, 0, true); // an odd length
    let run = |model| bits(&forward_backward(&model, &batch, Activations::Keep).0.finish());
    let expected = run(model.clone());
    let ring: Arc<dyn Attend> = Arc::new(Ring::new(Communicator::alone()));
    assert!(run(model.with_attend(&ring)) == expected);
    let local = local_batch(&batch, 0, 1).unwrap();
    assert_eq!(local.n_targets, batch.n_targets);
    assert_eq!(local.tokens.into_data(), batch.tokens.into_data());
}

#[test]
fn a_model_over_ranks_is_the_model() {
    let mut worst = 0f64;
    for (ranks, chunk) in [(2, 9), (3, 5), (4, 3)] {
        for tie in [false, true] {
            for documents in [false, true] {
                for (kernels, activations) in [
                    (Kernels::Fused, Activations::Keep),
                    (Kernels::Fused, Activations::Recompute),
                    (Kernels::Reference, Activations::Keep),
                ] {
                    let layout = Layout { ranks, chunk, tie, documents, kernels, activations };
                    let difference = compare(&layout);
                    worst = worst.max(difference.unwrap_or_else(|e| panic!("{layout:?}: {e}")));
                }
            }
        }
    }
    println!("largest difference of loss and gradients from one rank: {worst:.1e}");
}

#[test]
fn a_batch_is_cut_into_columns() {
    let batch = batch(97, 2, 12, 3, true);
    let columns = |x: &Tensor<2, Int>| -> Vec<i32> { x.to_data().try_into_vec().unwrap() };
    let mut n_targets = 0;
    for rank in 0..3 {
        let positions = local_positions(rank, 3, 12).unwrap();
        let local = local_batch(&batch, rank, 3).unwrap();
        n_targets += local.n_targets;
        let pairs = [
            (&local.tokens, &batch.tokens),
            (&local.targets, &batch.targets),
            (&local.document_starts.unwrap(), batch.document_starts.as_ref().unwrap()),
        ];
        for (found, whole) in pairs {
            let whole = columns(whole);
            let expected: Vec<i32> = (0..2)
                .flat_map(|row| positions.iter().map(move |p| row * 12 + p))
                .map(|i| whole[i])
                .collect();
            assert_eq!(columns(found), expected);
        }
    }
    assert_eq!(n_targets, batch.n_targets);
    let error = local_batch(&batch, 0, 5).unwrap_err();
    assert!(matches!(error, ParallelError::SequenceSplit { seq_len: 12, ranks: 5 }), "{error}");
}

#[test]
fn decoding_with_a_cache_is_refused() {
    let failed = threads::run(2, |group| {
        let ring: Arc<dyn Attend> = Arc::new(Ring::new(group));
        let model = model(&config(false), Kernels::Fused).with_attend(&ring);
        let mut cache = model.new_cache(1, 8);
        let tokens = Tensor::from_data(TensorData::new(vec![1, 2], [1, 2]), &device());
        model.extend(tokens, &mut cache, Positions::Last);
    });
    let message = failed.unwrap_err().message;
    assert!(message.contains("with_attend(WholeSequences)"), "{message}");
}
