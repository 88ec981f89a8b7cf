//! When two answers are the same, and how much two answers have in common.
//!
//! # Reference
//! English: SQuAD's `evaluate-v2.0.py` (Rajpurkar et al. 2018): small letters, no ASCII punctuation, no articles, words at
//! white space. Other languages: MLQA's `mlqa_evaluation_v1.py` (Lewis et al. 2020): punctuation of all of Unicode, the
//! articles of each language, and in Chinese every ideograph a word of its own. Japanese is treated like Chinese, its kana
//! included.

use std::collections::HashMap;

use unicode_categories::UnicodeCategories;

/// How answers are cut into words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    Arabic,
    Chinese,
    English,
    German,
    Japanese,
    Spanish,
    Vietnamese,
    /// Words at white space, no articles.
    Other,
}

impl Language {
    /// By its code of ISO 639, such as `zh`, or `zh-Hans`; two or three letters.
    pub(crate) fn of_code(code: &str) -> Option<Self> {
        let code = code.split(['-', '_']).next().unwrap_or_default().to_ascii_lowercase();
        let known = (2..=3).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_lowercase());
        let language = match code.as_str() {
            "ar" => Self::Arabic,
            "zh" => Self::Chinese,
            "en" => Self::English,
            "de" => Self::German,
            "ja" => Self::Japanese,
            "es" => Self::Spanish,
            "vi" => Self::Vietnamese,
            _ => Self::Other,
        };
        known.then_some(language)
    }

    fn articles(self) -> &'static [&'static str] {
        match self {
            Self::English => &["a", "an", "the"],
            Self::Spanish => &["un", "una", "unos", "unas", "el", "la", "los", "las"],
            Self::Vietnamese => &["của", "là", "cái", "chiếc", "những"],
            Self::German => &[
                "ein", "eine", "einen", "einem", "eines", "einer", "der", "die", "das", "den",
                "dem", "des",
            ],
            Self::Arabic | Self::Chinese | Self::Japanese | Self::Other => &[],
        }
    }

    fn is_punctuation(self, c: char) -> bool {
        c.is_ascii_punctuation() || (self != Self::English && c.is_punctuation())
    }

    /// Whether the character is a word by itself.
    fn stands_alone(self, c: char) -> bool {
        match self {
            Self::Chinese => ('\u{4e00}'..='\u{9fa5}').contains(&c),
            Self::Japanese => {
                ('\u{3040}'..='\u{30ff}').contains(&c)
                    || ('\u{3400}'..='\u{4dbf}').contains(&c)
                    || ('\u{4e00}'..='\u{9fff}').contains(&c)
            }
            _ => false,
        }
    }
}

/// The words that are compared.
fn words(text: &str, language: Language) -> Vec<String> {
    let text: String =
        text.to_lowercase().chars().filter(|c| !language.is_punctuation(*c)).collect();
    let text = without_articles(&text, language);
    let mut apart = String::with_capacity(text.len());
    for c in text.chars() {
        if language.stands_alone(c) {
            apart.extend([' ', c, ' ']);
        } else {
            apart.push(c);
        }
    }
    apart.split(is_space).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Each article, a whole run of letters, digits and underscores, becomes a space; in Arabic `ال` at the beginning of a word.
fn without_articles(text: &str, language: Language) -> String {
    if language == Language::Arabic {
        let mut words = Vec::new();
        for word in text.split(is_space) {
            words.push(word.strip_prefix("ال").unwrap_or(word));
        }
        return words.join(" ");
    }
    let articles = language.articles();
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let in_word = |c: char| c.is_alphanumeric() || c == '_';
        let n = if in_word(first) {
            rest.find(|c| !in_word(c)).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        let (run, after) = rest.split_at(n);
        kept.push_str(if articles.contains(&run) { " " } else { run });
        rest = after;
    }
    kept
}

/// Whether both are the same after normalisation.
pub(super) fn exact_match(written: &str, answer: &str, language: Language) -> bool {
    words(written, language) == words(answer, language)
}

/// Twice the words in common over the words of both; where one of them has no words, whether both have none.
pub(super) fn f1(written: &str, answer: &str, language: Language) -> f64 {
    let (written, answer) = (words(written, language), words(answer, language));
    if written.is_empty() || answer.is_empty() {
        return f64::from(u8::from(written == answer));
    }
    let mut left: HashMap<&str, usize> = HashMap::new();
    answer.iter().for_each(|word| *left.entry(word).or_default() += 1);
    let mut common = 0.0;
    for word in &written {
        if let Some(n) = left.get_mut(word.as_str()).filter(|n| **n > 0) {
            *n -= 1;
            common += 1.0;
        }
    }
    2.0 * common / (written.len() + answer.len()) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values were computed with `lm_eval/tasks/mlqa/utils.py` and, for English, the official script of SQuAD.
    #[test]
    fn answers_are_compared_as_by_the_official_scripts() {
        use Language::{Arabic, Chinese, English, German, Other, Spanish, Vietnamese};
        for (language, written, answer, exact, expected) in [
            (English, "The Cat!", "cat", true, 1.0),
            (English, "a big dog", "the dog", false, 2.0 / 3.0),
            (English, "theatre an", "Theatre", true, 1.0),
            (English, "308.", "308 points", false, 2.0 / 3.0),
            (English, "", "x", false, 0.0),
            (English, "an", "the", true, 1.0),
            (English, "«x»", "x", false, 0.0),
            (Spanish, "«Los Ángeles»", "ángeles", true, 1.0),
            (German, "in der Stadt", "die Stadt", false, 2.0 / 3.0),
            (Vietnamese, "những con mèo", "con mèo", true, 1.0),
            (Arabic, "في البيت", "في بيت", true, 1.0),
            (Chinese, "308分。", "308 分", true, 1.0),
            (Chinese, "三次强迫掉球", "三次掉球", false, 0.8),
            (Chinese, "NFL联盟", "NFL 联赛", false, 2.0 / 3.0),
            (Other, "кот, кот", "кот", false, 2.0 / 3.0),
        ] {
            assert_eq!(exact_match(written, answer, language), exact, "{written} {answer}");
            let found = f1(written, answer, language);
            assert!((found - expected).abs() < 1e-12, "{written} {answer}: {found}");
        }
        assert!((f1("東京タワー", "東京", Language::Japanese) - 4.0 / 7.0).abs() < 1e-12);
    }

    #[test]
    fn languages_have_codes() {
        assert_eq!(Language::of_code("zh-Hans"), Some(Language::Chinese));
        assert_eq!(Language::of_code("ru"), Some(Language::Other));
        assert_eq!(Language::of_code("chinese"), None);
        assert_eq!(Language::of_code(""), None);
    }
}
