// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Nothing, everything, and the tree as it is: the policies that others are measured by.

use super::super::mask::PageMask;
use super::{Plan, Policy, View};

/// No page ([`super::Kind::None`]).
#[derive(Clone, Copy, Debug)]
pub struct None;

impl Policy for None {
    fn plan(&mut self, _view: &View<'_>) -> Plan {
        Plan::Pages(PageMask::EMPTY)
    }
}

/// All of the max region, unless every faulted page is thrashing ([`super::Kind::AlwaysMax`]).
#[derive(Clone, Copy, Debug)]
pub struct AlwaysMax;

impl Policy for AlwaysMax {
    fn plan(&mut self, view: &View<'_>) -> Plan {
        if view.calm().is_empty() {
            Plan::Pages(PageMask::EMPTY)
        } else {
            Plan::Pages(view.tree.max_region().into())
        }
    }
}

/// The native decision with the threshold that is set ([`super::Kind::Fixed`]).
#[derive(Clone, Copy, Debug)]
pub struct Fixed;

impl Policy for Fixed {
    fn plan(&mut self, _view: &View<'_>) -> Plan {
        Plan::Default
    }
}
