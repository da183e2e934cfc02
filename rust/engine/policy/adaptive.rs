// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Thresholds that follow the link's traffic, or the use of memory.
//!
//! Both sample over a period that is a parameter, 1 s by default. Before the first sample the threshold that is set
//! holds.

use super::super::params::Micros;
use super::super::tree::Threshold;
use super::{Plan, Policy, View};

/// The threshold while the link carries `mb_per_s` million bytes a second: above 300 it is 75, above 100 it is 51,
/// else 30.
#[must_use]
pub const fn threshold_by_traffic(mb_per_s: u64) -> Threshold {
    Threshold::constant(if mb_per_s > 300 {
        75
    } else if mb_per_s > 100 {
        51
    } else {
        30
    })
}

/// The threshold while `percent` of memory is in use: above 90 it is 75, below 50 it is 25, else 51.
#[must_use]
pub const fn threshold_by_pressure(percent: u8) -> Threshold {
    Threshold::constant(if percent > 90 {
        75
    } else if percent < 50 {
        25
    } else {
        51
    })
}

/// Samples of a function's link and memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct State {
    /// When the period began, and what the link had carried then.
    began: Option<(u64, u64)>,
    /// Of the last whole period, in million bytes a second.
    mb_per_s: Option<u64>,
    /// At the last period's end, in percent.
    pressure: Option<u8>,
}

impl State {
    /// Nothing known.
    pub const NEW: Self = Self {
        began: None,
        mb_per_s: None,
        pressure: None,
    };

    /// Looks at the link, which has carried `bytes` so far, and at memory.
    pub fn observe(&mut self, now_ns: u64, period: Micros, bytes: u64, pressure: u8) {
        let Some((began_ns, before)) = self.began else {
            self.began = Some((now_ns, bytes));
            return;
        };
        let elapsed_ns = now_ns.saturating_sub(began_ns);
        if elapsed_ns < u64::from(period.get()).saturating_mul(1_000) {
            return;
        }
        // The period is not 0, so neither is what elapsed. A byte a nanosecond is 1000 MB/s.
        let moved = bytes.saturating_sub(before);
        self.mb_per_s = moved.saturating_mul(1_000).checked_div(elapsed_ns);
        self.pressure = Some(pressure);
        self.began = Some((now_ns, bytes));
    }

    /// The link's traffic in the last period, in million bytes a second.
    #[must_use]
    pub const fn mb_per_s(&self) -> Option<u64> {
        self.mb_per_s
    }
}

/// By the link's traffic ([`super::Kind::Traffic`]).
#[derive(Debug)]
pub struct Traffic<'a>(pub &'a State);

impl Policy for Traffic<'_> {
    fn plan(&mut self, _view: &View<'_>) -> Plan {
        self.0.mb_per_s.map_or(Plan::Default, |mb_per_s| {
            Plan::Threshold(threshold_by_traffic(mb_per_s))
        })
    }
}

/// By the use of memory ([`super::Kind::Pressure`]).
#[derive(Debug)]
pub struct Pressure<'a>(pub &'a State);

impl Policy for Pressure<'_> {
    fn plan(&mut self, _view: &View<'_>) -> Plan {
        self.0.pressure.map_or(Plan::Default, |percent| {
            Plan::Threshold(threshold_by_pressure(percent))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_change_above_and_below_the_marks() {
        let traffic = [0, 100, 101, 300, 301, u64::MAX].map(threshold_by_traffic);
        assert_eq!(traffic.map(Threshold::percent), [30, 30, 51, 51, 75, 75]);
        let pressure = [0, 49, 50, 90, 91, 100].map(threshold_by_pressure);
        assert_eq!(pressure.map(Threshold::percent), [25, 25, 51, 51, 75, 75]);
    }

    #[test]
    fn a_sample_is_of_a_whole_period() {
        let mut state = State::default();
        let period = Micros::clamped(1_000);
        state.observe(5_000_000, period, 1_000, 10);
        assert_eq!((state.mb_per_s, state.pressure), (None, None));
        state.observe(5_999_999, period, 400_000, 95);
        assert_eq!((state.mb_per_s, state.pressure), (None, None));
        // 201,000 bytes in 1 ms.
        state.observe(6_000_000, period, 202_000, 20);
        assert_eq!((state.mb_per_s, state.pressure), (Some(201), Some(20)));
        // The next one is not over yet.
        state.observe(6_500_000, period, 900_000, 99);
        assert_eq!((state.mb_per_s, state.pressure), (Some(201), Some(20)));
        state.observe(8_000_000, period, 202_000, 99);
        assert_eq!((state.mb_per_s, state.pressure), (Some(0), Some(99)));
    }

    #[test]
    fn time_that_runs_backwards_ends_no_period() {
        let mut state = State::default();
        state.observe(5_000_000, Micros::MIN, 1_000, 10);
        state.observe(0, Micros::MIN, 2_000, 10);
        assert_eq!(state.mb_per_s, None);
    }
}
