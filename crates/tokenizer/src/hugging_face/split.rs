//! Cutting a long text where LLaMA 3's pattern must begin a new word, so that its parts are encoded
//! in parallel and in bounded memory, with the ids of the whole.
//!
//! The pattern splits a text into words from left to right, each found without looking back, and
//! BPE stays within words. After a line end that a letter follows, a word always ends: whatever
//! takes line ends (`[\r\n]*`, `\s*[\r\n]+`) takes all that are there, and no alternative takes a
//! line end together with a letter. For other patterns this need not hold, so they are not cut.

use tokenizers::PreTokenizerWrapper;
use tokenizers::Tokenizer;

/// LLaMA 3's pattern, as its `tokenizer.json` has it.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Whether a tokenizer splits text by that pattern and by nothing else.
pub(super) fn is_exact(tokenizer: &Tokenizer) -> bool {
    let Some(PreTokenizerWrapper::Sequence(steps)) = tokenizer.get_pre_tokenizer() else {
        return false;
    };
    let [PreTokenizerWrapper::Split(split), PreTokenizerWrapper::ByteLevel(bytes)] = steps.as_ref()
    else {
        return false;
    };
    let pattern = tokenizers::pre_tokenizers::split::SplitPattern::Regex(LLAMA3.to_owned());
    let mut added = tokenizer.get_added_tokens_decoder().into_values();
    tokenizer.get_normalizer().is_none()
        && split.pattern == pattern
        && split.behavior == tokenizers::SplitDelimiterBehavior::Isolated
        && !split.invert
        && !bytes.add_prefix_space
        && !bytes.use_regex
        && added.all(|token| token.special)
}

/// Parts of at least `size` bytes, except the last.
pub(super) fn blocks(text: &str, size: usize) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(at) = next_cut(text, size) else { return rest.take() };
        rest = Some(&text[at..]);
        Some(&text[..at])
    })
}

/// The first place at `size` bytes or later that is after a line end and before a letter.
fn next_cut(text: &str, size: usize) -> Option<usize> {
    let from = text.ceil_char_boundary(size.max(1) - 1);
    let after_line_end = text[from..].match_indices('\n').map(|(at, _)| from + at + 1);
    after_line_end.into_iter().find(|at| text[*at..].chars().next().is_some_and(is_letter))
}

/// Characters that every version of Unicode counts as letters (a part of them is enough).
fn is_letter(c: char) -> bool {
    matches!(c, 'A'..='Z' | 'a'..='z' | '\u{3041}'..='\u{3096}' | '\u{4E00}'..='\u{9FA5}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_are_between_a_line_end_and_a_letter() {
        let parts = |text, size| blocks(text, size).collect::<Vec<_>>();
        assert_eq!(parts("a\n b\nc\n\n猫\n", 1), ["a\n b\n", "c\n\n", "猫\n"]);
        assert_eq!(parts("a\nb\nc", 3), ["a\nb\n", "c"]);
        assert_eq!(parts("", 3), [""]);
        assert_eq!(parts("猫猫猫", 4), ["猫猫猫"]);
    }
}
