//! Epochs, updates and micro-batches of a run, and when it is measured.

use std::ops::Range;

use crate::settings::Settings;

/// Which examples an update takes, and when the model is measured.
pub(crate) struct Steps {
    n: usize,
    batch: usize,
    micro_batches: usize,
    per_epoch: u64,
    pub(crate) steps: u64,
    every: u64,
    patience: u64,
}

impl Steps {
    /// Of `n` examples.
    pub(crate) fn new(n: usize, settings: &Settings) -> Self {
        let per_epoch = (n as u64).div_ceil(settings.batch as u64);
        Self {
            n,
            batch: settings.batch,
            micro_batches: settings.n_micro_batches(),
            per_epoch,
            steps: per_epoch * settings.epochs,
            every: per_epoch.div_ceil(settings.evals_per_epoch).max(1),
            patience: settings.patience,
        }
    }

    /// Whether the model is measured after so many updates.
    pub(crate) fn is_measured(&self, step: u64) -> bool {
        step.is_multiple_of(self.every) || step == self.steps
    }

    /// Whether so many measurements without a better one end the run.
    pub(crate) fn is_enough(&self, since_best: u64) -> bool {
        self.patience > 0 && since_best >= self.patience
    }

    /// The epoch of an update, and the examples of each of its micro-batches; the last ones of an epoch may be empty.
    pub(crate) fn micro_batches(&self, step: u64) -> (u64, Vec<Range<usize>>) {
        let (epoch, within) = (step / self.per_epoch, (step % self.per_epoch) as usize);
        let (start, end) = (within * self.batch, self.n.min((within + 1) * self.batch));
        let size = self.batch.div_ceil(self.micro_batches);
        let part = |i: usize| end.min(start + i * size)..end.min(start + (i + 1) * size);
        (epoch, (0..self.micro_batches).map(part).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_of_an_epoch_is_in_one_micro_batch() {
        for (n, batch, micro_batch) in [(10, 4, 0), (10, 4, 2), (9, 4, 1), (3, 8, 3), (7, 7, 2)] {
            let settings = Settings { batch, micro_batch, epochs: 2, ..Settings::default() };
            let plan = Steps::new(n, &settings);
            let mut seen = [Vec::new(), Vec::new()];
            for step in 0..plan.steps {
                let (epoch, parts) = plan.micro_batches(step);
                assert_eq!(parts.len(), settings.n_micro_batches());
                assert!(parts.iter().map(ExactSizeIterator::len).sum::<usize>() <= batch);
                seen[epoch as usize].extend(parts.into_iter().flatten());
            }
            let all: Vec<usize> = (0..n).collect();
            assert_eq!(seen, [all.clone(), all], "{n} examples, {batch}, {micro_batch}");
        }
    }
}
