//! Comparing a collective call over all ranks before it is made.
//!
//! Every rank gathers a header of fixed size from all. Whatever the ranks were about to do, they all
//! do this first, so a difference is named instead of hanging or giving wrong numbers.

use crate::call::{Call, Operation};
use crate::element::{DType, ReduceOp};
use crate::error::CollectiveError;

/// Bytes of a header.
pub(crate) const HEADER_BYTES: usize = 32;

/// The call of one rank, as it travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Which checked call of the communicator this is, counted from 1.
    pub(crate) sequence: u64,
    pub(crate) world_rank: u32,
    pub(crate) call: Call,
}

/// Stands for "none" in a header's one-byte fields.
const NONE: u8 = u8::MAX;

impl Header {
    pub(crate) fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.call.len.unwrap_or(u64::MAX).to_le_bytes());
        bytes[16..20].copy_from_slice(&self.call.peer.unwrap_or(u32::MAX).to_le_bytes());
        bytes[20..24].copy_from_slice(&self.world_rank.to_le_bytes());
        bytes[24] = self.call.operation as u8;
        bytes[25] = self.call.dtype.map_or(NONE, |dtype| dtype as u8);
        bytes[26] = match self.call.reduce {
            Some(ReduceOp::Sum) => 0,
            Some(ReduceOp::Max) => 1,
            Some(ReduceOp::Min) => 2,
            None => NONE,
        };
        bytes
    }

    /// The inverse; `None` when the bytes are no header of this build.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let eight = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let four = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let code = |at: usize| bytes.get(at).map(|byte| usize::from(*byte));
        let call = Call {
            operation: *Operation::ALL.get(code(24)?)?,
            dtype: DType::ALL.get(code(25)?).copied(),
            reduce: [ReduceOp::Sum, ReduceOp::Max, ReduceOp::Min].get(code(26)?).copied(),
            peer: Some(four(16)?).filter(|peer| *peer != u32::MAX),
            len: Some(eight(8)?).filter(|len| *len != u64::MAX),
        };
        Some(Self { sequence: eight(0)?, world_rank: four(20)?, call })
    }
}

/// Compares the gathered `headers`, one per rank, with rank 0's.
///
/// # Errors
/// [`CollectiveError::Mismatch`] with the first rank that differs.
pub(crate) fn compare(headers: &[u8], axis: &str) -> Result<(), CollectiveError> {
    let headers: Vec<Option<Header>> =
        headers.chunks_exact(HEADER_BYTES).map(Header::from_bytes).collect();
    let describe = |header: &Option<Header>| {
        header.map_or_else(|| "an operation of another build".to_owned(), |h| h.call.to_string())
    };
    let first = headers[0];
    let differs = |h: &Option<Header>| match (h, first) {
        (Some(h), Some(first)) => (h.sequence, h.call) != (first.sequence, first.call),
        _ => true,
    };
    // Rank 0 itself differs only from what can be read at all.
    let Some(rank) = headers.iter().position(differs) else { return Ok(()) };
    let found = headers[rank];
    let (mut call, mut expected) = (describe(&found), describe(&first));
    if call == expected {
        let nth = |h: Option<Header>| h.map_or(0, |h| h.sequence);
        call = format!("{call} as checked call {}", nth(found));
        expected = format!("{expected} as checked call {}", nth(first));
    }
    Err(CollectiveError::Mismatch {
        rank,
        world_rank: found.map_or(rank, |h| h.world_rank as usize),
        call,
        axis: axis.to_owned(),
        expected,
        sequence: found.map_or(0, |h| h.sequence),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(sequence: u64, call: Call) -> Header {
        Header { sequence, world_rank: 5, call }
    }

    #[test]
    fn a_header_survives_its_bytes() {
        let full = Call::new(Operation::Broadcast).of(DType::Bf16).len(7).peer(3).by(ReduceOp::Min);
        for call in [full, Call::new(Operation::Barrier)] {
            let header = header(9, call);
            assert_eq!(Header::from_bytes(&header.to_bytes()), Some(header));
        }
    }

    #[test]
    fn the_first_that_differs_is_named() {
        let barrier = header(4, Call::new(Operation::Barrier));
        let sum = Call::new(Operation::AllReduce).of(DType::F32).len(10).by(ReduceOp::Sum);
        let bytes =
            |headers: &[Header]| headers.iter().flat_map(|h| h.to_bytes()).collect::<Vec<_>>();
        assert_eq!(compare(&bytes(&[barrier; 3]), "data"), Ok(()));
        let error = compare(&bytes(&[barrier, barrier, header(4, sum)]), "data").unwrap_err();
        let text = error.to_string();
        let expected =
            "rank 2 calls all_reduce of 10 f32 on axis `data` where rank 0 calls barrier\nhelp: ";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.ends_with("call 4, and rank 2 of the axis is rank 5 of the world"), "{text}");
        let late = compare(&bytes(&[barrier, header(5, barrier.call)]), "data").unwrap_err();
        assert!(late.to_string().contains("barrier as checked call 5"), "{late}");
        let max = header(4, sum.by(ReduceOp::Max));
        assert!(compare(&bytes(&[header(4, sum), max]), "data").is_err());
    }
}
