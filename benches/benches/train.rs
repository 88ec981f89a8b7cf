//! A whole update: forward, backward, norm, clip, AdamW. `cargo xtask bench train` measures the same
//! once and beside PyTorch; this one keeps a history.

use burn::tensor::{Int, Tensor, TensorData};
use caravan_benches::devices;
use caravan_model::{Kernels, Llama, preset};
use caravan_optim::{AdamW, AdamWConfig, ParamGroups, Placement};
use caravan_parallel::{Activations, MicroBatch};
use caravan_train::{StepSettings, step};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROWS: usize = 8;
const SEQ_LEN: usize = 256;

fn update(c: &mut Criterion) {
    let mut group = c.benchmark_group("update");
    group.throughput(Throughput::Elements((ROWS * SEQ_LEN) as u64)).sample_size(10);
    for (name, device) in devices() {
        let device = device.autodiff();
        for (kernels, activations) in [
            (Kernels::Fused, Activations::Keep),
            (Kernels::Fused, Activations::Recompute),
            (Kernels::Reference, Activations::Keep),
        ] {
            let mut config = preset("8m").expect("a known preset");
            config.max_seq_len = SEQ_LEN;
            let tokens: Vec<i32> = (0..ROWS * (SEQ_LEN + 1))
                .map(|i| ((i * 7919) % config.vocab_size) as i32)
                .collect();
            let part = |shift: usize| -> Vec<i32> {
                (0..ROWS)
                    .flat_map(|r| tokens[r * (SEQ_LEN + 1) + shift..][..SEQ_LEN].to_vec())
                    .collect()
            };
            let tensor =
                |v| Tensor::<2, Int>::from_data(TensorData::new(v, [ROWS, SEQ_LEN]), &device);
            let batch = MicroBatch {
                tokens: tensor(part(0)),
                targets: tensor(part(1)),
                document_starts: None,
                n_targets: (ROWS * SEQ_LEN) as u64,
            };
            let placement = if name == "flex" { Placement::Host } else { Placement::Device };
            let mut optimizer =
                AdamW::new(AdamWConfig::default(), placement).expect("good settings");
            let groups = ParamGroups::default();
            let settings = StepSettings {
                lr: 1e-4,
                weight_decay: 0.1,
                groups: &groups,
                grad_clip: 1.0,
                activations,
            };
            let mut model =
                Some(Llama::init(&config, 0, kernels, &device).expect("a good configuration"));
            let id = BenchmarkId::new(format!("8m/{kernels:?}/{activations:?}"), name);
            group.bench_function(id, |b| {
                b.iter(|| {
                    let current = model.take().expect("put back below");
                    let (next, _) =
                        step(current, &mut optimizer, std::iter::once(batch.clone()), settings)
                            .map_err(|(_, found)| found)
                            .expect("finite numbers");
                    device.sync().expect("the device works");
                    model = Some(next);
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, update);
criterion_main!(benches);
