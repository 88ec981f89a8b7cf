//! The fused operators beside their references, forward and backward, at the shapes of preset `8m`
//! and at longer sequences. Ids are `op/shape/device`.

use std::hint::black_box;

use burn::tensor::{Device, Distribution, Int, Tensor};
use caravan_kernels::Kernels;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Group<'a> = BenchmarkGroup<'a, WallTime>;

/// The devices that are compiled in, by name.
fn devices() -> Vec<(&'static str, Device)> {
    vec![
        #[cfg(feature = "flex")]
        ("flex", Device::flex()),
        #[cfg(feature = "tch")]
        ("tch", Device::libtorch()),
        #[cfg(feature = "cuda")]
        ("cuda", Device::cuda(0)),
    ]
}

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

/// Benches `step` with both kernels on every device; it returns a loss whose backward is part of
/// the time.
fn both<T>(
    criterion: &mut Criterion,
    op: &str,
    shape: &str,
    n_tokens: usize,
    inputs: impl Fn(&Device) -> T,
    loss: impl Fn(Kernels, &T) -> Tensor<1>,
) {
    let mut group: Group<'_> = criterion.benchmark_group(op);
    group.throughput(Throughput::Elements(n_tokens as u64)).sample_size(10);
    for (name, device) in devices() {
        let device = device.autodiff();
        let inputs = inputs(&device);
        for kernels in [Kernels::Fused, Kernels::Reference] {
            let id = format!("{shape}/{name}/{}", format!("{kernels:?}").to_lowercase());
            group.bench_function(id, |bencher| {
                bencher.iter(|| {
                    black_box(loss(kernels, &inputs).backward());
                    device.sync().expect("the device finishes its work");
                });
            });
        }
    }
    group.finish();
}

fn attention(criterion: &mut Criterion) {
    for [b, n_heads, n_kv_heads, s, head_dim] in
        [[8, 6, 6, 256, 48], [4, 8, 8, 512, 64], [4, 8, 2, 512, 64]]
    {
        let shape = format!("{b}x{n_heads}-{n_kv_heads}x{s}x{head_dim}");
        // As in the model: projections `[b, s, heads, head_dim]`, seen with heads first.
        let inputs = |device: &Device| {
            [n_heads, n_kv_heads, n_kv_heads].map(|heads| -> Tensor<4> {
                random([b, s, heads, head_dim], device).require_grad()
            })
        };
        both(criterion, "attention", &shape, b * s, inputs, |kernels, inputs| {
            let [q, k, v] = inputs.clone().map(|x| x.swap_dims(1, 2));
            kernels.attention(q, k, v, None).sum()
        });
    }
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    for [n_heads, n_kv_heads, t, head_dim] in [[6, 6, 256, 48], [32, 8, 2048, 128]] {
        for (name, device) in devices() {
            let q: Tensor<4> = random([1, n_heads, 1, head_dim], &device);
            let k: Tensor<4> = random([1, n_kv_heads, t, head_dim], &device);
            for kernels in [Kernels::Fused, Kernels::Reference] {
                let shape = format!("{n_heads}-{n_kv_heads}x{t}x{head_dim}");
                let id = format!("{shape}/{name}/{}", format!("{kernels:?}").to_lowercase());
                group.bench_function(id, |bencher| {
                    bencher.iter(|| {
                        black_box(kernels.attention(q.clone(), k.clone(), k.clone(), None));
                        device.sync().expect("the device finishes its work");
                    });
                });
            }
        }
    }
    group.finish();
}

fn pointwise(criterion: &mut Criterion) {
    let inputs = |device: &Device| -> [Tensor<3>; 2] {
        [random([8, 256, 768], device).require_grad(), random([8, 256, 768], device).require_grad()]
    };
    both(criterion, "swiglu", "2048x768", 2048, inputs, |kernels, [gate, up]| {
        kernels.swiglu(gate.clone(), up.clone()).sum()
    });

    let inputs = |device: &Device| -> (Tensor<3>, Tensor<1>) {
        (random([8, 256, 288], device).require_grad(), random([288], device).require_grad())
    };
    both(criterion, "rms_norm", "2048x288", 2048, inputs, |kernels, (x, weight)| {
        kernels.rms_norm(x.clone(), weight.clone(), 1e-5).sum()
    });

    let inputs = |device: &Device| -> (Tensor<4>, Tensor<2>, Tensor<2>) {
        let x = random([8, 256, 6, 48], device).require_grad();
        (x, random([256, 24], device), random([256, 24], device))
    };
    both(criterion, "rope", "8x6x256x48", 2048, inputs, |kernels, (x, cos, sin)| {
        kernels.rope(x.clone().swap_dims(1, 2), cos.clone(), sin.clone()).sum()
    });
}

fn cross_entropy(criterion: &mut Criterion) {
    let inputs = |device: &Device| -> (Tensor<2>, Tensor<1, Int>) {
        let targets: Vec<i32> = (0..2048).map(|i| i * 7919 % 4096).collect();
        let logits = random([2048, 4096], device).require_grad();
        (logits, Tensor::from_data(targets.as_slice(), device))
    };
    both(criterion, "cross_entropy", "2048x4096", 2048, inputs, |kernels, (logits, targets)| {
        kernels.cross_entropy(logits.clone(), targets.clone())
    });
}

criterion_group!(benches, attention, decode, pointwise, cross_entropy);
criterion_main!(benches);
