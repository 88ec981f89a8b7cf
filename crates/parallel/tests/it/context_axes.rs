use std::sync::Arc;

use burn::tensor::Tensor;
use caravan_collective::threads;
use caravan_model::{Attend, Kernels, Llama, LlamaConfig, preset};
use caravan_parallel::context::{Ring, finish_context, local_batch};
use caravan_parallel::tensor::{self, finish_tensor_gradients, slice_of};
use caravan_parallel::{Activations, Engine, Layout, Mesh, MicroBatch, Place, forward_backward};

use crate::common::{batch, device, host};
use crate::sequence::{TOLERANCE, close, starts};

const SEQ_LEN: usize = 24;
const SEED: u64 = 11;

fn config(tie_embeddings: bool) -> LlamaConfig {
    LlamaConfig {
        vocab_size: 97,
        d_model: 48,
        n_layers: 2,
        n_heads: 6,
        n_kv_heads: 2,
        head_dim: 8,
        d_ff: 100,
        max_seq_len: 64,
        tie_embeddings,
        init_std: 0.2, // as in `sequence`
        ..preset("8m").unwrap()
    }
}

fn whole(index: u64) -> MicroBatch {
    let starts = Tensor::<1, _>::from_data(starts(2, SEQ_LEN).as_slice(), &device());
    let documents = index.is_multiple_of(2).then(|| starts.reshape([2, SEQ_LEN]));
    MicroBatch { document_starts: documents, ..batch(97, 2, SEQ_LEN, index as usize, false) }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|x| f64::from(*x)).collect()
}

/// The ring inside whole steps of a mesh: with replicas, ZeRO, stages.
#[test]
fn a_ring_works_beside_data_and_pipeline() {
    const N: usize = 3 * 4;
    let one = Layout::default();
    let layouts = [
        Layout { context: 2, data: 2, ..one },
        Layout { context: 2, data: 3, zero_stage: 3, ..one },
        Layout { context: 3, pipeline: 2, ..one },
        Layout { context: 2, data: 2, pipeline: 2, zero_stage: 1, ..one },
    ];
    let run = |tie: bool, layout: Layout, mesh: Mesh| {
        let config = config(tie);
        let (rank, size) = (mesh.context.rank(), mesh.context.size());
        let ring: Arc<dyn Attend> = Arc::new(Ring::new(mesh.context.clone()));
        let model = Llama::init(&config, SEED, Kernels::Fused, &device()).unwrap();
        let mut engine = Engine::new(model.with_attend(&ring), layout, mesh);
        let indices = engine.micro_batches(N).into_iter();
        let batches: Vec<_> =
            indices.map(|index| local_batch(&whole(index), rank, size).unwrap()).collect();
        engine.all_gradients(N, &batches, Activations::Recompute)
    };
    for tie in [false, true] {
        let (expected, loss) = run(tie, one, Mesh::alone());
        for layout in layouts {
            let ranks = threads::run(layout.world(), |world| {
                run(tie, layout, Mesh::new(world.checked(), &layout).unwrap())
            });
            for (found, found_loss) in ranks.unwrap() {
                assert_eq!(found_loss.tokens, loss.tokens);
                close("loss", &[found_loss.nats], &[loss.nats], TOLERANCE).unwrap();
                assert_eq!(found.len(), expected.len());
                for (found, expected) in found.iter().zip(&expected) {
                    assert_eq!(found.path, expected.path);
                    let (values, expected) = (wide(&found.values), wide(&expected.values));
                    close(&found.path, &values, &expected, TOLERANCE)
                        .unwrap_or_else(|e| panic!("{layout:?}: {e}"));
                }
            }
        }
    }
}

/// The ring with heads that are split over a tensor axis, and sequences that are cut once more between the split weights.
#[test]
fn a_ring_works_inside_tensor_parallelism() {
    let layout = Layout { context: 3, tensor: 2, ..Layout::default() };
    let batch = whole(0);
    for (tie, sequence_parallel) in [(false, false), (false, true), (true, true)] {
        let config = config(tie);
        let model = Llama::init(&config, SEED, Kernels::Fused, &device()).unwrap();
        let (expected, loss) = forward_backward(&model, &batch, Activations::Keep);
        let expected = expected.finish();
        let ranks = threads::run(layout.world(), |world| {
            let mesh = Mesh::new(world, &layout).unwrap();
            let (group, device) = (&mesh.tensor, device());
            let model =
                tensor::init(&config, SEED, Kernels::Fused, &device, group, sequence_parallel);
            let ring: Arc<dyn Attend> = Arc::new(Ring::new(mesh.context.clone()));
            let model = model.unwrap().with_attend(&ring);
            let batch = local_batch(&whole(0), mesh.context.rank(), 3).unwrap();
            let (gradients, loss) = forward_backward(&model, &batch, Activations::Keep);
            let gradients = finish_tensor_gradients(gradients, group, sequence_parallel);
            let (gradients, loss) = finish_context(gradients, loss, &mesh.context);
            let gradients = gradients.finish();
            let values = gradients.iter().map(|g| (g.path.clone(), host(&g.values)));
            (values.collect::<Vec<_>>(), loss)
        });
        for (rank, (found, found_loss)) in ranks.unwrap().into_iter().enumerate() {
            close("loss", &[found_loss.nats], &[loss.nats], TOLERANCE).unwrap();
            assert_eq!(found_loss.tokens, loss.tokens);
            for ((path, values), expected) in found.iter().zip(expected.iter()) {
                let slice =
                    slice_of(path, &expected.shape, &config, Place::of(rank, &layout).tensor, 2);
                let expected = slice.cut(&expected.shape, &host(&expected.values));
                close(path, &wide(values), &wide(&expected), TOLERANCE)
                    .unwrap_or_else(|e| panic!("{sequence_parallel} rank {rank}: {e}"));
            }
        }
    }
}
