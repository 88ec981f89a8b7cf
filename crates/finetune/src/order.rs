//! In which order examples are seen: a function of seed and epoch, whatever the layout and wherever a run was interrupted.

use caravan_eval::random;

/// The examples of one epoch, all of them once, or as often as their weights ask for.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    seed: u64,
    n: usize,
    /// Of each example; empty where all are alike.
    weights: Vec<f64>,
    epoch: Option<(u64, Vec<usize>)>,
}

impl Order {
    /// The order of `n` examples.
    pub(crate) fn new(n: usize, seed: u64) -> Self {
        Self { seed, n, weights: Vec::new(), epoch: None }
    }

    /// Draws examples in proportion to `weights`, as many in an epoch as there are.
    ///
    /// An epoch's draw is systematic: an example of weight `w` times the mean comes `w` times rounded down or up.
    #[must_use]
    pub(crate) fn weighted(mut self, weights: Vec<f64>) -> Self {
        assert_eq!(weights.len(), self.n, "a weight for each example");
        self.weights = weights;
        self
    }

    /// The examples of an epoch.
    pub(crate) fn of(&mut self, epoch: u64) -> &[usize] {
        if self.epoch.as_ref().is_none_or(|(known, _)| *known != epoch) {
            let mut order: Vec<usize> = (0..self.n).collect();
            self.shuffle(&mut order, epoch, 0);
            if !self.weights.is_empty() {
                order = self.chosen(order, epoch);
                self.shuffle(&mut order, epoch, 1 << 32);
            }
            self.epoch = Some((epoch, order));
        }
        &self.epoch.as_ref().expect("just made").1
    }

    fn shuffle(&self, order: &mut [usize], epoch: u64, draw: u64) {
        for i in (1..order.len()).rev() {
            let j = random(self.seed, epoch, draw + i as u64) % (i as u64 + 1);
            order.swap(i, j as usize);
        }
    }

    /// The systematic draw from `order`, in which examples of one weight are brought together: of each weight there are as
    /// many as its sum asks for, up to one.
    fn chosen(&self, mut order: Vec<usize>, epoch: u64) -> Vec<usize> {
        order.sort_by(|a, b| self.weights[*a].total_cmp(&self.weights[*b]));
        let step = self.weights.iter().sum::<f64>() / self.n as f64;
        // 53 bits: every value is exact.
        let offset = (random(self.seed, epoch, u64::MAX) >> 11) as f64 / (1u64 << 53) as f64;
        let (mut chosen, mut end) = (Vec::with_capacity(self.n), 0.0);
        for i in &order {
            end += self.weights[*i];
            while chosen.len() < self.n && (chosen.len() as f64 + offset) * step < end {
                chosen.push(*i);
            }
        }
        // A rounding at the very end.
        chosen.resize(self.n, order[self.n - 1]);
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_has_every_example_once_in_an_order_of_its_own() {
        let mut order = Order::new(100, 7);
        let first = order.of(0).to_vec();
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        assert!(first != order.of(1) && first != Order::new(100, 8).of(0));
        assert_eq!(first, order.of(0));
    }

    #[test]
    fn weights_say_how_often_an_example_comes() {
        // Ten of weight 3 and ten of weight 1: 15 and 5 of 20.
        let weights: Vec<f64> = (0..20).map(|i| if i % 2 == 0 { 3.0 } else { 1.0 }).collect();
        let mut order = Order::new(20, 1).weighted(weights);
        let mut counts = [0; 20];
        for epoch in 0..200 {
            let chosen = order.of(epoch);
            assert_eq!(chosen.len(), 20);
            let heavy = chosen.iter().filter(|i| **i % 2 == 0).count();
            assert!((14..=16).contains(&heavy), "{heavy} of epoch {epoch}");
            chosen.iter().for_each(|i| counts[*i] += 1);
        }
        for (i, count) in counts.into_iter().enumerate() {
            let expected = if i % 2 == 0 { 300.0 } else { 100.0 };
            assert!((f64::from(count) - expected).abs() < 40.0, "{i}: {count}");
        }
    }
}
