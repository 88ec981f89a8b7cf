//! Worked examples before a question.

use std::path::Path;

use crate::error::EvalError;

/// Between two examples, and between the last one and the question.
const SEPARATOR: &str = "\n\n";

/// The prompt of row `index`: `shots` other rows with their answers, then the row itself.
///
/// `worked(i)` is row `i` with its answer, `asked` the row itself without. Which rows are shown is a function of
/// (seed, index) alone.
pub(super) fn prompt(
    index: usize,
    n_rows: usize,
    shots: usize,
    seed: u64,
    worked: impl Fn(usize) -> String,
    asked: &str,
) -> String {
    let mut prompt = String::new();
    for example in choose(index, n_rows, shots, seed) {
        prompt.push_str(&worked(example));
        prompt.push_str(SEPARATOR);
    }
    prompt.push_str(asked);
    prompt
}

/// There must be enough other rows.
pub(super) fn check(shots: usize, n_rows: usize, path: &Path) -> Result<(), EvalError> {
    if shots < n_rows {
        Ok(())
    } else {
        Err(EvalError::Shots { shots, path: path.to_owned(), n_rows })
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

/// 64 random bits from three numbers: SplitMix64's finaliser after each (Steele, Lea, Flood 2014).
fn random(seed: u64, index: u64, draw: u64) -> u64 {
    [seed, index, draw].into_iter().fold(0, |state, value| {
        let mut z = (state ^ value).wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}

#[cfg(test)]
mod tests {
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
    fn a_prompt_ends_with_the_question() {
        let rows = ["a", "b", "c"];
        let prompt = prompt(1, 3, 2, 0, |i| format!("{} is known", rows[i]), "b");
        assert!(
            ["a is known\n\nc is known\n\nb", "c is known\n\na is known\n\nb"]
                .contains(&prompt.as_str())
        );
        assert!(check(2, 3, Path::new("f")).is_ok());
        assert!(matches!(check(3, 3, Path::new("f")), Err(EvalError::Shots { n_rows: 3, .. })));
    }
}
