//! The KV cache: decoding step by step equals the full forward; nothing is copied; limits.

use burn::module::Module;
use caravan_model::{Forward, Kernels, Positions};

use crate::support::{difference, flex, host, ids, tiny, wide};

/// Logits of `wide` reach about 30; float32 sums in another order move them by less.
const TOLERANCE: f32 = 1e-4;

#[test]
fn any_partition_of_a_sequence_gives_the_full_forward() {
    let device = flex();
    for kernels in [Kernels::Reference, Kernels::Fused] {
        let model = wide(&device).with_kernels(kernels);
        let tokens = ids(2, 20, 50, &device);
        let full = host(model.logits(tokens.clone(), None));
        for pieces in [vec![20], vec![1; 20], vec![7, 1, 1, 5, 6], vec![19, 1]] {
            let mut cache = model.new_cache(2, 20);
            let mut at = 0;
            for n in pieces {
                let piece = tokens.clone().narrow(1, at, n);
                let ours = host(model.extend(piece, &mut cache, Positions::All));
                let expected = host(model.logits(tokens.clone(), None).narrow(1, at, n));
                let worst = difference(&ours, &expected);
                assert!(worst <= TOLERANCE, "{kernels:?}, {n} from {at}: {worst}");
                at += n;
            }
            assert_eq!((cache.len(), cache.capacity(), cache.batch()), (20, 20, 2));
        }
        assert!(full.iter().any(|v| v.abs() > 1.0), "the logits must say something");
    }
}

#[test]
fn last_is_the_last_of_all() {
    let device = flex();
    let model = wide(&device);
    let tokens = ids(3, 9, 50, &device);
    let all = model.extend(tokens.clone(), &mut model.new_cache(3, 9), Positions::All);
    let last = model.extend(tokens, &mut model.new_cache(3, 9), Positions::Last);
    assert_eq!(last.dims(), [3, 1, 50]);
    assert!(difference(&host(all.narrow(1, 8, 1)), &host(last)) <= TOLERANCE);
}

#[test]
fn truncation_forgets() {
    let device = flex();
    let model = wide(&device);
    let tokens = ids(1, 12, 50, &device);
    let mut cache = model.new_cache(1, 16);
    model.extend(ids(1, 6, 50, &device).flip([1]), &mut cache, Positions::Last);
    cache.truncate(0);
    assert!(cache.is_empty());
    let ours = host(model.extend(tokens.clone(), &mut cache, Positions::All));
    assert!(difference(&ours, &host(model.logits(tokens, None))) <= TOLERANCE);
}

/// A step costs the same whether the cache has room for 100 positions or for 20,000: it is written in place. If it were
/// copied, a step of the large one would move 41 MB and take some forty times as long.
#[test]
fn a_step_does_not_copy_the_cache() {
    let device = flex();
    let config = caravan_model::LlamaConfig {
        max_seq_len: 20_000,
        ..tiny(Kernels::Fused, &device).config().clone()
    };
    let model = caravan_model::Llama::init(&config, 1, Kernels::Fused, &device).unwrap();
    let step = |capacity: usize| {
        let mut cache = model.new_cache(1, capacity);
        let token = ids(1, 1, 512, &device);
        let mut best = f64::MAX;
        for _ in 0..60 {
            let start = std::time::Instant::now();
            model.extend(token.clone(), &mut cache, Positions::Last);
            best = best.min(start.elapsed().as_secs_f64());
        }
        best
    };
    let (small, large) = (step(100), step(20_000));
    println!("a step takes {:.0} us, with a large cache {:.0} us", 1e6 * small, 1e6 * large);
    assert!(large < 4.0 * small, "{large} s is no longer near {small} s");
}

#[test]
#[should_panic(expected = "3 more positions after 6 exceed the cache's capacity of 8")]
fn a_full_cache_panics() {
    let device = flex();
    let model = wide(&device);
    let mut cache = model.new_cache(1, 8);
    model.extend(ids(1, 6, 50, &device), &mut cache, Positions::Last);
    model.extend(ids(1, 3, 50, &device), &mut cache, Positions::Last);
}

#[test]
#[should_panic(expected = "exceeds max_seq_len = 32")]
fn a_cache_beyond_the_model_panics() {
    wide(&flex()).new_cache(1, 33);
}

#[test]
fn a_trained_model_is_read_through_valid() {
    let device = flex().autodiff();
    let model = wide(&device).valid();
    assert!(!model.device().is_autodiff());
    let tokens = ids(1, 5, 50, &model.device());
    let ours = host(model.extend(tokens, &mut model.new_cache(1, 5), Positions::Last));
    assert!(ours.iter().all(|v| v.is_finite()));
}
