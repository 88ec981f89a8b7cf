//! The optimizer's step, the gradient norm, and saving, over the parameters of preset `8m`.

use std::hint::black_box;

use burn::tensor::{Distribution, Tensor};
use caravan_benches::devices;
use caravan_checkpoint::{Meta, SaveTensor, open_latest, save};
use caravan_model::preset;
use caravan_optim::{AdamW, AdamWConfig, Placement, squared_norm};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Lengths of all parameters.
fn lengths() -> Vec<usize> {
    let config = preset("8m").expect("a known preset");
    config.parameters().iter().map(|p| p.shape.iter().product()).collect()
}

fn adamw(c: &mut Criterion) {
    let mut group = c.benchmark_group("adamw");
    let lengths = lengths();
    group.throughput(Throughput::Elements(lengths.iter().sum::<usize>() as u64)).sample_size(20);
    for (name, device) in devices() {
        let random = |n| Tensor::<1>::random([n], Distribution::Uniform(-1.0, 1.0), &device);
        let grads: Vec<_> = lengths.iter().map(|&n| random(n)).collect();
        for placement in [Placement::Device, Placement::Host] {
            let mut adamw = AdamW::new(AdamWConfig::default(), placement).expect("good settings");
            let mut params: Vec<_> = lengths.iter().map(|&n| random(n)).collect();
            group.bench_function(format!("8m/{placement:?}/{name}"), |b| {
                b.iter_batched(
                    // As in a run, each step consumes gradients that nobody else holds.
                    || grads.iter().map(|g| g.clone().mul_scalar(1.0)).collect::<Vec<_>>(),
                    |mine| {
                        let step = |(i, (p, g)): (usize, _)| {
                            adamw.step_scaled(&i.to_string(), p, g, 0.5, 1e-3, 0.1)
                        };
                        params = std::mem::take(&mut params)
                            .into_iter()
                            .zip(mine)
                            .enumerate()
                            .map(step)
                            .collect();
                    },
                    BatchSize::PerIteration,
                );
            });
        }
    }
    group.finish();
}

fn norm(c: &mut Criterion) {
    let values: Vec<Vec<f32>> = lengths().into_iter().map(|n| vec![0.5; n]).collect();
    let mut group = c.benchmark_group("squared_norm");
    group.throughput(Throughput::Elements(values.iter().map(Vec::len).sum::<usize>() as u64));
    group.bench_function("8m", |b| {
        b.iter(|| values.iter().map(|v| black_box(squared_norm(v))).sum::<f64>())
    });
    group.finish();
}

fn checkpoint(c: &mut Criterion) {
    let root = tempfile::tempdir().expect("a folder");
    let values: Vec<Vec<f32>> = lengths().into_iter().map(|n| vec![0.5; n]).collect();
    let bytes: usize = values.iter().map(|v| 4 * v.len()).sum();
    let mut group = c.benchmark_group("checkpoint");
    group.throughput(Throughput::Bytes(bytes as u64)).sample_size(10);
    let mut step = 0;
    group.bench_function("save/8m", |b| {
        b.iter(|| {
            step += 1;
            let tensor = |(i, v): (usize, &Vec<f32>)| {
                SaveTensor::f32(format!("model/{i}"), &[v.len()], v.clone())
            };
            let mut tensors = values.iter().enumerate().map(tensor);
            save(root.path(), step, &Meta::default(), &mut tensors).expect("room on the disk");
        });
    });
    group.bench_function("open_and_verify/8m", |b| {
        b.iter(|| open_latest(root.path()).expect("whole checkpoints").expect("one was saved"));
    });
    group.finish();
}

criterion_group!(benches, adamw, norm, checkpoint);
criterion_main!(benches);
