//! The number that an answer ends in, in the form of GSM8K.
//!
//! # Reference
//! EleutherAI's lm-evaluation-harness 0.4, task `gsm8k`: filters `strict-match` and `flexible-extract`, then `exact_match`
//! without case, commas, dollar signs, all up to the last `#### `, and a full stop at the end.

/// What stands for a number that was not found; it equals no answer.
const INVALID: &str = "[invalid]";

/// Whether `#### number` in what was written is the number of the answer.
pub(super) fn strict(written: &str, answer: &str) -> bool {
    bare(&first_marked(written).unwrap_or_else(|| INVALID.to_owned())) == bare(answer)
}

/// Whether the last number of what was written is the number of the answer.
pub(super) fn flexible(written: &str, answer: &str) -> bool {
    bare(&last_number(written).unwrap_or_else(|| INVALID.to_owned())) == bare(answer)
}

/// The first match of `#### (-?[0-9.,]+)`.
fn first_marked(text: &str) -> Option<String> {
    text.match_indices("#### ").find_map(|(at, mark)| {
        let rest = &text[at + mark.len()..];
        let sign = usize::from(rest.starts_with('-'));
        let n = span(&rest[sign..], |c| c.is_ascii_digit() || c == '.' || c == ',');
        (n > 0).then(|| rest[..sign + n].to_owned())
    })
}

/// The last match of `(-?[$0-9.,]{2,})|(-?[0-9]+)`, matches being taken from the left.
fn last_number(text: &str) -> Option<String> {
    let mut last = None;
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        let sign = usize::from(c == '-');
        let wide = span(&rest[sign..], |c| c.is_ascii_digit() || matches!(c, '$' | '.' | ','));
        let digits = span(&rest[sign..], |c| c.is_ascii_digit());
        let n = if wide >= 2 { wide } else { digits };
        if n > 0 {
            last = Some(rest[..sign + n].to_owned());
            at += sign + n;
        } else {
            at += c.len_utf8();
        }
    }
    last
}

/// Bytes of the longest beginning of ASCII characters that are all wanted.
fn span(text: &str, wanted: impl Fn(char) -> bool) -> usize {
    text.find(|c| !wanted(c)).unwrap_or(text.len())
}

/// What is compared.
fn bare(text: &str) -> String {
    let text = text.trim().replace([',', '$'], "");
    let text = text.rsplit_once("#### ").map_or(text.as_str(), |(_, number)| number);
    text.strip_suffix('.').unwrap_or(text).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected by Python's `re` with the harness's patterns.
    #[test]
    fn numbers_are_found_as_by_the_harness() {
        for (text, marked, last) in [
            ("so 3 + 4 = 7.\n#### 7", Some("7"), Some("7")),
            ("#### -1,234.50 and 8", Some("-1,234.50"), Some("8")),
            ("#### x #### $5", None, Some("$5")),
            ("It is $18.", None, Some("$18.")),
            ("a-5 b", None, Some("-5")),
            ("--7", None, Some("-7")),
            ("none", None, None),
            ("wait...", None, Some("...")),
            ("é4", None, Some("4")),
            ("####  9", None, Some("9")),
        ] {
            assert_eq!(first_marked(text).as_deref(), marked, "{text}");
            assert_eq!(last_number(text).as_deref(), last, "{text}");
        }
    }

    #[test]
    fn answers_are_compared_bare() {
        let answer = "2 + 2 = <<2+2=4>>4, times 500\n#### 2,000";
        assert!(strict("it is\n#### 2000", answer) && flexible("It is $2,000.", answer));
        assert!(!strict("It is 2000", answer) && !flexible("2001", answer));
        assert!(!strict("", answer) && !flexible("", answer));
    }
}
