//! Attention over sequences that the ranks of an axis share: queries stay, keys and values go round.
//!
//! At step `i` rank `r` has the keys of rank `r - i`, passes them on to `r + 1` and adds what its queries see of them. After
//! as many steps as there are ranks, every query has seen its whole past. No rank ever holds the keys of more than two ranks,
//! nor more than its own rows of one rank's scores.
//!
//! Backward goes the same way round with the keys; the gradients of keys and values follow one step behind, collect a share
//! on each rank and arrive at home in the end. The first rank after home starts them, and home adds its own share last, so
//! they make as many hops as the keys.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use burn::tensor::{DType, Int, Tensor};
use caravan_collective::Communicator;
use caravan_model::{Attend, AttentionPart, Kernels, RopeTables, SeenKeys};

use super::custom::with_backward;
use super::packet::Packet;
use super::zigzag::{Part, local_ranges, parts};
use crate::mutation;

/// Message tags: of keys with values, and of their gradients.
const KEYS: u32 = 0x6b76;
const GRADIENTS: u32 = 0x6467;

/// Products per score: queries with keys and scores with values; backward these again, but for the scores' gradient, and
/// the three gradients.
const FORWARD_PRODUCTS: u64 = 2;
const BACKWARD_PRODUCTS: u64 = 5;

/// Ring attention over the ranks of the context axis, each holding the positions of
/// [`local_positions`](super::local_positions).
///
/// Forward and backward are collective: every rank must run the same blocks in the same order. The result does not depend on
/// timing: each rank merges in the order of its ring steps.
///
/// # Bytes
/// With `n` bytes of keys and values on a rank (`2 * rows * n_kv_heads * seq_len / size * head_dim` elements), a rank sends
/// `n` per ring step, `(size - 1) n` in all; backward as much again for the keys, and for their gradients (in f32 at least).
#[derive(Clone, Debug)]
pub struct Ring {
    group: Communicator,
    multiply_adds: Arc<[AtomicU64]>,
}

impl Ring {
    /// Ring attention over the ranks of `group`.
    pub fn new(group: Communicator) -> Self {
        let multiply_adds = (0..group.size()).map(|_| AtomicU64::new(0)).collect();
        Self { group, multiply_adds }
    }

    /// Multiply-adds that this rank has done per ring step, since it was made, by all clones: the same on every rank, or the
    /// ring waits for its slowest. Scores hidden by document starts count.
    pub fn multiply_adds(&self) -> Vec<u64> {
        self.multiply_adds.iter().map(|n| n.load(Ordering::Relaxed)).collect()
    }

    /// The rank whose keys are here at a step.
    fn owner(&self, step: usize) -> usize {
        (self.group.rank() + self.group.size() - step) % self.group.size()
    }

    fn next(&self) -> usize {
        (self.group.rank() + 1) % self.group.size()
    }

    fn previous(&self) -> usize {
        self.owner(1)
    }

    /// Calls `visit` at every step with the keys and values that are here, which meanwhile go on to the next rank.
    fn go_round(&self, keys: [Tensor<4>; 2], mut visit: impl FnMut(usize, [Tensor<4>; 2])) {
        let (shape, dtype, device) = (keys[0].dims(), keys[0].dtype(), keys[0].device());
        let last = self.group.size() - 1;
        if last > 0 {
            Packet::new(keys.clone()).send(&self.group, self.next(), KEYS);
        }
        visit(0, keys);
        for step in 1..=last {
            let packet = Packet::receive(&self.group, (self.previous(), KEYS), shape, dtype);
            if step < last {
                packet.send(&self.group, self.next(), KEYS);
            }
            visit(step, packet.into_pair(&device));
        }
    }

    /// What this rank's `s` rows compute at a step.
    fn parts(&self, step: usize, s: usize) -> Vec<Part> {
        if mutation::on("context_drops_step") && step == 1 {
            return Vec::new();
        }
        parts(self.group.rank(), self.owner(step), self.group.size(), s / 2)
    }

    /// Counts the work of a part.
    fn count(&self, step: usize, part: &Part, inputs: &Inputs, products: u64) {
        let [b, n_heads, _, head_dim] = inputs.q.dims();
        let (s, t) = (part.queries.len(), part.keys.len());
        let scores = if part.causal { s * (s + 1) / 2 } else { s * t };
        let n = (b * n_heads * head_dim * scores) as u64 * products;
        self.multiply_adds[step].fetch_add(n, Ordering::Relaxed);
    }

    fn forward(&self, inputs: &Inputs) -> AttentionPart {
        let s = inputs.q.dims()[2];
        let mut whole: Option<AttentionPart> = None;
        self.go_round([inputs.k.clone(), inputs.v.clone()], |step, [k, v]| {
            for part in self.parts(step, s) {
                self.count(step, &part, inputs, FORWARD_PRODUCTS);
                let q = rows(&inputs.q, &part.queries);
                let [k, v] = [rows(&k, &part.keys), rows(&v, &part.keys)];
                let mut attended = inputs.kernels.attention_part(q, k, v, &inputs.seen(&part));
                let first = part.queries.start;
                whole = Some(match whole.take() {
                    None => attended,
                    Some(whole) => {
                        if mutation::on("context_forgets_lse") {
                            attended.lse = rows(&whole.lse, &part.queries);
                        }
                        whole.merge(first, attended)
                    }
                });
            }
        });
        whole.expect("a rank's queries see its own keys")
    }

    /// `[dq, dk, dv]`, each of the rank's own positions.
    fn backward(&self, inputs: &Inputs, whole: &AttentionPart, dout: &Tensor<4>) -> [Tensor<4>; 3] {
        let Inputs { q, k, v, .. } = inputs;
        let (s, sum_dtype) = (q.dims()[2], inputs.sum_dtype());
        let zeros = |x: &Tensor<4>| Tensor::zeros(x.dims(), (&x.device(), sum_dtype));
        let receive = || {
            let from = (self.previous(), GRADIENTS);
            Packet::receive(&self.group, from, k.dims(), sum_dtype).into_pair(&k.device())
        };
        let (mut dq, mut own) = (zeros(q), [zeros(k), zeros(v)]);
        self.go_round([k.clone(), v.clone()], |step, [k, v]| {
            let mut shares = Vec::new();
            for part in self.parts(step, s) {
                let [dq_share, dk, dv] =
                    self.backward_part(step, &part, inputs, [&k, &v], whole, dout);
                add_rows(&mut dq, part.queries.start, dq_share);
                shares.push((part.keys.start, [dk, dv]));
            }
            // Only now wait for what the ranks before have collected.
            let mut sums = if step > 1 { receive() } else { [zeros(&k), zeros(&v)] };
            for (first, shares) in shares {
                sums.iter_mut().zip(shares).for_each(|(sum, share)| add_rows(sum, first, share));
            }
            if step == 0 {
                own = sums;
            } else {
                Packet::new(sums).send(&self.group, self.next(), GRADIENTS);
            }
        });
        let ([own_dk, own_dv], [dk, dv]) = (own, receive());
        [dq, dk + own_dk, dv + own_dv].map(|gradient| gradient.cast(q.dtype()))
    }

    /// A part's share of `[dq, dk, dv]`, of its rows.
    fn backward_part(
        &self,
        step: usize,
        part: &Part,
        inputs: &Inputs,
        [k, v]: [&Tensor<4>; 2],
        whole: &AttentionPart,
        dout: &Tensor<4>,
    ) -> [Tensor<4>; 3] {
        self.count(step, part, inputs, BACKWARD_PRODUCTS);
        let (queries, keys) = (&part.queries, &part.keys);
        let here = [rows(&inputs.q, queries), rows(k, keys), rows(v, keys)];
        let whole =
            AttentionPart { out: rows(&whole.out, queries), lse: rows(&whole.lse, queries) };
        let (seen, dout) = (inputs.seen(part), rows(dout, queries));
        inputs.kernels.attention_part_backward(here, &seen, whole, dout)
    }
}

impl Attend for Ring {
    fn rope_rows(&self, tables: &RopeTables, s: usize) -> (Tensor<2>, Tensor<2>) {
        let (rank, size) = (self.group.rank(), self.group.size());
        let ranges = local_ranges(rank, size, s * size);
        tables.rows_of(&ranges.unwrap_or_else(|error| panic!("{error}")))
    }

    fn attend(
        &self,
        kernels: Kernels,
        q: Tensor<4>,
        k: Tensor<4>,
        v: Tensor<4>,
        document_starts: Option<Tensor<2, Int>>,
    ) -> Tensor<4> {
        if self.group.size() == 1 {
            return kernels.attention(q, k, v, document_starts);
        }
        let tracked = q.is_autodiff().then(|| [q.clone(), k.clone(), v.clone()]);
        let inputs = Inputs {
            kernels,
            q: q.inner(),
            k: k.inner(),
            v: v.inner(),
            starts: document_starts.map(Tensor::inner),
        };
        let whole = self.forward(&inputs);
        let out = whole.out.clone().cast(inputs.q.dtype());
        let ring = self.clone();
        match tracked {
            None => out,
            Some(qkv) => with_backward(qkv, out, move |dout| ring.backward(&inputs, &whole, &dout)),
        }
    }

    fn is_whole(&self) -> bool {
        self.group.size() == 1
    }
}

/// What a rank has of the sequences, as plain tensors.
struct Inputs {
    kernels: Kernels,
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    /// Per query the first position of the whole sequence that it sees.
    starts: Option<Tensor<2, Int>>,
}

impl Inputs {
    /// What the queries of a part see of its keys: all from the first position of their document on.
    fn seen(&self, part: &Part) -> SeenKeys {
        let n = part.keys.len() / part.key_chunks.len();
        let first = self.starts.as_ref().map(|starts| {
            let starts = starts.clone().narrow(1, part.queries.start, part.queries.len());
            // The keys before that position, chunk by chunk.
            let hidden = part
                .key_chunks
                .iter()
                .map(|chunk| starts.clone().sub_scalar((chunk * n) as i64).clamp(0, n as i64));
            hidden.reduce(Tensor::add).expect("a part has keys")
        });
        SeenKeys { causal: part.causal, first }
    }

    /// The number format in which sums over ranks are kept.
    fn sum_dtype(&self) -> DType {
        match self.q.dtype() {
            DType::F64 => DType::F64,
            _ => DType::F32,
        }
    }
}

/// Some rows of every head.
fn rows<const D: usize>(x: &Tensor<D>, rows: &Range<usize>) -> Tensor<D> {
    x.clone().narrow(2, rows.start, rows.len())
}

/// Adds to the rows from `first` on, in place where the backend can.
fn add_rows(sum: &mut Tensor<4>, first: usize, share: Tensor<4>) {
    let [b, heads, n, head_dim] = share.dims();
    let empty = Tensor::empty([0; 4], &sum.device());
    let whole = std::mem::replace(sum, empty);
    *sum = if whole.dims()[2] == n {
        whole + share
    } else {
        let added = rows(&whole, &(first..first + n)) + share;
        whole.slice_assign([0..b, 0..heads, first..first + n, 0..head_dim], added)
    };
}
