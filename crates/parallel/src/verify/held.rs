//! What a rank holds against what one rank has, number by number.

use super::Case;
use super::compare::{Compared, Whereabouts, largest};
use super::part::{Part, covered, unravel};
use super::reference::{Reference, Stream};
use super::report::{Demand, Difference};
use crate::collect::Values;
use crate::engine::{Engine, StepOutcome};
use crate::executor::Segment;
use crate::loss::LossSum;
use crate::mesh::Place;

/// What a number is held against, in most checks.
const ONE_RANK: &str = "one rank has";

impl Case {
    /// `rank 3 (pipeline 1, data 0)`: the axes that the layout has.
    pub(super) fn name_of(&self, rank: usize) -> String {
        let (place, layout) = (Place::of(rank, &self.layout), &self.layout);
        let axes = [
            ("pipeline", place.pipeline, layout.pipeline),
            ("data", place.data, layout.data),
            ("shard", place.shard, layout.shard),
            ("context", place.context, layout.context),
            ("tensor", place.tensor, layout.tensor),
        ];
        let on_axis =
            |(axis, index, n): (&str, usize, usize)| (n > 1).then(|| format!("{axis} {index}"));
        let axes: Vec<String> = axes.into_iter().filter_map(on_axis).collect();
        format!("rank {rank} ({})", axes.join(", "))
    }

    /// Whereabouts of something that a rank has all of.
    fn at(&self, rank: usize, order: usize, what: String) -> Whereabouts {
        let (place, part) = (self.name_of(rank), String::new());
        Whereabouts { order, what, rank, place, part, largest: 0.0, against: ONE_RANK }
    }
}

impl Engine {
    /// This rank in the world.
    pub(super) fn rank(&self) -> usize {
        self.mesh.world.rank()
    }
}

/// The residual stream after every segment, at this rank's positions.
pub(super) fn activations(
    case: &Case,
    one: &Reference,
    engine: &Engine,
    stream: &Stream,
) -> Vec<Compared> {
    let (positions, d) = (case.positions(engine.place()), case.model.d_model);
    let compare = |((micro, segment), values): (&(u64, Segment), &Vec<f32>)| {
        let whole = &one.stream[&(*micro, *segment)];
        let rows = whole.chunks_exact(case.seq_len * d);
        let expected: Vec<f32> = rows
            .flat_map(|row| positions.iter().flat_map(|position| &row[position * d..][..d]))
            .copied()
            .collect();
        // The stream was seen on its way into the segment after.
        let (order, from) = match segment {
            Segment::Block(0) => (0, "embed".to_owned()),
            Segment::Block(index) => (*index, format!("blocks.{}", index - 1)),
            _ => (case.model.n_layers, format!("blocks.{}", case.model.n_layers - 1)),
        };
        let order = order * case.n_micro_batches + *micro as usize;
        let what = format!("the output of {from} for micro-batch {micro}");
        let mut at = case.at(engine.rank(), order, what);
        at.largest = largest(whole);
        if positions.len() < case.seq_len {
            at.part = format!("positions {positions:?}");
        }
        at.compare(case.demand(), values, &expected, |at| {
            let index = unravel(at, &[case.micro_batch, positions.len(), d]);
            vec![index[0], positions[index[1]], index[2]]
        })
    };
    stream.iter().map(compare).collect()
}

/// The loss of the first step.
pub(super) fn loss(case: &Case, engine: &Engine, many: LossSum, one: LossSum) -> Vec<Compared> {
    let tokens = case.at(engine.rank(), 0, "the number of tokens".to_owned());
    let loss = case.at(engine.rank(), 1, "the loss".to_owned());
    vec![
        tokens.compare_one(Demand::SameBits, many.tokens as f64, one.tokens as f64),
        loss.compare_one(case.demand(), many.nats, one.nats),
    ]
}

/// What update `i` gave, and the parameters after it.
pub(super) fn update(
    case: &Case,
    engine: &Engine,
    i: usize,
    many: (StepOutcome, &[Part]),
    one: &(StepOutcome, Vec<Values>),
) -> Vec<Compared> {
    let (outcome, parts) = many;
    let first = i * (one.1.len() + 2);
    let number = |order, what: &str, many, one| {
        let at = case.at(engine.rank(), first + order, format!("{what} of update {}", i + 1));
        at.compare_one(case.demand(), many, one)
    };
    let mut compared = vec![
        number(0, "the loss", outcome.loss.nats, one.0.loss.nats),
        number(1, "the norm", outcome.grad_norm, one.0.grad_norm),
    ];
    let after = format!(" after update {}", i + 1);
    // A bias begins at zero: after an update it is that update, in which AdamW divides a gradient's rounding by its own root. It
    // is held to the size that weights begin with.
    let least = case.model.init_std;
    compared.extend(parameters(case, engine, parts, &one.1, least).into_iter().map(
        |mut compared| {
            compared.order += first + 2;
            compared.difference.iter_mut().for_each(|d| d.what.push_str(&after));
            compared
        },
    ));
    compared
}

/// Parameters or their gradients, `whole` in visit order; where rounding is allowed, it is that of numbers of at least the
/// size `least`.
pub(super) fn parameters(
    case: &Case,
    engine: &Engine,
    parts: &[Part],
    whole: &[Values],
    least: f64,
) -> Vec<Compared> {
    let compare = |part: &Part| {
        let order = whole.iter().position(|values| values.path == part.path);
        let order = order.expect("one rank has every parameter");
        let mut at = case.at(engine.rank(), order, part.path.clone());
        (at.largest, at.part) = (largest(&whole[order].values).max(least), part.describe());
        let expected = part.of_whole(&whole[order].values);
        at.compare(case.demand(), &part.values, &expected, |at| part.index(at))
    };
    parts.iter().map(compare).collect()
}

/// The parts of a second run against those of the first, on the same rank.
pub(super) fn again(
    case: &Case,
    engine: &Engine,
    demand: Demand,
    parts: &[Part],
    before: &[Part],
) -> Vec<Compared> {
    let order = |path: &str| case.model.parameters().iter().position(|info| info.path == path);
    let compare = |(part, before): (&Part, &Part)| {
        let order = order(&part.path).expect("a parameter of the model");
        let mut at = case.at(engine.rank(), order, part.path.clone());
        (at.largest, at.part) = (largest(&before.values), part.describe());
        at.against = "the first time it had";
        at.compare(demand, &part.values, &before.values, |at| part.index(at))
    };
    parts.iter().zip(before).map(compare).collect()
}

/// Elements of `whole` that no rank has: nobody compared them.
pub(super) fn missing(of_ranks: &[Vec<Part>], whole: &[Values]) -> Vec<Compared> {
    let missing = |(order, values): (usize, &Values)| {
        let parts = of_ranks.iter().flatten().filter(|part| part.path == values.path);
        let has = covered(values.values.len(), parts);
        let at = has.iter().position(|has| !has)?;
        let difference = Difference {
            what: values.path.clone(),
            rank: 0,
            place: "no rank".to_owned(),
            part: String::new(),
            index: unravel(at, &values.shape),
            found: f64::NAN,
            expected: f64::from(values.values[at]),
            against: ONE_RANK,
            size: f64::INFINITY,
            largest: largest(&values.values),
            n_differ: has.iter().filter(|has| !**has).count(),
            n: has.len(),
        };
        Some(Compared { order, apart: f64::INFINITY, difference: Some(difference) })
    };
    whole.iter().enumerate().filter_map(missing).collect()
}

/// Multiply-adds of the ranks that share a sequence: at every ring step those of the first of them, and some.
pub(super) fn balance(case: &Case, work: &[Vec<u64>]) -> Vec<Compared> {
    let first = |rank: usize| {
        let place = Place::of(rank, &case.layout);
        let shares = |other: &usize| {
            Place { context: place.context, ..Place::of(*other, &case.layout) } == place
        };
        (0..work.len()).find(shares).expect("a rank shares with itself")
    };
    let mut compared = Vec::new();
    for (rank, steps) in work.iter().enumerate() {
        for (step, n) in steps.iter().enumerate() {
            let what = format!("the number of multiply-adds of ring step {step}");
            let mut at = case.at(rank, step, what);
            at.against = "the first rank of its ring has";
            // A ring that stands still is no balance.
            let expected = work[first(rank)][step].max(1);
            compared.push(at.compare_one(Demand::SameBits, *n as f64, expected as f64));
        }
    }
    compared
}
