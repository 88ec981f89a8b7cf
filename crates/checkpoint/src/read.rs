//! Reading any part of a tensor, however it was cut when it was saved.
//!
//! The shard that is wanted is laid over the shards that were saved; what two have in common is found
//! by arithmetic and copied run by run, straight out of the mapped file. Nothing holds the whole tensor,
//! and a file that has nothing of the shard is not opened.

use crate::error::CheckpointError;
use crate::load::Checkpoint;
use crate::shard::Shard;
use crate::tensor::Dtype;

impl Checkpoint {
    /// The values of a part of an f32 tensor, in the shard's order: the bits that were saved, from
    /// whatever layout.
    ///
    /// # Errors
    /// [`CheckpointError::NoTensor`]; [`CheckpointError::TensorMismatch`] if the tensor is not of f32 or
    /// has another shape than the shard's; after [`open_lazy`](Self::open_lazy) also
    /// [`CheckpointError::Damaged`] and [`CheckpointError::Io`].
    pub fn read(&self, path: &str, shard: &Shard) -> Result<Vec<f32>, CheckpointError> {
        let index = self.index(path)?;
        self.check_dtype(index, Dtype::F32)?;
        self.open_files(index, shard)?;
        let mut values = vec![0.0; shard.len()];
        self.read_into(path, shard, &mut values)?;
        Ok(values)
    }

    /// As [`read`](Self::read), into memory that is there already. After an error some of it is
    /// overwritten.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    ///
    /// # Panics
    /// If `out` is not as long as the shard.
    pub fn read_into(
        &self,
        path: &str,
        shard: &Shard,
        out: &mut [f32],
    ) -> Result<(), CheckpointError> {
        assert_eq!(out.len(), shard.len(), "memory for another shard");
        let index = self.index(path)?;
        self.check_dtype(index, Dtype::F32)?;
        self.check_shape(index, shard.shape())?;
        self.for_each_piece(index, shard, &mut |at, bytes| {
            let (bytes, _) = bytes.as_chunks::<4>();
            for (to, bytes) in out[at..at + bytes.len()].iter_mut().zip(bytes) {
                *to = f32::from_le_bytes(*bytes);
            }
        })
    }

    /// The little-endian bytes of a part of a tensor of any type, in the shard's order.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_bytes(&self, path: &str, shard: &Shard) -> Result<Vec<u8>, CheckpointError> {
        let index = self.index(path)?;
        self.open_files(index, shard)?;
        let size = self.manifest.tensors[index].dtype.size();
        let mut out = vec![0; shard.len() * size];
        self.for_each_piece(index, shard, &mut |at, bytes| {
            out[at * size..at * size + bytes.len()].copy_from_slice(bytes);
        })?;
        Ok(out)
    }

    /// Opens the files that hold something of `shard`: before memory is asked for, since a shard is
    /// never larger than files that have the size that the manifest claims for them.
    fn open_files(&self, index: usize, shard: &Shard) -> Result<(), CheckpointError> {
        self.check_shape(index, shard.shape())?;
        for place in &self.places[index] {
            if place.shard.overlaps(shard).next().is_some() {
                self.files[place.file].open(&self.manifest)?;
            }
        }
        Ok(())
    }

    /// Hands out the bytes of `shard` in pieces, each with the position of its first element in the
    /// shard. The pieces are all of it: an open checkpoint's shards tile their tensors.
    fn for_each_piece(
        &self,
        index: usize,
        shard: &Shard,
        each: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), CheckpointError> {
        let size = self.manifest.tensors[index].dtype.size();
        for place in &self.places[index] {
            let mut overlaps = place.shard.overlaps(shard).peekable();
            if overlaps.peek().is_none() {
                continue;
            }
            let bytes = self.files[place.file].bytes(&self.manifest, place.slot)?;
            for overlap in overlaps {
                let from = overlap.here * size;
                each(overlap.there, &bytes[from..from + overlap.len * size]);
            }
        }
        Ok(())
    }
}
