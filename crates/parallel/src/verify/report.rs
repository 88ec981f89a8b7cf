//! What was compared, and the words for it.

use std::fmt;

/// What a check asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Demand {
    /// The same bits.
    SameBits,
    /// At most this far apart, over the largest number of a tensor.
    Within(f64),
}

/// One comparison over all ranks. Its text is one line, and where ranks differ a line for each place that is named.
#[derive(Clone, Debug)]
pub struct Check {
    /// What is compared, in a word or two.
    pub name: &'static str,
    /// What is asked for.
    pub demand: Demand,
    /// What came of it.
    pub found: Found,
}

/// What came of a check.
#[derive(Clone, Debug)]
pub enum Found {
    /// As demanded.
    Equal {
        /// Tensors or numbers that were compared, each counted once.
        n: usize,
        /// Largest difference over the largest number of a tensor.
        apart: f64,
    },
    /// Not as demanded.
    Differs {
        /// How many of the things compared.
        n_differ: usize,
        /// How many were compared.
        n: usize,
        /// Where it begins, in the order in which the work is done.
        first: Box<Difference>,
        /// Of a backward pass: the first in the model's order, where that is another one.
        in_model: Option<Box<Difference>>,
        /// Ranks on which the first differs.
        ranks: Vec<usize>,
    },
    /// A rank ended with an error, or a number was not finite.
    Failed {
        /// What was said, with the rank.
        message: String,
    },
}

/// Where a rank has other numbers than one rank, and how far they are apart.
#[derive(Clone, Debug)]
pub struct Difference {
    /// A module path, or what else was compared.
    pub what: String,
    /// The world rank.
    pub rank: usize,
    /// `rank 3 (pipeline 1, data 0)`.
    pub place: String,
    /// What of it the rank has; empty for all of it.
    pub part: String,
    /// Index of the largest difference, in the whole tensor; empty for a single number.
    pub index: Vec<usize>,
    /// The rank's number there.
    pub found: f64,
    /// The number it is held against.
    pub expected: f64,
    /// Whose that is: `one rank has`.
    pub against: &'static str,
    /// How far apart they are.
    pub size: f64,
    /// The largest number of the tensor.
    pub largest: f64,
    /// Numbers that differ on this rank.
    pub n_differ: usize,
    /// Numbers that were compared on this rank.
    pub n: usize,
}

/// All checks of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// In the order in which they were made.
    pub checks: Vec<Check>,
}

impl Report {
    /// Whether the layout is one rank's run.
    pub fn is_equal(&self) -> bool {
        self.first_failure().is_none()
    }

    /// The first check that is not as demanded: what comes later follows from it.
    pub fn first_failure(&self) -> Option<&Check> {
        self.checks.iter().find(|check| !check.is_equal())
    }
}

impl Check {
    /// Whether all is as demanded.
    pub fn is_equal(&self) -> bool {
        matches!(self.found, Found::Equal { .. })
    }

    /// What differs first and on which rank, in a line; what was compared where nothing differs.
    pub fn place(&self) -> String {
        match &self.found {
            Found::Equal { .. } => self.name.to_owned(),
            Found::Differs { first, .. } => {
                format!("{}: {} on {}", self.name, first.what, first.place)
            }
            Found::Failed { message } => format!("{}: {message}", self.name),
        }
    }
}

/// Columns of the name.
const INDENT: usize = 22;
/// Ranks that are named at most.
const MANY_RANKS: usize = 8;

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<INDENT$}", self.name)?;
        match &self.found {
            Found::Equal { n, apart } => match self.demand {
                Demand::SameBits => write!(f, "ok      same bits ({n} compared)"),
                Demand::Within(most) => {
                    write!(f, "ok      within {most:e}: at most {apart:.1e} apart ({n} compared)")
                }
            },
            Found::Differs { n_differ, n, first, in_model, ranks } => {
                write!(f, "DIFFERS {n_differ} of {n}, first {first}")?;
                if ranks.len() > 1 {
                    let named: Vec<String> =
                        ranks.iter().take(MANY_RANKS).map(ToString::to_string).collect();
                    let more = if ranks.len() > MANY_RANKS { ", .." } else { "" };
                    let (n, named) = (ranks.len(), named.join(", "));
                    write!(f, " (on {n} ranks: {named}{more})")?;
                }
                match in_model {
                    Some(other) => {
                        write!(f, "\n{:INDENT$}        in the model's order first {other}", "")
                    }
                    None => Ok(()),
                }
            }
            Found::Failed { message } => write!(f, "FAILED  {message}"),
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.what, self.place)?;
        if !self.part.is_empty() {
            write!(f, ", which has {}", self.part)?;
        }
        write!(f, ": {:.1e} apart", self.size)?;
        if !self.index.is_empty() {
            write!(f, " at {:?}", self.index)?;
        }
        let Self { found, against, expected, n_differ, n, largest, .. } = self;
        if *n == 1 {
            return write!(f, ", {found} where {against} {expected}");
        }
        write!(f, ", {found:.6e} where {against} {expected:.6e}")?;
        write!(f, "; {n_differ} of {n} numbers differ, the largest is {largest:.1e}")
    }
}
