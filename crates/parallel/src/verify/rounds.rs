//! Three times all ranks: the gradients of a step, a few updates, and the gradients once more from the start.

use caravan_collective::{RankFailed, threads};

use super::compare::Compared;
use super::part::Part;
use super::reference::Reference;
use super::report::{Check, Demand, Found, Report};
use super::{Case, held};
use crate::engine::{Engine, NotFinite};
use crate::mesh::Mesh;

/// The check of updates.
const UPDATES: &str = "updates";

/// Makes all checks; see [`super::run`].
pub(super) fn run(case: &Case, one: &Reference, each: &mut dyn FnMut(&Check)) -> Report {
    let mut report = Report::default();
    let mut goes_on = |round: Result<Vec<Check>, Check>| {
        let goes_on = round.is_ok();
        let checks = round.unwrap_or_else(|failed| vec![failed]);
        checks.iter().for_each(&mut *each);
        report.checks.extend(checks);
        goes_on
    };
    let mut gradients = Vec::new();
    if goes_on(first_round(case, one, &mut gradients)) && goes_on(updates(case, one)) {
        goes_on(again(case, &gradients));
    }
    report
}

/// What goes into every block and the head, the loss, and every gradient; leaves the ranks' gradients in `kept`.
fn first_round(
    case: &Case,
    one: &Reference,
    kept: &mut Vec<Vec<Part>>,
) -> Result<Vec<Check>, Check> {
    let ranks = on_ranks(case, "gradients", |mut engine| {
        let (sums, loss, stream) = case.watched(&mut engine);
        let activations = held::activations(case, one, &engine, &stream);
        let loss = held::loss(case, &engine, loss, one.loss);
        let parts = engine.gradient_parts(&sums);
        let gradients = held::parameters(case, &engine, &parts, &one.gradients, 0.0);
        (activations, loss, (parts, gradients), engine.ring_work())
    })?;
    let (mut streams, mut losses, mut gradients, mut work) = (vec![], vec![], vec![], vec![]);
    for (activations, loss, (parts, compared), multiply_adds) in ranks {
        streams.extend(activations);
        losses.extend(loss);
        gradients.extend(compared);
        kept.push(parts);
        work.push(multiply_adds);
    }
    gradients.extend(held::missing(kept, &one.gradients));
    let demand = case.demand();
    let mut checks = vec![
        check("activations", demand, &streams, Order::Forward),
        check("loss", demand, &losses, Order::Forward),
        check("gradients", demand, &gradients, Order::Backward),
    ];
    if case.layout.context > 1 {
        let compared = held::balance(case, &work);
        checks.push(check("balance of the ring", Demand::SameBits, &compared, Order::Forward));
    }
    Ok(checks)
}

/// A few updates: loss, norm and parameters of each.
fn updates(case: &Case, one: &Reference) -> Result<Vec<Check>, Check> {
    let failed = |on: &str, found: &NotFinite| {
        let message = format!("on {on} {} is not finite: {}", found.what, found.value);
        Check { name: UPDATES, demand: case.demand(), found: Found::Failed { message } }
    };
    let expected = one.updates.as_ref().map_err(|found| failed("one rank", found))?;
    let ranks = on_ranks(case, UPDATES, |mut engine| {
        let (mut i, mut parts) = (0, Vec::new());
        let compared = case.updates(&mut engine, one.grad_clip, &mut |engine, outcome| {
            parts = engine.weight_parts();
            i += 1;
            held::update(case, engine, i - 1, (outcome, &parts), &expected[i - 1])
        })?;
        Ok((compared.concat(), parts))
    })?;
    let (mut compared, mut weights) = (Vec::new(), Vec::new());
    for (rank, outcome) in ranks.into_iter().enumerate() {
        let outcome: Result<_, NotFinite> = outcome;
        let (of_rank, parts) = outcome.map_err(|found| failed(&case.name_of(rank), &found))?;
        compared.extend(of_rank);
        weights.push(parts);
    }
    if let Some((_, parameters)) = expected.last() {
        compared.extend(held::missing(&weights, parameters));
    }
    Ok(vec![check(UPDATES, case.demand(), &compared, Order::Forward)])
}

/// The first gradients again, from the start: what depends on timing differs from run to run.
fn again(case: &Case, before: &[Vec<Part>]) -> Result<Vec<Check>, Check> {
    let demand = if case.repeatable { Demand::SameBits } else { case.demand() };
    let ranks = on_ranks(case, "gradients once more", |mut engine| {
        let (sums, ..) = case.watched(&mut engine);
        held::again(case, &engine, demand, &engine.gradient_parts(&sums), &before[engine.rank()])
    })?;
    Ok(vec![check("gradients once more", demand, &ranks.concat(), Order::Backward)])
}

/// Runs `body` on every rank of the layout, each a thread.
fn on_ranks<T: Send>(
    case: &Case,
    name: &'static str,
    body: impl Fn(Engine) -> T + Sync,
) -> Result<Vec<T>, Check> {
    let ranks = threads::run(case.layout.world(), |world| {
        let mesh = Mesh::new(world.checked(), &case.layout).expect("a rank for every place");
        body(case.engine(case.layout, mesh).expect("the layout was checked"))
    });
    ranks.map_err(|RankFailed { rank, message }| {
        let found = Found::Failed { message: format!("{}: {message}", case.name_of(rank)) };
        Check { name, demand: case.demand(), found }
    })
}

/// In which order the work is done that a check looks at.
#[derive(Clone, Copy)]
enum Order {
    /// The model's.
    Forward,
    /// The other way round.
    Backward,
}

/// One check out of what all ranks compared.
fn check(name: &'static str, demand: Demand, compared: &[Compared], order: Order) -> Check {
    let mut orders: Vec<usize> = compared.iter().map(|c| c.order).collect();
    orders.sort_unstable();
    orders.dedup();
    let n = orders.len();
    let apart = compared.iter().map(|c| c.apart).fold(0.0, f64::max);
    let differs =
        |order: usize| compared.iter().any(|c| c.order == order && c.difference.is_some());
    orders.retain(|order| differs(*order));
    let (Some(front), Some(back)) = (orders.first(), orders.last()) else {
        return Check { name, demand, found: Found::Equal { n, apart } };
    };
    // Of several ranks the one that is furthest off, or the first of them.
    let worst = |order: usize| {
        let all =
            compared.iter().filter(|c| c.order == order).filter_map(|c| c.difference.as_ref());
        let worst = all.reduce(|a, b| if b.size > a.size { b } else { a });
        Box::new(worst.expect("it differs").clone())
    };
    let (first, in_model) = match order {
        Order::Forward => (*front, None),
        Order::Backward => (*back, (front != back).then(|| worst(*front))),
    };
    let mut ranks: Vec<usize> = compared
        .iter()
        .filter(|c| c.order == first)
        .filter_map(|c| c.difference.as_ref().map(|d| d.rank))
        .collect();
    ranks.sort_unstable();
    ranks.dedup();
    let first = worst(first);
    let found = Found::Differs { n_differ: orders.len(), n, first, in_model, ranks };
    Check { name, demand, found }
}

#[cfg(test)]
mod tests {
    use super::super::compare::Whereabouts;
    use super::*;

    fn compared(order: usize, rank: usize, demand: Demand, found: &[f32]) -> Compared {
        let place = format!("rank {rank} (data {rank})");
        let (what, part) = (format!("p{order}"), String::new());
        let at =
            Whereabouts { order, what, rank, place, part, largest: 4.0, against: "one rank has" };
        at.compare(demand, found, &[1.0, -4.0], |at| vec![at])
    }

    fn named(compared: &[Compared], order: Order) -> String {
        check("gradients", Demand::SameBits, compared, order).place()
    }

    #[test]
    fn the_first_in_the_order_of_the_work_is_named_with_the_rank_that_is_furthest_off() {
        let of = |order, rank, found: &[f32]| compared(order, rank, Demand::SameBits, found);
        let all = vec![
            of(0, 0, &[1.0, -4.0]),
            of(1, 0, &[1.5, -4.0]),
            of(1, 1, &[1.0, -6.0]),
            of(2, 0, &[1.0, -4.5]),
            of(2, 1, &[1.0, -4.0]),
            of(3, 1, &[1.0, -4.0]),
        ];
        assert_eq!(named(&all, Order::Forward), "gradients: p1 on rank 1 (data 1)");
        assert_eq!(named(&all, Order::Backward), "gradients: p2 on rank 0 (data 0)");
        let text = check("gradients", Demand::SameBits, &all, Order::Backward).to_string();
        assert!(text.contains("DIFFERS 2 of 4, first p2 on rank 0"), "{text}");
        assert!(
            text.contains("5.0e-1 apart at [1], -4.500000e0 where one rank has -4.000000e0"),
            "{text}"
        );
        assert!(text.contains("in the model's order first p1 on rank 1"), "{text}");
    }

    #[test]
    fn bits_and_bounds_are_told_apart() {
        let differs = |demand, found: &[f32]| compared(0, 0, demand, found).difference.is_some();
        let next = f32::from_bits(1.0f32.to_bits() + 1);
        assert!(differs(Demand::SameBits, &[next, -4.0]));
        assert!(!differs(Demand::Within(1e-5), &[next, -4.0]));
        // Of the largest, not of each.
        assert!(!differs(Demand::Within(1e-5), &[1.000_03, -4.0]));
        assert!(differs(Demand::Within(1e-5), &[1.000_05, -4.0]));
        for odd in [f32::NAN, f32::INFINITY] {
            assert!(differs(Demand::Within(1e-5), &[odd, -4.0]));
            assert!(differs(Demand::SameBits, &[odd, -4.0]));
        }
    }
}
