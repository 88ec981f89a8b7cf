//! Gradients of a loss sum, by module path.

use burn::tensor::Tensor;

use crate::mutation;
use crate::tree::Combine;

/// The gradient of one parameter.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// Dotted module path, for example `blocks.0.wq.weight`.
    pub path: String,
    /// The parameter's shape.
    pub shape: Vec<usize>,
    /// The gradient, row-major, as long as the product of the shape; a plain tensor outside autodiff.
    pub values: Tensor<1>,
}

/// The gradients of a loss *sum* (not mean), one per parameter, in the model's visit order.
///
/// A tied embedding is used twice, by the lookup and by the head. While gradients are being accumulated over
/// micro-batches the two uses stay apart, each in its own sum, and [`finish`](Self::finish) adds them once: a pipeline
/// whose first and last stage hold one use each then gets the same bits.
#[derive(Clone, Debug)]
pub struct Gradients {
    entries: Vec<Gradient>,
    tied: Option<Tied>,
}

/// The head's use of a tied embedding.
#[derive(Clone, Debug)]
struct Tied {
    path: String,
    values: Tensor<1>,
}

impl Gradients {
    /// Gradients from their parts, in visit order. `tied` is the path of a parameter that has a second use, with that
    /// use's gradient.
    ///
    /// # Panics
    /// If the path of `tied` is not among the entries.
    pub fn new(entries: Vec<Gradient>, tied: Option<(String, Tensor<1>)>) -> Self {
        let tied = tied.map(|(path, values)| Tied { path, values });
        if let Some(Tied { path, .. }) = &tied {
            assert!(
                entries.iter().any(|e| e.path == *path),
                "{path} has a second use but no first"
            );
        }
        Self { entries, tied }
    }

    /// The parts that [`new`](Self::new) takes, finished or not: what one rank sends to another.
    pub fn into_parts(self) -> (Vec<Gradient>, Option<(String, Tensor<1>)>) {
        (self.entries, self.tied.map(|Tied { path, values }| (path, values)))
    }

    /// Number of parameters.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no gradient at all.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether both uses of a tied weight have been added ([`finish`](Self::finish)).
    pub fn is_finished(&self) -> bool {
        self.tied.is_none()
    }

    /// Adds the two uses of a tied weight. Without one it changes nothing.
    pub fn finish(mut self) -> Self {
        if let Some(Tied { path, values }) = self.tied.take()
            && !mutation::on("tied_use_dropped")
        {
            for entry in self.entries.iter_mut().filter(|e| e.path == path) {
                replace(&mut entry.values, |lookup| lookup.add(values.clone()));
            }
        }
        self
    }

    /// The gradients in visit order.
    ///
    /// # Panics
    /// If they are not finished, as every reader below: half a gradient must not be used by mistake.
    pub fn iter(&self) -> impl Iterator<Item = &Gradient> {
        self.assert_finished();
        self.entries.iter()
    }

    /// The gradient of one parameter.
    ///
    /// # Panics
    /// If not finished.
    pub fn get(&self, path: &str) -> Option<&Gradient> {
        self.iter().find(|entry| entry.path == path)
    }

    /// Removes and returns the gradient of one parameter, so that its memory can be reused or freed.
    ///
    /// # Panics
    /// If not finished.
    pub fn take(&mut self, path: &str) -> Option<Tensor<1>> {
        self.assert_finished();
        let at = self.entries.iter().position(|entry| entry.path == path)?;
        Some(self.entries.remove(at).values)
    }

    /// Replaces every gradient by `f(path, shape, gradient)`; `f` owns the tensor, so it can work in place.
    ///
    /// # Panics
    /// If not finished.
    pub fn map(mut self, mut f: impl FnMut(&str, &[usize], Tensor<1>) -> Tensor<1>) -> Self {
        self.assert_finished();
        for Gradient { path, shape, values } in &mut self.entries {
            replace(values, |values| f(path, shape, values));
        }
        self
    }

    /// Multiplies every gradient by `factor`, for example one over the number of target tokens times the clip scale.
    ///
    /// # Panics
    /// If not finished.
    pub fn scale(self, factor: f64) -> Self {
        self.map(|_, _, values| values.mul_scalar(factor))
    }

    fn assert_finished(&self) {
        assert!(
            self.is_finished(),
            "the two uses of a tied weight have not been added: call finish()"
        );
    }
}

impl IntoIterator for Gradients {
    type Item = Gradient;
    type IntoIter = std::vec::IntoIter<Gradient>;

    /// # Panics
    /// If not finished.
    fn into_iter(self) -> Self::IntoIter {
        self.assert_finished();
        self.entries.into_iter()
    }
}

impl Combine for Gradients {
    /// Adds element by element, in place where a buffer is not shared.
    ///
    /// # Panics
    /// If the two do not belong to the same model.
    fn combine(mut self, right: Self) -> Self {
        assert_eq!(self.entries.len(), right.entries.len(), "gradients of two different models");
        for (left, right) in self.entries.iter_mut().zip(right.entries) {
            assert_eq!(left.path, right.path, "gradients of two different models");
            replace(&mut left.values, |left| left.add(right.values));
        }
        match (&mut self.tied, right.tied) {
            (Some(left), Some(right)) => replace(&mut left.values, |left| left.add(right.values)),
            (None, None) => {}
            _ => panic!("finished gradients were added to unfinished ones"),
        }
        self
    }
}

/// The gradients of one segment, in visit order.
#[derive(Debug)]
pub(crate) struct SegmentGradients(pub(crate) Vec<Gradient>);

impl Combine for SegmentGradients {
    fn combine(mut self, right: Self) -> Self {
        assert_eq!(self.0.len(), right.0.len(), "gradients of two different segments");
        for (left, right) in self.0.iter_mut().zip(right.0) {
            assert_eq!(left.path, right.path, "gradients of two different segments");
            replace(&mut left.values, |left| left.add(right.values));
        }
        self
    }
}

/// `*slot = f(*slot)` without a second handle on the buffer, which would forbid work in place.
fn replace(slot: &mut Tensor<1>, f: impl FnOnce(Tensor<1>) -> Tensor<1>) {
    let placeholder = Tensor::empty([0], &slot.device());
    *slot = f(std::mem::replace(slot, placeholder));
}
