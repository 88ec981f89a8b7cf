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
//! A rank may own any range of the segments, a *stage*: [`forward`] and [`backward`] take one micro-batch through it, and
//! hand on what the neighbouring stages need. [`forward_backward`] is both over all segments.
//!
//! A block *keeps* its graph from forward to backward, or is *recomputed*: the forward pass leaves nothing but the block's
//! input, and backward runs the block once more. Both give the same bits as one graph over the whole model, since the same
//! operations run on the same numbers; only when they run differs.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Gradients as NodeGradients, Int, Tensor};
use caravan_model::{Block, Embed, Head, Llama};

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

/// A segment of the model, in visit order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Segment {
    /// The embedding's lookup.
    Embed,
    /// A block, by its index in the whole model.
    Block(usize),
    /// Final norm, output projection and loss.
    Head,
    /// The head's use of a tied embedding: a gradient of its own until both uses are summed up.
    Tied,
}

/// Where a stage's weights come from: they lie here, or are gathered for each use.
///
/// What is returned may be a handle on memory that others hold too; the executor drops it as soon as the segment is done.
pub(crate) trait Weights {
    /// The lookup, where this stage has it.
    fn embed(&self) -> Option<Embed>;
    /// Indices of the stage's blocks, which are neighbours.
    fn blocks(&self) -> std::ops::Range<usize>;
    /// A block of [`blocks`](Self::blocks).
    fn block(&self, index: usize) -> Block;
    /// The head with the weight it is tied to, where this stage has it.
    fn head(&self) -> Option<(Head, Option<Tensor<2>>)>;
}

impl Weights for Llama {
    fn embed(&self) -> Option<Embed> {
        Some(self.embed.clone())
    }

    fn blocks(&self) -> std::ops::Range<usize> {
        0..self.blocks.len()
    }

    fn block(&self, index: usize) -> Block {
        self.blocks[index].clone()
    }

    fn head(&self) -> Option<(Head, Option<Tensor<2>>)> {
        Some((self.head.clone(), self.tied_weight()))
    }
}

/// Takes a segment's gradients, in visit order, as soon as they are there.
pub(crate) type Sink<'a> = dyn FnMut(Segment, Vec<Gradient>) + 'a;

/// Sees the plain residual stream `[rows, seq_len, d_model]` on its way into a block or the head.
pub(crate) type Watch<'a> = dyn Fn(Segment, &Tensor<3>) + 'a;

/// A micro-batch between its forward and its backward through a stage.
#[derive(Debug)]
pub(crate) struct StagePass {
    /// The root of the lookup's graph, where graphs are kept.
    embedded: Option<Tensor<3>>,
    passes: Vec<Pass>,
    /// The gradient of the head's input, on the last stage.
    from_head: Option<Tensor<3>>,
}

/// What a stage's forward gives.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "one exists at a time")]
pub(crate) enum StageOutput {
    /// The residual stream for the next stage, `[rows, seq_len, d_model]`.
    Hidden(Tensor<3>),
    /// The loss, in nats, from the last stage.
    Loss(f64),
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
    let mut segments = Vec::new();
    let mut tied = None;
    let mut sink = |segment, gradients: Vec<Gradient>| match segment {
        Segment::Tied => tied = gradients.into_iter().next().map(|g| (g.path, g.values)),
        _ => segments.push(gradients),
    };
    let (output, pass) = forward(model, None, batch, activations, &mut sink, &|_, _| {});
    let StageOutput::Loss(nats) = output else { panic!("a whole model ends with its loss") };
    backward(model, pass, None, batch, &mut sink);
    let gradients = Gradients::new(segments.into_iter().rev().flatten().collect(), tied);
    (gradients, LossSum { nats, tokens: batch.n_targets })
}

/// Takes a micro-batch forward through a stage; the head also goes backward, since its logits are the largest tensor of all.
///
/// `input` is the plain residual stream from the stage before; `None` where the stage begins with the lookup.
pub(crate) fn forward(
    weights: &dyn Weights,
    input: Option<Tensor<3>>,
    batch: &MicroBatch,
    activations: Activations,
    sink: &mut Sink<'_>,
    watch: &Watch<'_>,
) -> (StageOutput, StagePass) {
    let starts = &batch.document_starts;
    let embedded = weights.embed().map(|embed| embed.forward(batch.tokens.clone()));
    let mut x = match (&embedded, input) {
        (Some(embedded), None) => embedded.clone().inner(),
        (None, Some(input)) => input,
        _ => panic!("a stage begins with the lookup or with what the stage before gave"),
    };
    let mut passes = Vec::with_capacity(weights.blocks().len());
    for index in weights.blocks() {
        watch(Segment::Block(index), &x);
        let block = weights.block(index);
        let pass = match activations {
            Activations::Keep => {
                let (input, output) = run(&block, x, starts);
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
                block.no_grad().forward(input, starts.clone()).inner()
            }
        };
        passes.push(pass);
    }
    // The graph would hold on to the table.
    let embedded = embedded.filter(|_| activations == Activations::Keep);
    let Some((head, tied)) = weights.head() else {
        return (StageOutput::Hidden(x), StagePass { embedded, passes, from_head: None });
    };
    watch(Segment::Head, &x);
    let (nats, gradient) = run_head(&head, tied, x, batch, sink);
    (StageOutput::Loss(nats), StagePass { embedded, passes, from_head: Some(gradient) })
}

/// Takes a micro-batch backward through a stage, each block freed as soon as it is done. Returns the gradient of the
/// stage's input, `None` where that is tokens.
///
/// `gradient` is the plain gradient of what [`forward`] gave to the next stage; `None` on the last stage.
pub(crate) fn backward(
    weights: &dyn Weights,
    pass: StagePass,
    gradient: Option<Tensor<3>>,
    batch: &MicroBatch,
    sink: &mut Sink<'_>,
) -> Option<Tensor<3>> {
    let StagePass { embedded, mut passes, from_head } = pass;
    let mut gradient = match (from_head, gradient) {
        (Some(own), None) => own,
        (None, Some(given)) => given,
        _ => panic!("a gradient comes from the head or from the next stage"),
    };
    for index in weights.blocks().rev() {
        let block = weights.block(index);
        let pass = passes.pop().expect("one pass per block");
        let (input, output) = match pass.output {
            Some(output) => (pass.input, output),
            None => run(&block, pass.input, &batch.document_starts),
        };
        let mut grads = backward_from(output, gradient);
        gradient = input.grad_remove(&mut grads).expect("a block depends on its input");
        give(sink, Segment::Block(index), collect(&block, &format!("blocks.{index}"), &mut grads));
    }
    let Some(embed) = weights.embed() else { return Some(gradient) };
    let embedded = embedded.unwrap_or_else(|| embed.forward(batch.tokens.clone()));
    if embedded.is_tracked() {
        let mut grads = backward_from(embedded, gradient);
        give(sink, Segment::Embed, collect(&embed, "embed", &mut grads));
    }
    None
}

/// Head and loss, forward and backward at once: the loss in nats and the gradient of `x`.
fn run_head(
    head: &Head,
    tied: Option<Tensor<2>>,
    x: Tensor<3>,
    batch: &MicroBatch,
    sink: &mut Sink<'_>,
) -> (f64, Tensor<3>) {
    let input = Tensor::from_inner(x).require_grad();
    // A leaf of its own, so that this use's gradient does not mix with the lookup's.
    let tied = tied.map(|weight| {
        let is_trained = weight.is_require_grad();
        Tensor::from_inner(weight.inner()).set_require_grad(is_trained)
    });
    let loss = head.loss(
        input.clone(),
        batch.targets.clone(),
        batch.document_starts.clone(),
        tied.clone(),
    ); // [1]
    let nats = f64::from(loss.clone().inner().into_scalar::<f32>());
    let mut grads = loss.backward();
    let gradient = input.grad_remove(&mut grads).expect("the loss depends on its input");
    if let Some(weight) = tied.filter(Tensor::is_require_grad) {
        let values = weight.grad_remove(&mut grads).expect("the logits depend on the tied weight");
        let (path, shape) = ("embed.weight".to_owned(), weight.dims().to_vec());
        sink(Segment::Tied, vec![Gradient { path, shape, values: flat(values) }]);
    }
    give(sink, Segment::Head, collect(head, "head", &mut grads));
    (nats, gradient)
}

/// A block's way through the forward pass.
#[derive(Debug)]
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

/// Hands over what there is: of a frozen segment nothing.
fn give(sink: &mut Sink<'_>, segment: Segment, gradients: Vec<Gradient>) {
    if !gradients.is_empty() {
        sink(segment, gradients);
    }
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
