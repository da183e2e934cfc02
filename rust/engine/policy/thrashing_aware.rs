// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The native decision, but nothing where the region would hold a thrashing page.

use super::super::tree::Threshold;
use super::{Plan, Policy, View};

/// Conservative about thrashing ([`super::Kind::ThrashingAware`]).
#[derive(Clone, Copy, Debug)]
pub struct ThrashingAware;

impl Policy for ThrashingAware {
    fn plan(&mut self, view: &View<'_>) -> Plan {
        let threshold: Threshold = view.params.threshold;
        if view.batch.thrashing.is_empty() {
            Plan::Default
        } else {
            Plan::Pages(view.tree.largest_without(threshold, view.batch.thrashing))
        }
    }
}
