//! Two tensors of one shape in one message: keys with values, or the gradients of both.

use burn::tensor::{DType, Device, Tensor, TensorData, bf16};
use caravan_collective::Communicator;

/// Keys and values on their way, in host memory.
#[derive(Debug)]
pub(super) struct Packet {
    values: Values,
    /// Of each of the two.
    shape: [usize; 4],
}

#[derive(Debug)]
enum Values {
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bf16(Vec<bf16>),
}

impl Packet {
    /// # Panics
    /// If the number format is none that ranks exchange.
    pub(super) fn new(pair: [Tensor<4>; 2]) -> Self {
        let (shape, dtype) = (pair[0].dims(), pair[0].dtype());
        let data = Tensor::stack::<5>(pair.into(), 0).into_data();
        let expected = "the dtype was matched";
        let values = match dtype {
            DType::F32 => Values::F32(data.try_into_vec().expect(expected)),
            DType::F64 => Values::F64(data.try_into_vec().expect(expected)),
            DType::BF16 => Values::Bf16(data.try_into_vec().expect(expected)),
            other => unsupported(other),
        };
        Self { values, shape }
    }

    /// Sends it; never waits for the receiver.
    pub(super) fn send(&self, group: &Communicator, to: usize, tag: u32) {
        match &self.values {
            Values::F32(values) => group.send(to, tag, values),
            Values::F64(values) => group.send(to, tag, values),
            Values::Bf16(values) => group.send(to, tag, values),
        }
    }

    /// Waits for one of a shape and number format.
    ///
    /// # Panics
    /// As [`new`](Self::new), and if the peer fails.
    pub(super) fn receive(
        group: &Communicator,
        (from, tag): (usize, u32),
        shape: [usize; 4],
        dtype: DType,
    ) -> Self {
        let n = 2 * shape.iter().product::<usize>();
        let mut values = match dtype {
            DType::F32 => Values::F32(vec![0.0; n]),
            DType::F64 => Values::F64(vec![0.0; n]),
            DType::BF16 => Values::Bf16(vec![bf16::ZERO; n]),
            other => unsupported(other),
        };
        match &mut values {
            Values::F32(values) => group.recv(from, tag, values),
            Values::F64(values) => group.recv(from, tag, values),
            Values::Bf16(values) => group.recv(from, tag, values),
        }
        Self { values, shape }
    }

    /// Both tensors again.
    pub(super) fn into_pair(self, device: &Device) -> [Tensor<4>; 2] {
        let [b, heads, s, head_dim] = self.shape;
        let shape = [2, b, heads, s, head_dim];
        let (data, dtype) = match self.values {
            Values::F32(values) => (TensorData::new(values, shape), DType::F32),
            Values::F64(values) => (TensorData::new(values, shape), DType::F64),
            Values::Bf16(values) => (TensorData::new(values, shape), DType::BF16),
        };
        let both = Tensor::<5>::from_data(data, (device, dtype));
        [0, 1].map(|which| both.clone().narrow(0, which, 1).reshape(self.shape))
    }
}

fn unsupported(dtype: DType) -> ! {
    panic!(
        "context parallelism does not carry {dtype:?}\nhelp: train in f32 or bf16, or with context_parallel=1"
    )
}
