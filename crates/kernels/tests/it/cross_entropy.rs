//! Cross-entropy and token losses: ignored rows, large logits, bad targets.

use burn::tensor::{DType, Device};
use caravan_kernels::Kernels;

use crate::plain;
use crate::support::{F32_TOLERANCE, Layout, assert_close, host, input, ints, values, variants};

/// `(sum, losses, dlogits)`, the sum's incoming gradient being `dy`.
fn run(
    kernels: Kernels,
    dtype: DType,
    layout: Layout,
    logits: &[f64],
    targets: &[i64],
    dy: f64,
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    run_on(&Device::flex().autodiff(), kernels, dtype, layout, logits, targets, dy)
}

fn run_on(
    device: &Device,
    kernels: Kernels,
    dtype: DType,
    layout: Layout,
    logits: &[f64],
    targets: &[i64],
    dy: f64,
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let (n, vocab) = (targets.len(), logits.len() / targets.len());
    let x = input::<2>(logits, [n, vocab], layout, dtype, device).require_grad();
    let sum = kernels.cross_entropy(x.clone(), ints(targets, [n], device));
    assert_eq!(sum.dims(), [1]);
    let grads = (sum.clone() * dy).backward();
    let losses = kernels.token_losses(x.clone().inner(), ints(targets, [n], device).inner());
    (host(sum), host(losses), host(x.grad(&grads).expect("tracked")))
}

fn check(logits: &[f64], targets: &[i64], layout: Layout) {
    let [losses, dlogits] = plain::cross_entropy(logits, targets, 0.3);
    let sum = [losses.iter().sum::<f64>()];
    for (kernels, dtype, tolerance, device) in variants() {
        let found = run_on(&device, kernels, dtype, layout, logits, targets, 0.3);
        let what =
            |name: &str| format!("{name} {kernels:?} {dtype:?} {device:?} n {}", targets.len());
        assert_close(&what("sum"), &found.0, &sum, tolerance);
        assert_close(&what("losses"), &found.1, &losses, tolerance);
        assert_close(&what("dlogits"), &found.2, &dlogits, tolerance);
    }
}

/// `n` targets below `vocab`, every fifth of them -1.
fn targets(n: usize, vocab: usize) -> Vec<i64> {
    (0..n).map(|i| if i % 5 == 3 { -1 } else { ((i * 7919) % vocab) as i64 }).collect()
}

#[test]
fn equals_plain_loops() {
    for (n, vocab) in [(1, 1), (1, 7), (7, 31), (16, 64), (33, 257), (5, 4096)] {
        check(&values(n * vocab, (n + vocab) as u64), &targets(n, vocab), Layout::Dense);
    }
}

#[test]
fn strided_logits() {
    check(&values(20 * 33, 5), &targets(20, 33), Layout::Swapped(0, 1));
}

#[test]
fn large_logits_are_stable() {
    let logits: Vec<f64> = values(12 * 40, 9).iter().map(|x| (x * 1e4).round()).collect();
    check(&logits, &targets(12, 40), Layout::Dense);
}

#[test]
fn all_rows_ignored_give_zero() {
    let logits = values(6 * 10, 3);
    for (kernels, dtype, _, device) in variants() {
        let (sum, losses, dlogits) =
            run_on(&device, kernels, dtype, Layout::Dense, &logits, &[-1; 6], 0.3);
        assert!([sum, losses, dlogits].iter().flatten().all(|&x| x == 0.0), "{kernels:?}");
    }
}

#[test]
fn scores_are_losses_and_whether_the_first_of_the_largest_is_meant() {
    for (n, vocab) in [(1, 1), (7, 31), (40, 64), (5, 5000)] {
        // Few different values, so that rows have several largest logits.
        let logits: Vec<f64> = values(n * vocab, 8).iter().map(|x| (x * 2.0).round()).collect();
        let row = |i: usize| &logits[i * vocab..(i + 1) * vocab];
        let first = |i: usize| (0..vocab).fold(0, |b, j| if row(i)[j] > row(i)[b] { j } else { b });
        let last = |i: usize| (0..vocab).fold(0, |b, j| if row(i)[j] >= row(i)[b] { j } else { b });
        let target = |i: usize| match i % 4 {
            0 => first(i) as i64,
            1 => last(i) as i64,
            2 => (i % vocab) as i64,
            _ => -1,
        };
        let targets: Vec<i64> = (0..n).map(target).collect();
        let losses = &plain::cross_entropy(&logits, &targets, 1.0)[0];
        for (kernels, dtype, tolerance, device) in variants() {
            let x = input::<2>(&logits, [n, vocab], Layout::Dense, dtype, &device).inner();
            let scores = kernels.token_scores(x, ints(&targets, [n], &device).inner());
            let scores = host(scores);
            let of = |k: usize| scores.iter().skip(k).step_by(2).copied().collect::<Vec<f64>>();
            assert_close(&format!("{kernels:?} {dtype:?} {n}"), &of(0), losses, tolerance);
            for (i, is_best) in of(1).into_iter().enumerate() {
                let expected = targets[i] == first(i) as i64;
                assert_eq!(is_best == 1.0, expected, "{kernels:?} {dtype:?} {device:?} row {i}");
            }
        }
    }
}

#[test]
fn token_losses_take_autodiff_tensors_as_constants() {
    let device = Device::flex().autodiff();
    let (logits, targets) = (values(30, 4), targets(3, 10));
    let x = input::<2>(&logits, [3, 10], Layout::Dense, DType::F32, &device).require_grad();
    let losses = Kernels::Fused.token_losses(x, ints(&targets, [3], &device));
    assert!(!losses.is_tracked());
    assert_close(
        "losses",
        &host(losses),
        &plain::cross_entropy(&logits, &targets, 1.0)[0],
        F32_TOLERANCE,
    );
}

#[test]
fn the_logits_survive_when_someone_else_holds_them() {
    let device = Device::flex().autodiff();
    let logits = values(30, 4);
    let x = input::<2>(&logits, [3, 10], Layout::Dense, DType::F32, &device).require_grad();
    let held = x.clone().inner();
    let before = host(held.clone());
    let _ = Kernels::Fused.cross_entropy(x, ints(&targets(3, 10), [3], &device)).backward();
    assert_eq!(host(held), before);
}

#[test]
#[should_panic(expected = "target 10 of row 2 is neither -1 nor below the vocabulary size 10")]
fn a_target_beyond_the_vocabulary() {
    run(Kernels::Fused, DType::F32, Layout::Dense, &values(30, 1), &[0, -1, 10], 1.0);
}

#[test]
#[should_panic(expected = "target -2 of row 1 is neither -1")]
fn a_negative_target() {
    run(Kernels::Fused, DType::F32, Layout::Dense, &values(30, 1), &[0, -2, 9], 1.0);
}

#[test]
#[should_panic(expected = "cross_entropy: logits are [3, 10], but there are 2 targets")]
fn as_many_targets_as_rows() {
    let device = Device::flex();
    let x = input::<2>(&values(30, 1), [3, 10], Layout::Dense, DType::F32, &device);
    let _ = Kernels::Fused.cross_entropy(x, ints(&[1, 2], [2], &device));
}
