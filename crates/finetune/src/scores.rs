//! How well classes are told apart.

use serde::{Deserialize, Serialize};

/// Counts of every class given for every class that is right.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Part of all examples that got their class.
    pub accuracy: f64,
    /// Mean of the classes' F1, each class counting the same.
    pub macro_f1: f64,
    /// Mean negative log-probability of the right class, in nats.
    pub loss: f64,
    /// By class.
    pub classes: Vec<ClassScore>,
    /// `confusion[right][given]`.
    pub confusion: Vec<Vec<u64>>,
}

/// How well one class is found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassScore {
    /// Its name.
    pub name: String,
    /// Of those given this class, the part that is right; 0 if none was given it.
    pub precision: f64,
    /// Of those of this class, the part that was found.
    pub recall: f64,
    /// The harmonic mean of the two; 0 if both are.
    pub f1: f64,
    /// Examples of this class.
    pub support: u64,
}

impl Scores {
    /// Scores of a confusion matrix; `nats` is the sum of the losses.
    pub(crate) fn new(names: &[String], confusion: Vec<Vec<u64>>, nats: f64) -> Self {
        let n: u64 = confusion.iter().flatten().sum();
        let ratio =
            |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        let classes: Vec<ClassScore> = names
            .iter()
            .enumerate()
            .map(|(i, name)| {
                let (hits, support) = (confusion[i][i], confusion[i].iter().sum());
                let given = confusion.iter().map(|row| row[i]).sum();
                let (precision, recall) = (ratio(hits, given), ratio(hits, support));
                let f1 =
                    if hits == 0 { 0.0 } else { 2.0 * precision * recall / (precision + recall) };
                ClassScore { name: name.clone(), precision, recall, f1, support }
            })
            .collect();
        let hits = (0..names.len()).map(|i| confusion[i][i]).sum();
        Self {
            accuracy: ratio(hits, n),
            macro_f1: classes.iter().map(|class| class.f1).sum::<f64>() / names.len() as f64,
            loss: nats / n.max(1) as f64,
            classes,
            confusion,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: class a has 3 of 4, b 1 of 2; a is given 4 times, b twice.
    #[test]
    fn scores_by_hand() {
        let names = ["a", "b", "c"].map(str::to_owned);
        let scores = Scores::new(&names, vec![vec![3, 1, 0], vec![1, 1, 0], vec![0, 0, 0]], 3.0);
        assert!((scores.accuracy - 4.0 / 6.0).abs() < 1e-12);
        let f1: Vec<f64> = scores.classes.iter().map(|class| class.f1).collect();
        assert_eq!(f1, [0.75, 0.5, 0.0]);
        assert!((scores.macro_f1 - 1.25 / 3.0).abs() < 1e-12);
        assert_eq!((scores.loss, scores.classes[2].support), (0.5, 0));
    }
}
