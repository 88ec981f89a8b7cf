//! Examples as ids, cut where that is asked for.

use caravan_tokenizer::Encode;

use crate::error::{FinetuneError, Result};
use crate::examples::Example;
use crate::packing::Encoded;
use crate::settings::{Settings, wrong};

/// The line of an example, its ids, and its class.
pub(crate) type Line = (usize, Vec<u32>, usize);

/// Ids and class of every example, with its line.
pub(crate) fn encode(
    tokenizer: &dyn Encode,
    names: &[String],
    examples: &[Example],
) -> Result<Vec<Line>> {
    let texts: Vec<&str> = examples.iter().map(|example| example.text.as_str()).collect();
    let encoded = tokenizer.encode_batch(&texts)?;
    let begin = tokenizer.bos_id().filter(|_| tokenizer.adds_bos());
    let one = |(example, ids): (&Example, Vec<u32>)| {
        let class = names.iter().position(|name| *name == example.label).ok_or_else(|| {
            FinetuneError::Row {
                path: "the development set".into(),
                line: example.line,
                problem: format!("the class `{}` does not occur in training", example.label),
                help: format!("classes are {}", names.join(", ")),
            }
        })?;
        let ids = begin.into_iter().chain(ids).chain(tokenizer.eos_id()).collect();
        Ok((example.line, ids, class))
    };
    examples.iter().zip(encoded).map(one).collect()
}

/// How many ids stand before and behind the text of an example: BOS and EOS, where the tokenizer has them.
pub(crate) fn marks(tokenizer: &dyn Encode) -> [usize; 2] {
    let begin = tokenizer.bos_id().filter(|_| tokenizer.adds_bos());
    [usize::from(begin.is_some()), usize::from(tokenizer.eos_id().is_some())]
}

/// The examples, none longer than `seq_len`: refused or cut, as `settings` says; `set` names them in errors.
///
/// # Errors
/// An example is empty, or too long and not to be cut, or rows are too short for any text.
pub(crate) fn fitted(
    examples: Vec<Line>,
    set: &str,
    seq_len: usize,
    marks: [usize; 2],
    settings: &Settings,
) -> Result<Vec<Encoded>> {
    if seq_len <= marks[0] + marks[1] {
        let help = "raise it: BOS and EOS take a place each";
        return Err(wrong("seq_len", &seq_len, "leaves no room for text", help));
    }
    let one = |(line, mut ids, class): Line| {
        let n = ids.len();
        if n == 0 {
            return Err(FinetuneError::Row {
                path: set.into(),
                line,
                problem: "the text has no tokens".to_owned(),
                help: "remove the example".to_owned(),
            });
        }
        if n > seq_len {
            match settings.truncate.as_str() {
                "head" => cut(&mut ids, seq_len, marks, true),
                "tail" => cut(&mut ids, seq_len, marks, false),
                _ => {
                    let help = "set truncate=head or truncate=tail to cut it, or a larger seq_len";
                    let problem = format!("{set}: the example at line {line} has {n} tokens");
                    return Err(wrong("seq_len", &seq_len, &problem, help));
                }
            }
        }
        Ok(Encoded::of_class(ids, class))
    };
    examples.into_iter().map(one).collect()
}

/// Takes ids out of the text between the marks, at its end or at its beginning, until `seq_len` are left.
fn cut(ids: &mut Vec<u32>, seq_len: usize, [begin, end]: [usize; 2], keeps_head: bool) {
    let excess = ids.len() - seq_len;
    let text_end = ids.len() - end;
    let out = if keeps_head { text_end - excess..text_end } else { begin..begin + excess };
    ids.drain(out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_keep_the_marks_and_one_side_of_the_text() {
        let cut_of = |marks, keeps_head| {
            let mut ids = vec![1, 2, 3, 4, 5, 6];
            cut(&mut ids, 4, marks, keeps_head);
            ids
        };
        assert_eq!(cut_of([1, 1], true), [1, 2, 3, 6]);
        assert_eq!(cut_of([1, 1], false), [1, 4, 5, 6]);
        // Without marks nothing from the other side stays.
        assert_eq!(cut_of([0, 0], true), [1, 2, 3, 4]);
        assert_eq!(cut_of([0, 0], false), [3, 4, 5, 6]);
        assert_eq!(cut_of([1, 0], false), [1, 4, 5, 6]);
    }

    #[test]
    fn what_has_no_tokens_or_no_room_is_refused() {
        let fit = |ids: &[u32], seq_len, marks| {
            fitted(vec![(7, ids.to_vec(), 0)], "training", seq_len, marks, &Settings::default())
        };
        let message = |result: Result<Vec<Encoded>>| result.unwrap_err().to_string();
        assert!(message(fit(&[], 4, [0, 0])).contains("`training` line 7: the text has no tokens"));
        assert!(message(fit(&[1, 2], 2, [1, 1])).contains("leaves no room for text"));
        assert!(message(fit(&[1, 2, 3], 2, [0, 0])).contains("training: the example at line 7"));
        assert_eq!(fit(&[1, 2], 2, [0, 0]).unwrap()[0].ids, [1, 2]);
    }
}
