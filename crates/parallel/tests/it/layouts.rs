//! Every strategy equals one rank: the table of layouts, over threads.

use crate::table::{Case, close_cases, compare, exact_cases, fast_cases, one_rank};

/// Updates after which the parameters are compared.
const STEPS: usize = 20;

fn assert_equal(case: &Case) {
    match compare(case, &one_rank(case, STEPS)) {
        Ok(apart) => println!("{}: {apart}", case.layout.describe()),
        Err(what) => panic!("{case:?}: {what}"),
    }
}

#[test]
fn exact_layouts_have_the_bits_of_one_rank() {
    let cases = exact_cases();
    assert!(cases.iter().all(Case::is_exact));
    cases.iter().for_each(assert_equal);
}

#[test]
fn other_layouts_are_within_rounding_of_one_rank() {
    close_cases().iter().for_each(assert_equal);
}

#[test]
fn the_fast_reduction_is_close() {
    fast_cases().iter().for_each(assert_equal);
}
