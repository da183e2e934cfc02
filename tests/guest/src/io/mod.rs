// SPDX-License-Identifier: GPL-2.0

//! Spaces: reading, writing, sizes, errors.

use crate::tap::Group;

/// The groups of this part.
pub fn groups() -> Vec<Group> {
    vec![]
}
