//! A call as others see it: for messages, for the comparison over ranks and for the counters.

use std::fmt;

use crate::element::{DType, ReduceOp};

/// The operations of a communicator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Operation {
    Split,
    Duplicate,
    Barrier,
    Broadcast,
    AllReduce,
    ReduceScatter,
    AllGather,
    AllGatherV,
    AllToAll,
    AllToAllV,
    Send,
    Recv,
}

impl Operation {
    pub(crate) const ALL: [Self; 12] = [
        Self::Split,
        Self::Duplicate,
        Self::Barrier,
        Self::Broadcast,
        Self::AllReduce,
        Self::ReduceScatter,
        Self::AllGather,
        Self::AllGatherV,
        Self::AllToAll,
        Self::AllToAllV,
        Self::Send,
        Self::Recv,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Split => "split",
            Self::Duplicate => "duplicate",
            Self::Barrier => "barrier",
            Self::Broadcast => "broadcast",
            Self::AllReduce => "all_reduce",
            Self::ReduceScatter => "reduce_scatter",
            Self::AllGather => "all_gather",
            Self::AllGatherV => "all_gather_v",
            Self::AllToAll => "all_to_all",
            Self::AllToAllV => "all_to_all_v",
            Self::Send => "send",
            Self::Recv => "recv",
        }
    }

    /// Whether all ranks of the group take part.
    pub(crate) fn is_collective(self) -> bool {
        !matches!(self, Self::Send | Self::Recv)
    }
}

/// One call with what all ranks must agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) operation: Operation,
    pub(crate) dtype: Option<DType>,
    pub(crate) reduce: Option<ReduceOp>,
    /// The root of a broadcast, the other end of a message.
    pub(crate) peer: Option<u32>,
    /// Elements of this rank's buffer that is as long on every rank; `None` where lengths may differ.
    pub(crate) len: Option<u64>,
}

impl Call {
    pub(crate) fn new(operation: Operation) -> Self {
        Self { operation, dtype: None, reduce: None, peer: None, len: None }
    }

    pub(crate) fn of(mut self, dtype: DType) -> Self {
        self.dtype = Some(dtype);
        self
    }

    pub(crate) fn len(mut self, len: usize) -> Self {
        self.len = Some(len as u64);
        self
    }

    pub(crate) fn by(mut self, op: ReduceOp) -> Self {
        self.reduce = Some(op);
        self
    }

    pub(crate) fn peer(mut self, rank: usize) -> Self {
        self.peer = Some(u32::try_from(rank).unwrap_or(u32::MAX));
        self
    }
}

/// `all_reduce of 10 f32`, `broadcast of 3 u8 from rank 1`; a sum goes without saying.
impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.operation.name())?;
        match (self.len, self.dtype) {
            (Some(len), Some(dtype)) => write!(f, " of {len} {}", dtype.name())?,
            (None, Some(dtype)) => write!(f, " of {}", dtype.name())?,
            (_, None) => {}
        }
        match self.reduce {
            Some(ReduceOp::Max) => f.write_str(" by maximum")?,
            Some(ReduceOp::Min) => f.write_str(" by minimum")?,
            Some(ReduceOp::Sum) | None => {}
        }
        match (self.operation, self.peer) {
            (Operation::Send, Some(peer)) => write!(f, " to rank {peer}"),
            (_, Some(peer)) => write!(f, " from rank {peer}"),
            (_, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_positions() {
        for (code, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation as usize, code);
        }
    }

    #[test]
    fn a_call_reads_like_a_sentence() {
        let call = Call::new(Operation::AllReduce).of(DType::F32).len(10);
        assert_eq!(call.by(ReduceOp::Sum).to_string(), "all_reduce of 10 f32");
        assert_eq!(call.by(ReduceOp::Max).to_string(), "all_reduce of 10 f32 by maximum");
        let call = Call::new(Operation::Broadcast).of(DType::U8).len(3).peer(1);
        assert_eq!(call.to_string(), "broadcast of 3 u8 from rank 1");
        let call = Call::new(Operation::Send).of(DType::U8).len(3).peer(1);
        assert_eq!(call.to_string(), "send of 3 u8 to rank 1");
        assert_eq!(
            Call::new(Operation::AllGatherV).of(DType::I64).to_string(),
            "all_gather_v of i64"
        );
    }
}
