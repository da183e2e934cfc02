// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Learns how much prefetching is worth it.

use super::super::prefetch::{Ahead, Outcome};
use super::{Plan, Policy, View};

/// What is learnt of a function.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FunctionState {}

/// What is learnt of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BlockState {}

impl FunctionState {
    /// Nothing known.
    pub const NEW: Self = Self {};

    /// `count` prefetched pages of `block` ended so.
    pub fn observe(&mut self, block: &mut BlockState, outcome: Outcome, count: usize) {
        let _ = (block, outcome, count);
    }
}

impl BlockState {
    /// Nothing known.
    pub const NEW: Self = Self {};
}

/// Learns ([`super::Kind::Auto`]).
#[derive(Debug)]
pub struct Auto<'a> {
    /// Of the function.
    pub function: &'a mut FunctionState,
    /// Of the block.
    pub block: &'a mut BlockState,
}

impl Auto<'_> {
    /// What to bring of a neighbouring block.
    #[must_use]
    pub fn ahead(&self, view: &View<'_>) -> Option<Ahead> {
        let _ = view;
        None
    }
}

impl Policy for Auto<'_> {
    fn plan(&mut self, _view: &View<'_>) -> Plan {
        Plan::Default
    }
}
