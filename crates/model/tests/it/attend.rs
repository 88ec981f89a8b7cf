use std::sync::Arc;

use burn::tensor::{Int, Tensor};
use caravan_model::{Attend, Forward, Kernels, Positions, RopeTables};

use crate::support::{difference, flex, host, ids, wide};

/// All positions are here, the second half of them first.
#[derive(Debug)]
struct Swapped;

/// The other half first, along a dim of even length.
fn swap<const D: usize>(x: Tensor<D>, dim: usize) -> Tensor<D> {
    let n = x.dims()[dim] / 2;
    Tensor::cat(vec![x.clone().narrow(dim, n, n), x.narrow(dim, 0, n)], dim)
}

impl Attend for Swapped {
    fn rope_rows(&self, tables: &RopeTables, s: usize) -> (Tensor<2>, Tensor<2>) {
        tables.rows_of(&[s / 2..s, 0..s / 2])
    }

    fn attend(
        &self,
        kernels: Kernels,
        q: Tensor<4>,
        k: Tensor<4>,
        v: Tensor<4>,
        document_starts: Option<Tensor<2, Int>>,
    ) -> Tensor<4> {
        let [q, k, v] = [q, k, v].map(|x| swap(x, 2));
        swap(kernels.attention(q, k, v, document_starts), 2)
    }

    fn is_whole(&self) -> bool {
        false
    }
}

/// Nothing but `Attend` may know where a position is.
#[test]
fn positions_lie_where_the_model_is_told() {
    let device = flex();
    let tokens = ids(2, 12, 50, &device);
    let [first, second] = [0, 6].map(|start| tokens.clone().narrow(1, start, 6));
    let swapped = Tensor::cat(vec![second, first], 1);
    let expected = wide(&device).logits(tokens, None);
    let attend: Arc<dyn Attend> = Arc::new(Swapped);
    let found = wide(&device).with_attend(&attend).logits(swapped, None);
    assert!(difference(&host(swap(found.clone(), 1)), &host(expected.clone())) < 1e-5);
    assert!(difference(&host(found), &host(expected)) > 1e-2, "positions matter");
}

#[test]
#[should_panic(expected = "help: every rank of the context axis has all weights")]
fn a_cache_needs_whole_sequences() {
    let attend: Arc<dyn Attend> = Arc::new(Swapped);
    let model = wide(&flex()).with_attend(&attend);
    model.extend(ids(1, 2, 50, &flex()), &mut model.new_cache(1, 4), Positions::All);
}
