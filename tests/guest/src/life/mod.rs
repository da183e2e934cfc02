// SPDX-License-Identifier: GPL-2.0

//! Functions: VFs up and down, resets, faults of the device, removal, reloading the module.

use crate::tap::Group;

/// The groups of this part.
pub fn groups() -> Vec<Group> {
    vec![]
}
