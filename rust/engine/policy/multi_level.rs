// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Nodes of three sizes with thresholds of their own.
//!
//! Of each fault the largest of its 64-, 16- and 4-page nodes that is over 90, 60 or 30 percent; nothing if none is.

use super::super::tree::Threshold;
use super::{Plan, Policy, View};

/// Heights of nodes, and what their occupancy must exceed.
pub const LEVELS: [(u32, Threshold); 3] = [
    (6, Threshold::constant(90)),
    (4, Threshold::constant(60)),
    (2, Threshold::constant(30)),
];

/// By three thresholds ([`super::Kind::MultiLevel`]).
#[derive(Clone, Copy, Debug)]
pub struct MultiLevel;

impl Policy for MultiLevel {
    fn plan(&mut self, view: &View<'_>) -> Plan {
        // The largest one holds the others, so all are as good.
        let pages = LEVELS
            .into_iter()
            .map(|(height, threshold)| view.tree.nodes_over(height, threshold))
            .fold(super::PageMask::EMPTY, |pages, nodes| pages.or(&nodes));
        Plan::Pages(pages)
    }
}
