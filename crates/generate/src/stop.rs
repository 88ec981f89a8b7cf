//! Stop strings in a stream of text.

/// Collects text, holds back what may be the beginning of a stop string, and notices when one is complete.
#[derive(Debug)]
pub(crate) struct StopScanner {
    stops: Vec<String>,
    text: String,
    n_emitted: usize,
}

impl StopScanner {
    /// Empty stop strings never match.
    pub(crate) fn new(stops: &[String]) -> Self {
        Self { stops: stops.to_vec(), text: String::new(), n_emitted: 0 }
    }

    /// Appends `piece`; returns the text that may be shown now and whether a stop string is complete. The stop string
    /// and what follows it are dropped; of several the one that begins first counts.
    pub(crate) fn push(&mut self, piece: &str) -> (&str, bool) {
        self.text.push_str(piece);
        let stops = || self.stops.iter().filter(|stop| !stop.is_empty());
        let unseen = &self.text[self.n_emitted..];
        let stop_at = stops().filter_map(|stop| unseen.find(stop.as_str())).min();
        let from = self.n_emitted;
        if let Some(at) = stop_at {
            self.text.truncate(from + at);
        } else {
            let held = stops().map(|stop| overlap(unseen, stop)).max().unwrap_or(0);
            self.n_emitted = self.text.len() - held;
            return (&self.text[from..self.n_emitted], false);
        }
        self.n_emitted = self.text.len();
        (&self.text[from..], true)
    }

    /// What was held back, once nothing follows.
    pub(crate) fn flush(&mut self) -> &str {
        let from = std::mem::replace(&mut self.n_emitted, self.text.len());
        &self.text[from..]
    }

    /// All text that was shown.
    pub(crate) fn into_text(mut self) -> String {
        self.text.truncate(self.n_emitted);
        self.text
    }
}

/// Length in bytes of the longest end of `text` that `stop` begins with, short of all of `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    stop.char_indices().map(|(at, _)| at).rev().find(|at| text.ends_with(&stop[..*at])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool, String) {
        let stops: Vec<String> = stops.iter().map(|s| (*s).to_owned()).collect();
        let mut scanner = StopScanner::new(&stops);
        let mut shown = Vec::new();
        let mut stopped = false;
        for piece in pieces {
            let (text, done) = scanner.push(piece);
            shown.push(text.to_owned());
            stopped = done;
            if done {
                break;
            }
        }
        if !stopped {
            shown.push(scanner.flush().to_owned());
        }
        (shown, stopped, scanner.into_text())
    }

    #[test]
    fn a_stop_string_across_pieces_is_never_shown() {
        let (shown, stopped, text) = run(&["\n\nQ:"], &["yes.\n", "\n", "Q", ": next"]);
        assert_eq!((shown, stopped), (vec!["yes.".into(), "".into(), "".into(), "".into()], true));
        assert_eq!(text, "yes.");
    }

    #[test]
    fn a_false_alarm_is_shown_later() {
        let (shown, stopped, text) = run(&["\n\nQ:", ""], &["a\n", "\n", "\nb", "\n"]);
        assert_eq!(shown, ["a", "", "\n\n\nb", "", "\n"]);
        assert!(!stopped);
        assert_eq!(text, "a\n\n\nb\n");
    }

    #[test]
    fn the_first_of_several_counts() {
        assert_eq!(run(&["d", "bc"], &["abcd"]).2, "a");
        assert_eq!(run(&["é"], &["caf\u{e9}s"]).2, "caf");
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(text in "[ab]{0,30}", cuts in prop::collection::vec(0..30usize, 0..8), stop in "[ab]{1,4}") {
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|c| *c < text.len()).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&str> = cuts.windows(2).map(|w| &text[w[0]..w[1]]).collect();
            let (shown, stopped, whole) = run(&[&stop], &pieces);
            let expected = text.find(&stop).map_or(text.as_str(), |at| &text[..at]);
            prop_assert_eq!(&whole, expected);
            prop_assert_eq!(shown.concat(), expected);
            prop_assert_eq!(stopped, text.contains(&stop));
        }
    }
}
