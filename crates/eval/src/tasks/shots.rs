//! Worked examples before a question.

use super::ask::Item;
use crate::random;

/// Between two examples, and between the last one and the question.
const SEPARATOR: &str = "\n\n";

/// Where examples come from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pool<'a> {
    /// All rows that may be shown.
    pub(super) items: &'a [Item],
    /// Whether these are the rows that are asked: then no row is shown before itself.
    pub(super) own: bool,
    /// How many are shown.
    pub(super) shots: usize,
    pub(super) seed: u64,
}

impl Pool<'_> {
    /// What stands before row `index`, which is `item`: its preface, and `shots` other rows of its group with their answers.
    ///
    /// Which rows are shown is a function of (seed, index) alone. The error is how many rows there are to choose from.
    pub(super) fn before(&self, index: usize, item: &Item) -> Result<String, usize> {
        let mut prompt = item.preface.clone();
        if self.shots == 0 {
            return Ok(prompt);
        }
        let group: Vec<usize> =
            (0..self.items.len()).filter(|i| self.items[*i].group == item.group).collect();
        // A row from elsewhere stands after all that may be shown.
        let at = if self.own { group.partition_point(|i| *i < index) } else { group.len() };
        let n_rows = group.len() + usize::from(!self.own);
        if self.shots >= n_rows {
            return Err(n_rows - 1);
        }
        for example in choose(at, n_rows, self.shots, self.seed) {
            prompt.push_str(&self.items[group[example]].ask.worked());
            prompt.push_str(SEPARATOR);
        }
        Ok(prompt)
    }
}

/// `shots` distinct rows other than `index`, in random order: the first steps of a Fisher-Yates shuffle of the others.
fn choose(index: usize, n_rows: usize, shots: usize, seed: u64) -> Vec<usize> {
    let others = n_rows - 1;
    let mut moved = std::collections::HashMap::new();
    (0..shots)
        .map(|i| {
            let j = i + (random(seed, index as u64, i as u64) % (others - i) as u64) as usize;
            let at = |moved: &std::collections::HashMap<usize, usize>, k: usize| {
                *moved.get(&k).unwrap_or(&k)
            };
            let chosen = at(&moved, j);
            moved.insert(j, at(&moved, i));
            if chosen < index { chosen } else { chosen + 1 }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::ask::Ask;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn examples_are_distinct_other_rows(n_rows in 1..40usize, index in 0..40usize, shots in 0..40usize, seed: u64) {
            let (index, shots) = (index % n_rows, shots % n_rows);
            let chosen = choose(index, n_rows, shots, seed);
            prop_assert_eq!(&chosen, &choose(index, n_rows, shots, seed));
            let mut distinct = chosen.clone();
            distinct.sort_unstable();
            distinct.dedup();
            prop_assert_eq!(distinct.len(), shots);
            prop_assert!(chosen.iter().all(|row| *row < n_rows && *row != index));
        }
    }

    #[test]
    fn every_other_row_is_about_as_likely() {
        let mut counts = [0u32; 10];
        for seed in 0..9_000 {
            choose(4, 10, 3, seed).into_iter().for_each(|row| counts[row] += 1);
        }
        assert_eq!(counts[4], 0);
        // 3000 expected, standard deviation 45.
        assert!(
            counts.iter().enumerate().all(|(row, c)| row == 4 || c.abs_diff(3_000) < 200),
            "{counts:?}"
        );
    }

    #[test]
    fn examples_come_from_the_group_and_never_from_the_row_itself() {
        let item = |name: &str, group: &str| Item {
            place: String::new(),
            group: Some(group.to_owned()),
            preface: format!("About {group}.\n"),
            ask: Ask::Roll { text: name.to_owned() },
        };
        let items =
            [item("a", "g"), item("x", "h"), item("b", "g"), item("y", "h"), item("c", "g")];
        let pool = Pool { items: &items, own: true, shots: 2, seed: 0 };
        let prompt = pool.before(2, &items[2]).unwrap();
        assert!(
            ["About g.\na\n\nc\n\n", "About g.\nc\n\na\n\n"].contains(&prompt.as_str()),
            "{prompt}"
        );
        assert_eq!(pool.before(1, &items[1]), Err(1));
        let other = Pool { own: false, ..pool };
        let prompt = other.before(7, &item("z", "h")).unwrap();
        assert!(
            ["About h.\nx\n\ny\n\n", "About h.\ny\n\nx\n\n"].contains(&prompt.as_str()),
            "{prompt}"
        );
        assert_eq!(Pool { shots: 3, ..other }.before(7, &item("z", "h")), Err(2));
        assert_eq!(Pool { shots: 0, ..pool }.before(0, &items[0]), Ok("About g.\n".to_owned()));
    }
}
