//! Counters, in the text form of Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// What has happened since the start.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Answers by route and status.
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    pub(crate) prompt_tokens: AtomicU64,
    pub(crate) new_tokens: AtomicU64,
    pub(crate) cancelled: AtomicU64,
    pub(crate) steps: AtomicU64,
    pub(crate) step_micros: AtomicU64,
    pub(crate) running: AtomicUsize,
    /// Choices that wait for a slot.
    pub(crate) waiting: AtomicUsize,
    /// Choices that were taken and are not over, wherever they are.
    pub(crate) held: AtomicUsize,
}

impl Metrics {
    pub(crate) fn answered(&self, route: &'static str, status: u16) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((route, status)).or_default() += 1;
    }

    /// # Reference
    /// `prometheus.io/docs/instrumenting/exposition_formats`, version 0.0.4.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        let header = |out: &mut String, name: &str, kind: &str, help: &str| {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        };
        header(&mut out, "caravan_http_requests_total", "counter", "Answers by route and status.");
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for ((route, status), n) in requests {
            let _ = writeln!(
                out,
                "caravan_http_requests_total{{route=\"{route}\",status=\"{status}\"}} {n}"
            );
        }
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        for (name, help, value) in [
            ("caravan_prompt_tokens_total", "Tokens of prompts.", of(&self.prompt_tokens)),
            ("caravan_generated_tokens_total", "Tokens written.", of(&self.new_tokens)),
            ("caravan_cancelled_total", "Choices whose client left.", of(&self.cancelled)),
        ] {
            header(&mut out, name, "counter", help);
            let _ = writeln!(out, "{name} {value}");
        }
        header(&mut out, "caravan_step_seconds", "summary", "Passes over the model.");
        let secs = of(&self.step_micros) as f64 / 1e6;
        let _ = writeln!(
            out,
            "caravan_step_seconds_sum {secs}\ncaravan_step_seconds_count {}",
            of(&self.steps)
        );
        for (name, help, value) in [
            ("caravan_running", "Choices that are written now.", &self.running),
            ("caravan_waiting", "Choices that wait for a slot.", &self.waiting),
        ] {
            header(&mut out, name, "gauge", help);
            let _ = writeln!(out, "{name} {}", value.load(Ordering::Relaxed));
        }
        out
    }
}
