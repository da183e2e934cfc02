// SPDX-License-Identifier: GPL-2.0

//! The upper levels of the page table of a space, as the device walks it. The leaves belong to the blocks.

use kernel::device::{Bound, Device};
use kernel::prelude::*;

use crate::sys::abi as hw;
use crate::sys::leaf::LeafAddress;
use crate::sys::ring::SharedArray;

/// Entries of the second level.
const GROUP: u64 = hw::VFETCH_PT_ENTRIES as u64;
/// Entries of the first level: for the largest space there can be.
const ROOT: usize =
    (hw::VFETCH_AS_MAX_PAGES as u64 / (GROUP * hw::VFETCH_PT_ENTRIES as u64)) as usize;

/// The table of a space, above its leaves.
///
/// It must be dropped before the device is unbound.
pub(crate) struct PageTable {
    root: SharedArray<u64>,
    groups: KVec<Option<SharedArray<hw::vfetch_pt_block>>>,
}

impl PageTable {
    /// One without any block. ENOMEM.
    pub(crate) fn new(device: &Device<Bound>) -> Result<Self> {
        let mut groups = KVec::with_capacity(ROOT, GFP_KERNEL)?;
        for _ in 0..ROOT {
            groups.push(None, GFP_KERNEL)?;
        }
        Ok(Self {
            root: SharedArray::new(device, ROOT)?,
            groups,
        })
    }

    /// Where the device finds it.
    pub(crate) fn root(&self) -> u64 {
        self.root.address(0)
    }

    /// Says where the leaf of block `index` is. ENOMEM; EFBIG when there cannot be such a block.
    pub(crate) fn set(&mut self, device: &Device<Bound>, index: u64, at: LeafAddress) -> Result {
        let group = usize::try_from(index / GROUP)?;
        let place = self.groups.get_mut(group).ok_or(EFBIG)?;
        let blocks = match place {
            Some(blocks) => blocks,
            None => place.insert(SharedArray::new(device, GROUP as usize)?),
        };
        let entry = hw::vfetch_pt_block {
            leaf: at.leaf | u64::from(hw::VFETCH_PT_VALID),
            marks: at.marks,
        };
        // CAST: below 512.
        blocks.write((index % GROUP) as usize, entry);
        self.root
            .write(group, blocks.address(0) | u64::from(hw::VFETCH_PT_VALID));
        Ok(())
    }

    /// There is no leaf of block `index` any more.
    pub(crate) fn clear(&mut self, index: u64) {
        let group = usize::try_from(index / GROUP).ok();
        let blocks = group.and_then(|group| self.groups.get(group));
        if let Some(Some(blocks)) = blocks {
            // CAST: below 512.
            blocks.write((index % GROUP) as usize, hw::vfetch_pt_block::default());
        }
    }
}
