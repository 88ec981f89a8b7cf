//! Which parameters decay, and which learn slower than others.
//!
//! Usual practice: matrices decay, vectors (norms) do not. On the embedding practice differs, so groups
//! are rules that a configuration can change: [`ParamGroups::default`] spares the embedding,
//! [`ParamGroups::all_matrices`] does not.

use serde::{Deserialize, Serialize};

use crate::error::OptimError;

/// Whether a parameter decays in the default groups: matrices do, except the embedding.
pub fn decays(path: &str, shape: &[usize]) -> bool {
    ParamGroups::default().decays(path, shape)
}

/// Ordered rules over module paths. Without a matching rule a parameter decays if it has at least two
/// dimensions; of several matching rules the last one counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParamGroups {
    rules: Vec<Rule>,
    lr_scales: Vec<LrScale>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LrScale {
    pattern: String,
    scale: f64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    pattern: String,
    decay: bool,
}

impl Default for ParamGroups {
    /// Matrices decay, except the embedding (`embed.*`).
    fn default() -> Self {
        Self::all_matrices().with_rule("embed.*", false)
    }
}

impl ParamGroups {
    /// Every matrix decays, the embedding too.
    pub fn all_matrices() -> Self {
        Self { rules: Vec::new(), lr_scales: Vec::new() }
    }

    /// Adds a rule: parameters whose whole path matches `pattern` decay or not. `*` stands for any text.
    #[must_use]
    pub fn with_rule(mut self, pattern: impl Into<String>, decay: bool) -> Self {
        self.rules.push(Rule { pattern: pattern.into(), decay });
        self
    }

    /// Adds a rule: parameters whose whole path matches `pattern` learn with `scale` times the learning rate. Without a
    /// matching rule the factor is 1; of several the last one counts.
    #[must_use]
    pub fn with_lr_scale(mut self, pattern: impl Into<String>, scale: f64) -> Self {
        self.lr_scales.push(LrScale { pattern: pattern.into(), scale });
        self
    }

    /// The learning rate of the parameter at `path`, where `lr` is that of the step.
    pub fn lr(&self, path: &str, lr: f64) -> f64 {
        let rule = self.lr_scales.iter().rev().find(|rule| matches(&rule.pattern, path));
        rule.map_or(lr, |rule| lr * rule.scale)
    }

    /// Whether the parameter at `path` decays.
    pub fn decays(&self, path: &str, shape: &[usize]) -> bool {
        let rule = self.rules.iter().rev().find(|rule| matches(&rule.pattern, path));
        rule.map_or(shape.len() >= 2, |rule| rule.decay)
    }

    /// `weight_decay` for a parameter that decays, 0 for the others.
    pub fn decay(&self, path: &str, shape: &[usize], weight_decay: f64) -> f64 {
        if self.decays(path, shape) { weight_decay } else { 0.0 }
    }

    /// Holds the rules against the model's parameter paths.
    ///
    /// # Errors
    /// [`OptimError::UnmatchedRule`] for a rule that matches none of them.
    pub fn check<'a>(&self, paths: impl IntoIterator<Item = &'a str>) -> Result<(), OptimError> {
        let paths: Vec<&str> = paths.into_iter().collect();
        let mut patterns =
            self.rules.iter().map(|r| &r.pattern).chain(self.lr_scales.iter().map(|r| &r.pattern));
        match patterns.find(|pattern| !paths.iter().any(|path| matches(pattern, path))) {
            None => Ok(()),
            Some(pattern) => {
                let nearest = paths.iter().min_by_key(|path| strsim::levenshtein(path, pattern));
                Err(OptimError::UnmatchedRule {
                    pattern: pattern.clone(),
                    nearest: nearest.map(|path| (*path).to_owned()),
                })
            }
        }
    }
}

/// Whole-text match where `*` stands for any run of characters.
pub fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or("");
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    // The last part is tied to the end; those between are found greedily from the left, which is
    // enough because `*` takes anything.
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_and_the_embedding_do_not_decay() {
        for (path, shape, expected) in [
            ("embed.weight", &[384, 48][..], false),
            ("blocks.0.attention_norm.weight", &[48], false),
            ("blocks.0.wq.weight", &[48, 48], true),
            ("blocks.11.w_down.weight", &[136, 48], true),
            ("head.norm.weight", &[48], false),
            ("head.output.weight", &[48, 384], true),
        ] {
            assert_eq!(decays(path, shape), expected, "{path}");
        }
        assert!(ParamGroups::all_matrices().decays("embed.weight", &[384, 48]));
    }

    #[test]
    fn the_last_matching_rule_counts() {
        let groups = ParamGroups::default().with_rule("*", true).with_rule("*.wq.weight", false);
        assert!(groups.decays("embed.weight", &[2, 2]) && groups.decays("head.norm.weight", &[2]));
        assert_eq!(groups.decay("blocks.3.wq.weight", &[2, 2], 0.1), 0.0);
        assert_eq!(groups.decay("blocks.3.wk.weight", &[2, 2], 0.1), 0.1);
    }

    #[test]
    fn learning_rates_are_scaled_by_the_last_matching_rule() {
        let groups =
            ParamGroups::default().with_lr_scale("blocks.*", 0.5).with_lr_scale("blocks.1.*", 0.25);
        for (path, expected) in
            [("embed.weight", 2.0), ("blocks.0.wq.weight", 1.0), ("blocks.1.wq.weight", 0.5)]
        {
            assert_eq!(groups.lr(path, 2.0), expected, "{path}");
        }
        let message = groups.with_lr_scale("heads.*", 2.0).check(["embed.weight", "blocks.1.x"]);
        assert!(message.unwrap_err().to_string().contains("`heads.*` matches no parameter"));
    }

    #[test]
    fn patterns_match_whole_paths() {
        for (pattern, text, expected) in [
            ("embed.weight", "embed.weight", true),
            ("embed", "embed.weight", false),
            ("*", "", true),
            ("*norm*", "blocks.0.ffn_norm.weight", true),
            ("a*b*b", "ab", false),
            ("a*b*b", "abxb", true),
            ("a*ba", "aba", true),
            ("ab*ba", "aba", false),
            ("*.é", "x.é", true),
            ("*.weight", "head.weight.old", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} against {text}");
        }
    }

    #[test]
    fn a_rule_that_matches_nothing_is_refused() {
        let groups = ParamGroups::default().with_rule("heads.output.weight", false);
        let paths = ["embed.weight", "head.output.weight"];
        let message = groups.check(paths).unwrap_err().to_string();
        assert!(message.contains("`heads.output.weight` matches no parameter"), "{message}");
        assert!(message.contains("closest path is `head.output.weight`"), "{message}");
        assert_eq!(ParamGroups::default().check(paths), Ok(()));
    }
}
