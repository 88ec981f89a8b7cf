//! Every tensor operator, value and gradient, against formulas of one rank in f64.
//!
//! Each rank's loss is the sum of `weight * tanh(y)` with the operator's result `y`, so the gradient
//! that arrives is `weight * (1 - tanh(y)^2)`, another one on each rank where the loss is.

use burn::tensor::{Device, Tensor, TensorData};
use caravan_collective::{Communicator, tensor, threads};

/// One tensor per rank, or one that all share, in f64: `[a, b, c]` row by row.
#[derive(Clone, Debug)]
struct Host {
    dims: [usize; 3],
    values: Vec<f64>,
}

impl Host {
    fn sample(seed: usize, dims: [usize; 3]) -> Self {
        let value = |i: usize| ((i * 37 + seed * 101 + i / 7) % 61) as f64 / 40.0 - 0.75;
        Self { dims, values: (0..dims.iter().product()).map(value).collect() }
    }

    fn zip(&self, other: &Self, f: impl Fn(f64, f64) -> f64) -> Self {
        assert_eq!(self.dims, other.dims);
        let pairs = self.values.iter().zip(&other.values);
        Self { dims: self.dims, values: pairs.map(|(a, b)| f(*a, *b)).collect() }
    }

    fn sum(parts: &[Self]) -> Self {
        parts[1..].iter().fold(parts[0].clone(), |sum, part| sum.zip(part, |a, b| a + b))
    }

    /// Part `index` of `n` along `dim`, element by element.
    fn part(&self, dim: usize, index: usize, n: usize) -> Self {
        let mut dims = self.dims;
        dims[dim] /= n;
        let mut values = Vec::new();
        for i in 0..dims[0] {
            for j in 0..dims[1] {
                for k in 0..dims[2] {
                    let mut at = [i, j, k];
                    at[dim] += index * dims[dim];
                    let [_, b, c] = self.dims;
                    values.push(self.values[(at[0] * b + at[1]) * c + at[2]]);
                }
            }
        }
        Self { dims, values }
    }

    /// `weight * (1 - tanh(y)^2)`.
    fn slope(&self, weight: &Self) -> Self {
        self.zip(weight, |y, weight| weight * (1.0 - y.tanh() * y.tanh()))
    }

    fn on(&self, device: &Device) -> Tensor<3> {
        let values: Vec<f32> = self.values.iter().map(|x| *x as f32).collect();
        Tensor::from_data(TensorData::new(values, self.dims), device)
    }
}

/// `parts` along `dim`: the whole whose parts they are.
fn whole(parts: &[Host], dim: usize) -> Host {
    let mut dims = parts[0].dims;
    dims[dim] *= parts.len();
    let [a, b, c] = dims;
    let mut values = Vec::new();
    for i in 0..a {
        for j in 0..b {
            for k in 0..c {
                let mut at = [i, j, k];
                let n = parts[0].dims[dim];
                let part = &parts[at[dim] / n];
                at[dim] %= n;
                values.push(part.values[(at[0] * part.dims[1] + at[1]) * part.dims[2] + at[2]]);
            }
        }
    }
    Host { dims, values }
}

/// What an operator gives on one rank: its value, and the gradient of its argument.
type Found = (Vec<f32>, Vec<f32>);

/// Runs an operator on a rank's argument, with a loss of a rank's weight.
fn found(
    device: &Device,
    group: &Communicator,
    x: &[Host],
    weight: &[Host],
    operator: impl Fn(Tensor<3>, &Communicator) -> Tensor<3>,
) -> Found {
    let x = x[group.rank() % x.len()].on(device).require_grad();
    let y = operator(x.clone(), group);
    let weight = weight[group.rank() % weight.len()].on(device);
    let grads = (y.clone().tanh() * weight).sum().backward();
    (values(y.inner()), values(x.grad(&grads).expect("the argument is tracked")))
}

fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().try_into_vec().expect("f32")
}

fn assert_close(found: &[f32], expected: &Host, what: &str) {
    assert_eq!(found.len(), expected.values.len(), "{what}");
    for (i, (found, expected)) in found.iter().zip(&expected.values).enumerate() {
        // Values of size 1 in f32, a few roundings.
        assert!((f64::from(*found) - expected).abs() < 2e-6, "{what} at {i}: {found}, {expected}");
    }
}

/// Runs `operator` on 2, 3 and 4 ranks, and holds value and gradient of each rank against
/// `expected(rank, n)`. Arguments and weights are made for `n` ranks.
///
/// Forward and backward together make `n_calls` calls, also with gradient checkpointing.
fn check(
    name: &str,
    n_calls: u64,
    operator: impl Fn(Tensor<3>, &Communicator) -> Tensor<3> + Sync,
    arguments: impl Fn(usize) -> (Vec<Host>, Vec<Host>) + Sync,
    expected: impl Fn(&[Host], &[Host], usize, usize) -> (Host, Host),
) {
    for n in [2, 3, 4] {
        let (x, weight) = arguments(n);
        let ranks = threads::run(n, |group| {
            let group = group.checked();
            let plain = Device::flex().autodiff();
            let found = found(&plain, &group, &x, &weight, &operator);
            assert_eq!(group.traffic().calls, n_calls, "{name}");
            let again =
                self::found(&plain.gradient_checkpointing(), &group, &x, &weight, &operator);
            assert_eq!(group.traffic().calls, 2 * n_calls, "{name} is never replayed");
            assert_eq!(found, again, "{name} with gradient checkpointing");
            found
        });
        for (rank, (y, dx)) in ranks.expect("no rank fails").iter().enumerate() {
            let (expected_y, expected_dx) = expected(&x, &weight, rank, n);
            assert_close(y, &expected_y, &format!("{name}: y on rank {rank} of {n}"));
            assert_close(dx, &expected_dx, &format!("{name}: dx on rank {rank} of {n}"));
        }
    }
}

fn samples(n: usize, seed: usize, dims: [usize; 3]) -> Vec<Host> {
    (0..n).map(|rank| Host::sample(seed + rank, dims)).collect()
}

/// One argument, which each rank uses in its own way.
#[test]
fn enter() {
    check(
        "enter",
        1,
        tensor::enter,
        |n| (samples(1, 0, [3, 5, 7]), samples(n, 10, [3, 5, 7])),
        |x, weight, _, _| {
            let slopes: Vec<Host> = weight.iter().map(|weight| x[0].slope(weight)).collect();
            (x[0].clone(), Host::sum(&slopes))
        },
    );
}

/// A sum that all ranks use in the same way: one loss, not one per rank.
#[test]
fn exit() {
    check(
        "exit",
        1,
        tensor::exit,
        |n| (samples(n, 0, [3, 5, 7]), samples(1, 10, [3, 5, 7])),
        |x, weight, _, _| (Host::sum(x), Host::sum(x).slope(&weight[0])),
    );
}

/// Dims along which the parts lie, with two elements each.
fn dims(dim: usize, n: usize) -> [usize; 3] {
    let mut dims = [3, 5, 7];
    dims[dim] = 2 * n;
    dims
}

#[test]
fn gather() {
    for dim in 0..3 {
        check(
            &format!("gather along {dim}"),
            2,
            |x, group| tensor::gather(x, dim, group),
            |n| (samples(n, 0, dims(dim, 1)), samples(n, 10, dims(dim, n))),
            |x, weight, rank, n| {
                let y = whole(x, dim);
                let slopes: Vec<Host> = weight.iter().map(|weight| y.slope(weight)).collect();
                (y, Host::sum(&slopes).part(dim, rank, n))
            },
        );
    }
}

#[test]
fn scatter_sum() {
    for dim in 0..3 {
        check(
            &format!("scatter_sum along {dim}"),
            2,
            |x, group| tensor::scatter_sum(x, dim, group),
            |n| (samples(n, 0, dims(dim, n)), samples(n, 10, dims(dim, 1))),
            |x, weight, rank, n| {
                let sum = Host::sum(x);
                let slope = |rank: usize| sum.part(dim, rank, n).slope(&weight[rank]);
                let slopes: Vec<Host> = (0..n).map(slope).collect();
                (sum.part(dim, rank, n), whole(&slopes, dim))
            },
        );
    }
}

/// One argument that all ranks share, of which each uses its part.
#[test]
fn split() {
    for dim in 0..3 {
        check(
            &format!("split along {dim}"),
            1,
            |x, group| tensor::split(x, dim, group),
            |n| (samples(1, 0, dims(dim, n)), samples(n, 10, dims(dim, 1))),
            |x, weight, rank, n| {
                let slope = |rank: usize| x[0].part(dim, rank, n).slope(&weight[rank]);
                let slopes: Vec<Host> = (0..n).map(slope).collect();
                (x[0].part(dim, rank, n), whole(&slopes, dim))
            },
        );
    }
}

/// Two weights cut by columns and by rows between `enter` and `exit`, against the uncut ones on one
/// rank: what tensor parallelism is made of. The loss without a weight also sends a gradient that is
/// a view of a single one.
#[test]
fn enter_and_exit_around_cut_weights_equal_whole_weights() {
    let matrix = |seed: usize, a: usize, b: usize, device: &Device| {
        Host::sample(seed, [1, a, b]).on(device).reshape([a, b])
    };
    let (d_in, d_hidden, rows) = (6, 24, 5);
    let run = |group: &Communicator| {
        let device = Device::flex().autodiff();
        let (n, rank) = (group.size(), group.rank());
        let (start, len) = (rank * d_hidden / n, d_hidden / n);
        let x = matrix(1, rows, d_in, &device).require_grad();
        let up = matrix(2, d_in, d_hidden, &device).narrow(1, start, len).require_grad();
        let down = matrix(3, d_hidden, d_in, &device).narrow(0, start, len).require_grad();
        let hidden = tensor::enter(x.clone(), group).matmul(up.clone()).tanh();
        let y = tensor::exit(hidden.matmul(down.clone()), group);
        let grads = y.clone().sum().backward();
        let grad = |of: &Tensor<2>| of.grad(&grads).expect("tracked");
        (values(y.inner()), values(grad(&x)), grad(&up), grad(&down))
    };
    let (y, dx, dup, ddown) = run(&Communicator::alone());
    // Sums of 24 products of size 1, in another order.
    let close = |found: &[f32], expected: &[f32], what: &str| {
        assert_eq!(found.len(), expected.len(), "{what}");
        let error = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(error < 1e-5, "{what}: {error}");
    };
    for n in [2, 3, 4] {
        let ranks = threads::run(n, |group| {
            let (y, dx, dup, ddown) = run(&group);
            (y, dx, values(dup), values(ddown))
        });
        let len = d_hidden / n;
        for (rank, found) in ranks.expect("no rank fails").iter().enumerate() {
            close(&found.0, &y, "y");
            close(&found.1, &dx, "dx");
            close(&found.2, &values(dup.clone().narrow(1, rank * len, len)), "dup");
            close(&found.3, &values(ddown.clone().narrow(0, rank * len, len)), "ddown");
        }
    }
}

#[test]
fn plain_tensors_take_the_same_way() {
    let ranks = threads::run(3, |group| {
        let device = Device::flex();
        // A transposed view, whose memory is in another order: [[r, r + 2], [r + 1, r + 3]].
        let r = group.rank() as f32;
        let x = Tensor::<2>::from_floats([[r, r + 1.0], [r + 2.0, r + 3.0]], &device).transpose();
        let reduced = tensor::all_reduce(x.clone(), &group);
        let gathered = tensor::gather(x.clone(), 1, &group);
        let scattered = tensor::scatter_sum(gathered.clone(), 1, &group);
        let own = tensor::split(gathered.clone(), 1, &group);
        assert_eq!(values(own), values(x.clone()));
        assert_eq!(values(tensor::exit(x.clone(), &group)), values(reduced.clone()));
        assert_eq!(values(tensor::enter(x.clone(), &group)), values(x));
        assert!(!reduced.is_autodiff());
        (values(reduced), values(gathered), values(scattered))
    });
    for (rank, (reduced, gathered, scattered)) in ranks.expect("no rank fails").iter().enumerate() {
        assert_eq!(*reduced, [3.0, 9.0, 6.0, 12.0]);
        assert_eq!(*gathered, [0., 2., 1., 3., 2., 4., 1., 3., 2., 4., 3., 5.]);
        let r = rank as f32;
        assert_eq!(*scattered, [r, r + 2.0, r + 1.0, r + 3.0].map(|x| 3.0 * x));
    }
}

#[test]
fn element_types_are_kept() {
    use burn::tensor::DType;
    let ranks = threads::run(2, |group| {
        for dtype in [DType::F64, DType::BF16] {
            for device in [Device::flex(), Device::flex().autodiff()] {
                let x =
                    Tensor::<1>::from_data([256.0, 1.0], (&device, dtype)).require_grad_if(&device);
                let sum = tensor::exit(x, &group);
                assert_eq!(sum.dtype(), dtype);
                assert_eq!(values(sum.inner().cast(DType::F32)), [512.0, 2.0]);
            }
        }
    });
    assert_eq!(ranks, Ok(vec![(); 2]));
}

/// Leaves plain tensors alone.
trait RequireGradIf {
    fn require_grad_if(self, device: &Device) -> Self;
}

impl RequireGradIf for Tensor<1> {
    fn require_grad_if(self, device: &Device) -> Self {
        if device.is_autodiff() { self.require_grad() } else { self }
    }
}

#[test]
fn one_rank_adds_nothing() {
    let alone = Communicator::alone();
    let device = Device::flex().autodiff();
    let x = Tensor::<2>::from_floats([[1.0, 2.0]], &device).require_grad();
    let y = tensor::exit(tensor::enter(x.clone(), &alone), &alone);
    let y = tensor::scatter_sum(tensor::gather(tensor::split(y, 1, &alone), 1, &alone), 1, &alone);
    assert_eq!(values(x.grad(&(y * 2.0).sum().backward()).unwrap()), [2.0, 2.0]);
    assert_eq!(alone.traffic().calls, 0);
}

#[test]
fn misuse_says_what_to_do() {
    let says = |body: fn(Tensor<2>, &Communicator), text: &str| {
        let failed = threads::run(2, |group| {
            let x = Tensor::<2>::from_floats([[1.0, 2.0, 3.0]], &Device::flex().autodiff());
            body(x.require_grad(), &group);
        });
        let message = failed.unwrap_err().message;
        assert!(message.contains(text) && message.contains("\nhelp: "), "{message}");
    };
    says(
        |x, group| drop(tensor::all_reduce(x, group)),
        "of a tensor with a gradient on axis `world`",
    );
    says(|x, group| drop(tensor::split(x, 1, group)), "dim 1 of the tensor is 3, which 2 ranks");
    says(|x, group| drop(tensor::scatter_sum(x, 0, group)), "dim 0 of the tensor is 1, which 2");
}
