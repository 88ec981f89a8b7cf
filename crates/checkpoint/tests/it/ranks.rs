//! Tensors, the layouts that ranks may hold them in, and ranks that save them together.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use caravan_checkpoint::{
    Checkpoint, CheckpointError, Dtype, RankFile, SaveTensor, Shard, Staging, save_rank,
};

use crate::make::meta;

/// A tensor of f32 values, whose bits are all different.
pub(crate) struct Tensor {
    pub(crate) path: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f32>,
}

impl Tensor {
    pub(crate) fn new(path: &str, shape: &[usize], seed: u32) -> Self {
        let n: usize = shape.iter().product();
        // An odd factor makes a permutation of all bit patterns: infinities, NaNs, subnormals, all.
        let bits = |i: usize| (i as u32).wrapping_add(seed << 12).wrapping_mul(0x9e37_79b1);
        let values = (0..n).map(|i| f32::from_bits(bits(i))).collect();
        Self { path: path.to_owned(), shape: shape.to_vec(), values }
    }

    /// What a shard holds, found by counting through all elements.
    pub(crate) fn part(&self, shard: &Shard) -> Vec<f32> {
        let mut in_box = Vec::new();
        for (position, &value) in self.values.iter().enumerate() {
            let mut rest = position;
            let mut inside = true;
            for dim in (0..self.shape.len()).rev() {
                let index = rest % self.shape[dim];
                rest /= self.shape[dim];
                let start = shard.start()[dim];
                inside &= start <= index && index < start + shard.extent()[dim];
            }
            if inside {
                in_box.push(value);
            }
        }
        in_box[shard.flat()].to_vec()
    }
}

/// Vectors, matrices, a scalar, something of three dims, and a tensor of nothing.
pub(crate) fn tensors() -> Vec<Tensor> {
    let shapes: [&[usize]; 9] =
        [&[5, 6], &[7], &[8, 3], &[1], &[], &[2, 3, 4], &[1, 9], &[3, 0], &[64]];
    shapes
        .iter()
        .enumerate()
        .map(|(i, shape)| Tensor::new(&format!("model/tensor.{i}"), shape, i as u32))
        .collect()
}

/// How ranks hold a model.
pub(crate) struct Layout {
    pub(crate) name: &'static str,
    pub(crate) n_ranks: usize,
    /// Of (rank, index of the tensor, its shape): what the rank needs of it.
    pub(crate) holds: fn(usize, usize, &[usize]) -> Shard,
    /// Of the same: whether the rank saves it. Of copies, one rank does.
    pub(crate) saves: fn(usize, usize, &[usize]) -> bool,
}

/// Part `index` of `n` elements cut into `count` parts that are as equal as can be.
fn cut(n: usize, index: usize, count: usize) -> Range<usize> {
    n * index / count..n * (index + 1) / count
}

fn sliced(shape: &[usize], dim: usize, index: usize, count: usize) -> Shard {
    match shape.get(dim) {
        Some(&n) => Shard::whole(shape).slice(dim, cut(n, index, count)),
        None => Shard::whole(shape),
    }
}

fn flat(shard: Shard, index: usize, count: usize) -> Shard {
    let range = cut(shard.len(), index, count);
    shard.elements(range)
}

/// One layout of each kind, and products of them.
pub(crate) fn layouts() -> Vec<Layout> {
    fn always(_: usize, _: usize, _: &[usize]) -> bool {
        true
    }
    vec![
        Layout {
            name: "one rank",
            n_ranks: 1,
            holds: |_, _, shape| Shard::whole(shape),
            saves: always,
        },
        Layout {
            name: "two copies",
            n_ranks: 2,
            holds: |_, _, shape| Shard::whole(shape),
            saves: |rank, _, _| rank == 0,
        },
        Layout {
            name: "rows on 2",
            n_ranks: 2,
            holds: |rank, _, shape| sliced(shape, 0, rank, 2),
            saves: |rank, _, shape| rank == 0 || !shape.is_empty(),
        },
        Layout {
            name: "columns on 2",
            n_ranks: 2,
            holds: |rank, _, shape| sliced(shape, 1, rank, 2),
            saves: |rank, _, shape| rank == 0 || shape.len() > 1,
        },
        Layout {
            name: "rows on 5, some without any",
            n_ranks: 5,
            holds: |rank, _, shape| sliced(shape, 0, rank, 5),
            saves: |rank, _, shape| rank == 0 || !shape.is_empty(),
        },
        Layout {
            name: "columns on 3",
            n_ranks: 3,
            holds: |rank, _, shape| sliced(shape, 1, rank, 3),
            saves: |rank, _, shape| rank == 2 || shape.len() > 1,
        },
        Layout {
            name: "ranges on 3",
            n_ranks: 3,
            holds: |rank, _, shape| flat(Shard::whole(shape), rank, 3),
            saves: always,
        },
        Layout {
            name: "ranges on 5, some empty",
            n_ranks: 5,
            holds: |rank, _, shape| flat(Shard::whole(shape), rank, 5),
            saves: always,
        },
        Layout {
            name: "blocks of 16 on 3, the last ranks mostly empty",
            n_ranks: 3,
            holds: |rank, _, shape| {
                let all = Shard::whole(shape);
                let (n, blocks) = (all.len(), cut(all.len().div_ceil(16), 2 - rank, 3));
                all.elements((blocks.start * 16).min(n)..(blocks.end * 16).min(n))
            },
            saves: always,
        },
        Layout {
            name: "columns on 2, each in ranges on 3",
            n_ranks: 6,
            holds: |rank, _, shape| flat(sliced(shape, 1, rank % 2, 2), rank / 2, 3),
            saves: |rank, _, shape| rank.is_multiple_of(2) || shape.len() > 1,
        },
        Layout {
            name: "a grid of 2 by 2",
            n_ranks: 4,
            holds: |rank, _, shape| {
                let rows = sliced(shape, 0, rank / 2, 2);
                match shape.get(1) {
                    Some(&n) => rows.slice(1, cut(n, rank % 2, 2)),
                    None => rows,
                }
            },
            saves: |rank, _, shape| match shape.len() {
                0 => rank == 3,
                1 => rank.is_multiple_of(2),
                _ => true,
            },
        },
        Layout {
            name: "a pipeline of 3, the last in ranges on 2",
            n_ranks: 4,
            holds: |rank, index, shape| match (rank, index % 3) {
                (0, 0) | (1, 1) => Shard::whole(shape),
                (2 | 3, 2) => flat(Shard::whole(shape), rank - 2, 2),
                _ => Shard::whole(shape).elements(0..0),
            },
            saves: always,
        },
    ]
}

/// Saves as all ranks of a layout do, each on a thread of its own; reports travel as bytes.
pub(crate) fn save_layout(
    root: &Path,
    step: u64,
    layout: &Layout,
    tensors: &[Tensor],
) -> Result<PathBuf, CheckpointError> {
    let staging = Staging::begin(root, step)?;
    let (send, receive) = mpsc::channel::<Vec<u8>>();
    std::thread::scope(|scope| {
        for rank in 0..layout.n_ranks {
            let (send, name) = (send.clone(), staging.name());
            scope.spawn(move || {
                let held = tensors.iter().enumerate().filter_map(|(index, tensor)| {
                    let shard = (layout.holds)(rank, index, &tensor.shape);
                    (layout.saves)(rank, index, &tensor.shape).then(|| {
                        let part = shard.clone();
                        SaveTensor::lazy_f32_part(&*tensor.path, shard, move || tensor.part(&part))
                    })
                });
                // Something of one byte an element too, to shift what comes behind it; whole on one rank.
                let last = rank + 1 == layout.n_ranks;
                let odd = last.then(|| SaveTensor::bytes("odd", Dtype::U8, &[3], b"odd"));
                let report = save_rank(root, name, rank, &mut odd.into_iter().chain(held)).unwrap();
                assert_eq!(report.rank(), rank);
                send.send(report.to_json()).unwrap();
            });
        }
    });
    drop(send);
    let reports = receive.iter().map(|bytes| RankFile::from_json(&bytes).unwrap()).collect();
    staging.commit(&meta(step), reports)
}

/// Panics unless every rank of `layout` reads the bits of `tensors` out of `checkpoint`.
pub(crate) fn assert_reads(checkpoint: &Checkpoint, layout: &Layout, tensors: &[Tensor]) {
    for rank in 0..layout.n_ranks {
        for (index, tensor) in tensors.iter().enumerate() {
            let shard = (layout.holds)(rank, index, &tensor.shape);
            let found = checkpoint.read(&tensor.path, &shard).unwrap();
            let what = format!("{} of rank {rank} of {}", tensor.path, layout.name);
            assert_eq!(bits(&found), bits(&tensor.part(&shard)), "{what}");
            let bytes = checkpoint.read_bytes(&tensor.path, &shard).unwrap();
            let expected: Vec<u8> = found.iter().flat_map(|v| v.to_le_bytes()).collect();
            assert_eq!(bytes, expected, "{what}");
        }
    }
}

pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}
