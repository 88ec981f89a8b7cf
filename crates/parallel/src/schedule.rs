//! The order of a pipeline rank's work, as pure data.

use crate::mesh::Schedule;

/// One piece of work of a pipeline rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// A micro-batch forward through one of the rank's pieces.
    Forward { micro: usize, piece: usize },
    /// And backward.
    Backward { micro: usize, piece: usize },
}

/// The work of `rank` among `ranks`, each with `pieces` pieces of the model, for `n` micro-batches. Piece `i` of a rank is
/// the model's piece `i * ranks + rank`.
///
/// # Reference
/// Huang et al., "GPipe", 2019, section 2.3; Narayanan et al., "PipeDream", 2019, section 3.2 (1F1B); Narayanan et al.,
/// "Efficient Large-Scale Language Model Training on GPU Clusters", 2021, section 2.2 (interleaved).
pub(crate) fn actions(
    schedule: Schedule,
    rank: usize,
    ranks: usize,
    pieces: usize,
    n: usize,
) -> Vec<Action> {
    let total = n * pieces;
    let forward = |i: usize| {
        let (micro, piece) = place(i, ranks, pieces, n);
        Action::Forward { micro, piece }
    };
    let backward = |i: usize| {
        let (micro, piece) = place(i, ranks, pieces, n);
        Action::Backward { micro, piece: pieces - 1 - piece }
    };
    let warmup = match schedule {
        Schedule::GPipe => total,
        Schedule::OneForwardOneBackward => ranks - 1 - rank,
        // Enough for the last piece's first backward to find its way back here.
        Schedule::Interleaved => (ranks - 1 - rank) * 2 + (pieces - 1) * ranks,
    }
    .min(total);
    let mut out = Vec::with_capacity(2 * total);
    out.extend((0..warmup).map(forward));
    for i in warmup..total {
        out.extend([forward(i), backward(i - warmup)]);
    }
    out.extend((total - warmup..total).map(backward));
    out
}

/// The `i`-th work of one direction: groups of `ranks` micro-batches take turns on the pieces.
fn place(i: usize, ranks: usize, pieces: usize, n: usize) -> (usize, usize) {
    if pieces == 1 {
        return (i, 0);
    }
    debug_assert!(n.is_multiple_of(ranks), "the layout was checked");
    let group = i / (ranks * pieces);
    let within = i % (ranks * pieces);
    (group * ranks + within % ranks, within / ranks)
}

/// How many micro-batches are between their forward and their backward at most, summed over the rank's pieces.
pub(crate) fn most_in_flight(actions: &[Action]) -> usize {
    let (mut now, mut most) = (0usize, 0);
    for action in actions {
        match action {
            Action::Forward { .. } => now += 1,
            Action::Backward { .. } => now -= 1,
        }
        most = most.max(now);
    }
    most
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Runs all ranks' lists against each other: an action waits for what it receives.
    fn simulate(schedule: Schedule, ranks: usize, pieces: usize, n: usize) -> Vec<usize> {
        let lists: Vec<Vec<Action>> =
            (0..ranks).map(|rank| actions(schedule, rank, ranks, pieces, n)).collect();
        let last = ranks * pieces - 1;
        let mut next = vec![0; ranks];
        let (mut forwards, mut backwards) = (HashSet::new(), HashSet::new());
        loop {
            let mut moved = false;
            for rank in 0..ranks {
                while let Some(action) = lists[rank].get(next[rank]) {
                    let ready = match *action {
                        Action::Forward { micro, piece } => {
                            let stage = piece * ranks + rank;
                            let ready = stage == 0 || forwards.contains(&(micro, stage - 1));
                            assert!(!ready || forwards.insert((micro, stage)), "twice: {action:?}");
                            ready
                        }
                        Action::Backward { micro, piece } => {
                            let stage = piece * ranks + rank;
                            assert!(
                                forwards.contains(&(micro, stage)),
                                "backward first: {action:?}"
                            );
                            let ready = stage == last || backwards.contains(&(micro, stage + 1));
                            assert!(
                                !ready || backwards.insert((micro, stage)),
                                "twice: {action:?}"
                            );
                            ready
                        }
                    };
                    if !ready {
                        break;
                    }
                    next[rank] += 1;
                    moved = true;
                }
            }
            if !moved {
                break;
            }
        }
        assert_eq!(
            backwards.len(),
            n * ranks * pieces,
            "{schedule:?} {ranks} {pieces} {n} stands still"
        );
        lists.iter().map(|list| most_in_flight(list)).collect()
    }

    #[test]
    fn schedules_end_and_keep_their_promise_of_memory() {
        for ranks in 1..6 {
            for n in 1..9 {
                assert_eq!(simulate(Schedule::GPipe, ranks, 1, n), vec![n; ranks]);
                let held = simulate(Schedule::OneForwardOneBackward, ranks, 1, n);
                let theory: Vec<usize> = (0..ranks).map(|rank| (ranks - rank).min(n)).collect();
                assert_eq!(held, theory, "{ranks} ranks, {n} micro-batches");
            }
            for pieces in 2..4 {
                for groups in 1..4 {
                    let held = simulate(Schedule::Interleaved, ranks, pieces, groups * ranks);
                    for (rank, held) in held.into_iter().enumerate() {
                        let theory = (ranks - rank - 1) * 2 + (pieces - 1) * ranks + 1;
                        assert_eq!(held, theory.min(groups * ranks * pieces));
                    }
                }
            }
        }
    }
}
