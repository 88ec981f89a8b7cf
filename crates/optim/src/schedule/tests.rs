use proptest::prelude::*;

use super::*;

fn config(schedule: Schedule, warmup_steps: u64, steps: u64) -> ScheduleConfig {
    ScheduleConfig {
        schedule,
        peak_lr: 1.0,
        min_lr: 0.1,
        warmup_steps,
        steps,
        ..ScheduleConfig::default()
    }
}

fn rates(config: ScheduleConfig, steps: &[u64]) -> Vec<f64> {
    let schedule = LrSchedule::new(config).unwrap();
    steps.iter().map(|&s| schedule.lr(s)).collect()
}

fn assert_close(got: &[f64], expected: &[f64]) {
    assert_eq!(got.len(), expected.len());
    for (g, e) in got.iter().zip(expected) {
        assert!((g - e).abs() < 1e-12, "{got:?} against {expected:?}");
    }
}

// The expected numbers below are worked out by hand from the definitions.

#[test]
fn cosine() {
    let got = rates(config(Schedule::Cosine, 4, 12), &[0, 1, 2, 3, 4, 6, 8, 10, 12, 13, u64::MAX]);
    let r = 0.5f64.sqrt();
    let quarter = 0.1 + 0.9 * (1.0 + r) / 2.0;
    let late = 0.1 + 0.9 * (1.0 - r) / 2.0;
    assert_close(&got, &[0.25, 0.5, 0.75, 1.0, 1.0, quarter, 0.55, late, 0.1, 0.1, 0.1]);
}

#[test]
fn linear() {
    let got = rates(config(Schedule::Linear, 2, 12), &[0, 1, 2, 7, 12, 99]);
    assert_close(&got, &[0.5, 1.0, 1.0, 0.55, 0.1, 0.1]);
}

#[test]
fn warmup_stable_decay() {
    // 20 steps of which the last 8 decay.
    let wsd = ScheduleConfig { decay_fraction: 0.4, ..config(Schedule::Wsd, 5, 20) };
    let got = rates(wsd, &[4, 5, 11, 12, 14, 20, 21]);
    assert_close(&got, &[1.0, 1.0, 1.0, 1.0, 0.1 + 0.9 * 0.5, 0.1, 0.1]);
    let straight = ScheduleConfig { decay_shape: DecayShape::Linear, ..wsd };
    assert_close(&rates(straight, &[12, 14, 16, 20]), &[1.0, 0.1 + 0.9 * 0.75, 0.55, 0.1]);
}

#[test]
fn constant_and_no_warmup() {
    assert_close(
        &rates(config(Schedule::Constant, 2, 10), &[0, 1, 5, 10, 1000]),
        &[0.5, 1.0, 1.0, 1.0, 1.0],
    );
    assert_close(&rates(config(Schedule::Cosine, 0, 1), &[0, 1]), &[1.0, 0.1]);
    // A run that is warmup from end to end.
    assert_close(&rates(config(Schedule::Linear, 2, 2), &[0, 1, 2]), &[0.5, 1.0, 0.1]);
}

#[test]
fn bad_numbers_are_refused() {
    let base = config(Schedule::Cosine, 10, 100);
    let wsd = ScheduleConfig { schedule: Schedule::Wsd, warmup_steps: 81, ..base };
    for (config, expected) in [
        (ScheduleConfig { peak_lr: 0.0, ..base }, "peak_lr is 0, expected a positive number"),
        (ScheduleConfig { peak_lr: f64::NAN, ..base }, "peak_lr is NaN"),
        (
            ScheduleConfig { min_lr: -1e-4, ..base },
            "min_lr is -0.0001, expected zero or a positive",
        ),
        (ScheduleConfig { min_lr: 2.0, ..base }, "min_lr 2 is above peak_lr 1"),
        (ScheduleConfig { steps: 0, ..base }, "steps is 0, expected at least 1"),
        (ScheduleConfig { warmup_steps: 101, ..base }, "warmup_steps 101 is more than steps 100"),
        (ScheduleConfig { decay_fraction: 1.5, ..base }, "decay_fraction is 1.5"),
        (ScheduleConfig { decay_fraction: f64::NAN, ..base }, "decay_fraction is NaN"),
        (wsd, "schedule wsd: warmup_steps 81 and 20 steps of decay do not fit into steps 100"),
    ] {
        let message = LrSchedule::new(config).unwrap_err().to_string();
        assert!(message.starts_with(expected) && message.contains("\nhelp: "), "{message}");
    }
}

#[test]
fn names_are_read_and_the_nearest_is_told() {
    for schedule in [Schedule::Cosine, Schedule::Linear, Schedule::Wsd, Schedule::Constant] {
        assert_eq!(schedule.to_string().parse(), Ok(schedule));
    }
    assert_eq!("1-sqrt".parse(), Ok(DecayShape::OneMinusSqrt));
    let message = |name: &str| name.parse::<Schedule>().unwrap_err().to_string();
    assert_eq!(
        message("Cosin"),
        "unknown schedule `Cosin`\nhelp: did you mean `cosine`? known names are cosine, linear, wsd, constant"
    );
    assert!(!message("polynomial").contains("did you mean"));
}

proptest! {
    #[test]
    fn bounded_joined_and_never_rising_after_the_warmup(
        which in 0usize..4, warmup in 0u64..200, rest in 1u64..2000, min in 0.0f64..=1.0,
        fraction in 0.01f64..=1.0, straight in any::<bool>(),
    ) {
        let schedule: Schedule = Schedule::NAMES[which].parse().unwrap();
        let steps = warmup + rest;
        let config = ScheduleConfig {
            schedule, peak_lr: 3e-4, min_lr: 3e-4 * min, warmup_steps: warmup, steps,
            decay_fraction: fraction,
            decay_shape: if straight { DecayShape::Linear } else { DecayShape::OneMinusSqrt },
        };
        let lr = match LrSchedule::new(config) {
            Err(OptimError::DecayTooLong { .. }) => return Ok(()),
            other => other.unwrap(),
        };
        let all: Vec<f64> = (0..steps + 5).map(|s| lr.lr(s)).collect();
        prop_assert!(all.iter().all(|&r| r > 0.0 || (min == 0.0 && r == 0.0)));
        prop_assert!(all.iter().all(|&r| r <= config.peak_lr));
        let (rise, fall) = all.split_at(warmup as usize);
        prop_assert!(rise.windows(2).all(|w| w[0] < w[1]));
        prop_assert!(fall.windows(2).all(|w| w[0] >= w[1]));
        prop_assert!(fall.iter().all(|&r| r >= config.min_lr));
        // Joints: the warmup ends at the peak, what follows starts there, the end is the minimum.
        if warmup > 0 {
            prop_assert_eq!(rise[rise.len() - 1], config.peak_lr);
        }
        prop_assert_eq!(fall[0], config.peak_lr);
        if schedule != Schedule::Constant {
            prop_assert!(fall[rest as usize..].iter().all(|&r| r == config.min_lr));
        }
        if matches!(schedule, Schedule::Cosine | Schedule::Linear) {
            let bound = (config.peak_lr - config.min_lr) * 1.6 / rest as f64;
            prop_assert!(fall.windows(2).all(|w| w[0] - w[1] <= bound * (1.0 + 1e-9)));
        }
    }
}
