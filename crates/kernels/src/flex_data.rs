//! Reading and making Flex tensors.
#![allow(unsafe_code)] // buffers that are written before they are read

use std::borrow::Cow;
use std::mem::{ManuallyDrop, MaybeUninit};

use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, Shape, TensorData};
use rayon::prelude::*;

/// A float of an output that was not written yet.
pub(crate) type Slot = MaybeUninit<f32>;

/// Whether the f32 kernels may run; other dtypes take the composed ones.
pub(crate) fn all_f32(tensors: &[&FlexTensor]) -> bool {
    tensors.iter().all(|t| t.dtype() == DType::F32)
}

/// The values of a contiguous f32 tensor.
pub(crate) fn floats(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect("the caller made the tensor contiguous and checked its dtype")
}

/// The values of an integer tensor of any width, in order.
pub(crate) fn integers(tensor: &FlexTensor) -> Cow<'_, [i32]> {
    if let Some(values) = tensor.as_slice::<i32>() {
        return Cow::Borrowed(values);
    }
    // A value that does not fit is out of range for every use here; the caller says so.
    let narrow = |x: i64| i32::try_from(x).unwrap_or(i32::MIN);
    Cow::Owned(tensor.clone().into_data().iter::<i64>().map(narrow).collect())
}

/// A tensor that takes over `values`, in row-major order.
pub(crate) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape.into()))
}

/// A buffer of `n` unwritten floats: a fresh output is not filled with zeros first.
pub(crate) fn unwritten(n: usize) -> Vec<Slot> {
    let mut slots = Vec::with_capacity(n);
    // SAFETY: a `MaybeUninit` needs no initialisation, and the capacity is `n`.
    unsafe { slots.set_len(n) };
    slots
}

/// The buffer as floats.
///
/// # Safety
/// Every slot must have been written.
pub(crate) unsafe fn written(slots: Vec<Slot>) -> Vec<f32> {
    let mut slots = ManuallyDrop::new(slots);
    // SAFETY: `Slot` has the layout of `f32`, the allocation is taken over once, and the caller
    // promises that every element was written.
    unsafe { Vec::from_raw_parts(slots.as_mut_ptr().cast(), slots.len(), slots.capacity()) }
}

/// The tensor's values, writable without copying them, if nothing else holds the buffer and the
/// tensor covers all of it in order.
pub(crate) fn own_floats(tensor: &mut FlexTensor) -> Option<&mut [f32]> {
    let n = tensor.layout().num_elements();
    if !tensor.is_contiguous() || tensor.layout().start_offset() != 0 {
        return None;
    }
    tensor.try_storage_mut::<f32>().filter(|values| values.len() == n)
}

/// The tensor itself if it is the sole owner of a buffer in order, else a copy that is.
pub(crate) fn owned(mut t: FlexTensor) -> FlexTensor {
    if own_floats(&mut t).is_some() {
        return t;
    }
    let t = t.to_contiguous();
    let mut copy = unwritten(floats(&t).len());
    copy.par_chunks_mut(COPY_CHUNK).zip(floats(&t).par_chunks(COPY_CHUNK)).for_each(
        |(to, from)| {
            for (to, &from) in to.iter_mut().zip(from) {
                to.write(from);
            }
        },
    );
    // SAFETY: both sides have the same length, so every chunk was written whole.
    tensor(unsafe { written(copy) }, t.layout().shape().clone())
}

/// Elements per task of a copy.
const COPY_CHUNK: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_of_any_width_and_layout() {
        let wide = FlexTensor::from_data(TensorData::new(vec![1i64, -1, i64::MAX], [3]));
        assert_eq!(&*integers(&wide), &[1, -1, i32::MIN]);
        let square = FlexTensor::from_data(TensorData::new(vec![1i32, 2, 3, 4], [2, 2]));
        assert_eq!(&*integers(&square.transpose(0, 1)), &[1, 3, 2, 4]);
    }

    #[test]
    fn only_a_sole_owner_writes_in_place() {
        let mut t = tensor(vec![1.0, 2.0], [2]);
        assert!(own_floats(&mut t).is_some());
        let other = t.clone();
        assert!(own_floats(&mut t).is_none());
        drop(other);
        assert!(own_floats(&mut t.narrow(0, 1, 1)).is_none());
    }
}
