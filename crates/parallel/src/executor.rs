//! Forward and backward of one micro-batch, segment by segment.
//!
//! The model is a list of segments: `embed`, `block 0 .. n - 1`, `head + loss`. Each runs on an autodiff graph of its own:
//! its input is a leaf, and its backward starts from the gradient that came back from the next segment.
//!
//! ```text
//! forward    tokens -> embed -> x0 -> block 0 -> x1 -> ... -> xn -> head + loss -> nats
//! backward   d embed  <- dx0 <- d block 0 <- dx1 <- ... <- dxn <- d head
//! ```
//!
//! A block *keeps* its graph from forward to backward, or is *recomputed*: the forward pass leaves nothing but the block's
//! input, and backward runs the block once more. Both give the same bits as one graph over the whole model, since the same
//! operations run on the same numbers; only when they run differs.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Gradients as NodeGradients, Int, Tensor};
use caravan_model::{Block, Llama};

use crate::gradients::{Gradient, Gradients};
use crate::loss::LossSum;
use crate::seed::backward_from;

/// What stays in memory between a block's forward and its backward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activations {
    /// Everything backward needs: fastest.
    #[default]
    Keep,
    /// The block's input alone; backward repeats the forward pass of the block. Same bits, about a third more work.
    Recompute,
}

/// Sequences that go through the model together.
#[derive(Clone, Debug)]
pub struct MicroBatch {
    /// Token ids `[rows, seq_len]`.
    pub tokens: Tensor<2, Int>,
    /// The token each position has to predict, `[rows, seq_len]`; -1 where there is none.
    pub targets: Tensor<2, Int>,
    /// First position each one may attend to, `[rows, seq_len]`; `None` for plain causal attention.
    pub document_starts: Option<Tensor<2, Int>>,
    /// How many targets are not -1.
    pub n_targets: u64,
}

/// Gradients of the *sum* of the losses over the micro-batch's targets, and that sum.
///
/// A tied embedding's two uses are still apart ([`Gradients::finish`]); a frozen parameter has no gradient.
///
/// # Panics
/// If the model is not on an autodiff device, or the batch is on another device.
pub fn forward_backward(
    model: &Llama,
    batch: &MicroBatch,
    activations: Activations,
) -> (Gradients, LossSum) {
    let starts = &batch.document_starts;

    // Forward.
    let embedded = model.embed.forward(batch.tokens.clone()); // [rows, seq_len, d_model]
    let mut x = embedded.clone().inner();
    let mut passes = Vec::with_capacity(model.blocks.len());
    for block in &model.blocks {
        let pass = match activations {
            Activations::Keep => {
                let (input, output) = run(block, x, starts);
                Pass { input, output: Some(output) }
            }
            Activations::Recompute => Pass { input: x, output: None },
        };
        x = match &pass.output {
            Some(output) => output.clone().inner(),
            // Untracked, but on the autodiff device: there Burn composes some operations that it fuses elsewhere,
            // and the bits must be those of the second run.
            None => {
                let input = Tensor::from_inner(pass.input.clone());
                block.clone().no_grad().forward(input, starts.clone()).inner()
            }
        };
        passes.push(pass);
    }

    // Head and loss, forward and backward at once.
    let input = Tensor::from_inner(x).require_grad();
    // A leaf of its own, so that this use's gradient does not mix with the lookup's.
    let tied = model.tied_weight().map(|weight| {
        let is_trained = weight.is_require_grad();
        Tensor::from_inner(weight.inner()).set_require_grad(is_trained)
    });
    let loss = model.head.loss(input.clone(), batch.targets.clone(), tied.clone()); // [1]
    let nats = f64::from(loss.clone().inner().into_scalar::<f32>());
    let mut grads = loss.backward();
    let mut gradient = input.grad_remove(&mut grads).expect("the loss depends on its input");
    let tied = tied.filter(Tensor::is_require_grad).map(|weight| {
        let values = weight.grad_remove(&mut grads).expect("the logits depend on the tied weight");
        ("embed.weight".to_owned(), flat(values))
    });
    let mut segments = vec![collect(&model.head, "head", &mut grads)];

    // Backward through the blocks, each freed as soon as it is done.
    for (i, block) in model.blocks.iter().enumerate().rev() {
        let pass = passes.pop().expect("one pass per block");
        let (input, output) = match pass.output {
            Some(output) => (pass.input, output),
            None => run(block, pass.input, starts),
        };
        let mut grads = backward_from(output, gradient);
        gradient = input.grad_remove(&mut grads).expect("a block depends on its input");
        segments.push(collect(block, &format!("blocks.{i}"), &mut grads));
    }
    if embedded.is_tracked() {
        let mut grads = backward_from(embedded, gradient);
        segments.push(collect(&model.embed, "embed", &mut grads));
    }

    let gradients = Gradients::new(segments.into_iter().rev().flatten().collect(), tied);
    (gradients, LossSum { nats, tokens: batch.n_targets })
}

/// A block's way through the forward pass.
struct Pass {
    /// The leaf of the block's graph; a plain tensor as long as there is no graph.
    input: Tensor<3>,
    /// The root of the graph, which waits for backward; `None` before the block is recomputed.
    output: Option<Tensor<3>>,
}

/// Runs a block on a graph of its own, from the plain tensor `x`; returns the graph's leaf and root.
fn run(block: &Block, x: Tensor<3>, starts: &Option<Tensor<2, Int>>) -> (Tensor<3>, Tensor<3>) {
    let input = Tensor::from_inner(x).require_grad();
    let output = block.forward(input.clone(), starts.clone());
    (input, output)
}

/// Takes the gradients of a segment's parameters out of `grads`, in visit order, under `prefix`.
///
/// # Panics
/// If a parameter that requires a gradient has none: its segment's output would not depend on it.
fn collect<M: Module>(module: &M, prefix: &str, grads: &mut NodeGradients) -> Vec<Gradient> {
    let mut collect = Collect { grads, path: vec![prefix.to_owned()], gradients: Vec::new() };
    module.visit(&mut collect);
    collect.gradients
}

struct Collect<'a> {
    grads: &'a mut NodeGradients,
    path: Vec<String>,
    gradients: Vec<Gradient>,
}

impl ModuleVisitor for Collect<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let weight = param.val();
        if !weight.is_require_grad() {
            return;
        }
        let path = self.path.join(".");
        let gradient = weight.grad_remove(self.grads);
        let values = flat(gradient.unwrap_or_else(|| panic!("`{path}` has no gradient")));
        self.gradients.push(Gradient { path, shape: weight.dims().to_vec(), values });
    }
}

/// `[n]`, row-major; a view where the tensor is contiguous.
fn flat<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    let n = tensor.shape().num_elements();
    tensor.reshape([n])
}
