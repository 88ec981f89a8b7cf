//! Cutting documents into windows and windows into rows.

use burn::tensor::{Device, Int, Tensor, TensorData};

/// A stretch of one document that is fed to the model at once, with the targets it has to predict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// Fed to the model.
    pub(crate) inputs: Vec<u32>,
    /// One per input, the next token; only those from `first_scored` on are scored.
    pub(crate) targets: Vec<u32>,
    /// Targets before this one were scored by an earlier window and only give context here.
    pub(crate) first_scored: usize,
}

impl Window {
    /// The windows of `tokens`, each token but the first scored in exactly one of them.
    ///
    /// Window `i` begins at token `i * stride` and has up to `seq_len` inputs; `1 <= stride <= seq_len`.
    pub(crate) fn cut(tokens: &[u32], seq_len: usize, stride: usize) -> impl Iterator<Item = Self> {
        let n_targets = tokens.len().saturating_sub(1);
        // Targets are counted by the index of the input before them; `scored` of them are done.
        let mut scored = 0;
        (0..).step_by(stride).map_while(move |start| {
            if scored == n_targets {
                return None;
            }
            let end = n_targets.min(start + seq_len);
            let first_scored = scored - start;
            scored = end;
            let (inputs, targets) = (tokens[start..end].to_vec(), tokens[start + 1..=end].to_vec());
            Some(Self { inputs, targets, first_scored })
        })
    }

    /// The windows of EleutherAI's harness: each of up to `seq_len` inputs, sharing one token with the one before, but for
    /// the last, which begins so early that it is full, and scores only what is left.
    pub(crate) fn rolling(tokens: &[u32], seq_len: usize) -> impl Iterator<Item = Self> {
        let n_targets = tokens.len().saturating_sub(1);
        (0..n_targets).step_by(seq_len).map(move |scored| {
            let end = n_targets.min(scored + seq_len);
            let start = end.saturating_sub(seq_len);
            let (inputs, targets) = (tokens[start..end].to_vec(), tokens[start + 1..=end].to_vec());
            Self { inputs, targets, first_scored: scored - start }
        })
    }
}

/// Where a window lies in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    row: usize,
    column: usize,
}

/// Windows that go through the model together, each alone in its row or several side by side.
#[derive(Debug)]
pub(crate) struct Batch {
    max_rows: usize,
    seq_len: usize,
    packed: bool,
    windows: Vec<(Place, Window)>,
    /// Inputs in each row.
    lengths: Vec<usize>,
}

impl Batch {
    pub(crate) fn new(max_rows: usize, seq_len: usize, packed: bool) -> Self {
        Self { max_rows, seq_len, packed, windows: Vec::new(), lengths: Vec::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }

    /// Places the window in the first row with room for it, or gives it back if there is none.
    pub(crate) fn add(&mut self, window: Window) -> Result<(), Window> {
        let n = window.inputs.len();
        let with_room = self.lengths.iter().position(|len| self.packed && len + n <= self.seq_len);
        let row = match with_room {
            Some(row) => row,
            None if self.lengths.len() < self.max_rows => {
                self.lengths.push(0);
                self.lengths.len() - 1
            }
            None => return Err(window),
        };
        self.windows.push((Place { row, column: self.lengths[row] }, window));
        self.lengths[row] += n;
        Ok(())
    }

    /// Inputs, targets (-1 where nothing is scored) and, if packed, the start of each position's window; all
    /// `[rows, length of the longest row]`. Padding comes last in its row, so that causal attention never sees it.
    pub(crate) fn tensors(
        &self,
        device: &Device,
    ) -> (Tensor<2, Int>, Tensor<2, Int>, Option<Tensor<2, Int>>) {
        let (rows, columns) = (self.lengths.len(), self.lengths.iter().copied().max().unwrap_or(0));
        let mut inputs = vec![0i32; rows * columns];
        let mut targets = vec![-1i32; rows * columns];
        // Padding is a document of its own at each position.
        let mut starts: Vec<i32> = (0..rows).flat_map(|_| 0..columns as i32).collect();
        for (place, window) in &self.windows {
            let at = place.row * columns + place.column;
            for (i, (input, target)) in window.inputs.iter().zip(&window.targets).enumerate() {
                inputs[at + i] = *input as i32;
                if i >= window.first_scored {
                    targets[at + i] = *target as i32;
                }
                starts[at + i] = place.column as i32;
            }
        }
        let tensor = |values| Tensor::from_data(TensorData::new(values, [rows, columns]), device);
        (tensor(inputs), tensor(targets), self.packed.then(|| tensor(starts)))
    }

    /// For each window in the order they were added: the values at its positions, from a `[rows, columns]` array laid
    /// out as [`tensors`](Self::tensors) does.
    pub(crate) fn slices<'a>(
        &'a self,
        values: &'a [f32],
    ) -> impl Iterator<Item = (&'a Window, &'a [f32])> {
        let columns = self.lengths.iter().copied().max().unwrap_or(0);
        self.windows.iter().map(move |(place, window)| {
            let at = place.row * columns + place.column;
            (window, &values[at..at + window.inputs.len()])
        })
    }

    pub(crate) fn clear(&mut self) {
        self.windows.clear();
        self.lengths.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn windows_without_overlap_share_one_token() {
        let tokens: Vec<u32> = (10..18).collect();
        let windows: Vec<_> = Window::cut(&tokens, 3, 3).collect();
        let inputs: Vec<_> = windows.iter().map(|w| w.inputs.clone()).collect();
        assert_eq!(inputs, [vec![10, 11, 12], vec![13, 14, 15], vec![16]]);
        assert_eq!(windows[2].targets, [17]);
        assert!(windows.iter().all(|w| w.first_scored == 0));
    }

    #[test]
    fn a_smaller_stride_gives_context() {
        let tokens: Vec<u32> = (0..7).collect();
        let windows: Vec<_> = Window::cut(&tokens, 4, 2).collect();
        assert_eq!(windows.len(), 2);
        assert_eq!((&windows[1].inputs[..], windows[1].first_scored), (&[2, 3, 4, 5][..], 2));
    }

    #[test]
    fn the_last_rolling_window_is_full() {
        // By lm_eval.utils: list(get_rolling_token_windows(list(range(11, 18)), 10, 3, 1))
        let tokens: Vec<u32> = (10..18).collect();
        let windows: Vec<_> = Window::rolling(&tokens, 3).collect();
        let inputs: Vec<_> = windows.iter().map(|w| w.inputs.clone()).collect();
        assert_eq!(inputs, [vec![10, 11, 12], vec![13, 14, 15], vec![14, 15, 16]]);
        assert_eq!(
            (&windows[2].targets[windows[2].first_scored..], windows[1].first_scored),
            (&[17][..], 0)
        );
        assert_eq!(Window::rolling(&tokens, 99).count(), 1);
        assert_eq!(Window::rolling(&tokens[..1], 3).count(), 0);
    }

    proptest! {
        #[test]
        fn each_token_is_scored_once_with_what_precedes_it(n in 0..60u32, seq_len in 1..20usize, stride in 1..20usize) {
            let stride = stride.min(seq_len);
            let tokens: Vec<u32> = (0..n).collect();
            let mut scored = Vec::new();
            for window in Window::cut(&tokens, seq_len, stride) {
                prop_assert!(window.inputs.len() <= seq_len && window.inputs.len() == window.targets.len());
                prop_assert!(window.inputs.iter().zip(&window.targets).all(|(i, t)| i + 1 == *t));
                prop_assert!(window.first_scored < window.targets.len());
                scored.extend_from_slice(&window.targets[window.first_scored..]);
            }
            prop_assert_eq!(scored, tokens.get(1..).unwrap_or(&[]));
        }

        #[test]
        fn windows_in_a_row_do_not_overlap(lengths in prop::collection::vec(1..9usize, 0..40), packed: bool) {
            let mut batch = Batch::new(3, 8, packed);
            let mut taken = Vec::new();
            for n in lengths {
                let window = Window { inputs: vec![0; n], targets: vec![0; n], first_scored: 0 };
                if batch.add(window).is_err() {
                    break;
                }
            }
            for (place, window) in &batch.windows {
                prop_assert!(place.row < 3 && place.column + window.inputs.len() <= 8);
                prop_assert!(packed || place.column == 0);
                taken.extend((0..window.inputs.len()).map(|i| (place.row, place.column + i)));
            }
            let n = taken.len();
            taken.sort_unstable();
            taken.dedup();
            prop_assert_eq!(taken.len(), n);
        }
    }
}
