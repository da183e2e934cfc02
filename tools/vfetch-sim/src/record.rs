// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Arrays whose accesses are recorded: the workloads compute on them.

use std::ops::Range;

use crate::trace::{BuildError, Builder, Side, Trace, PAGE_BYTES};

/// Arrays begin at multiples of this in the space.
const ALIGNMENT: u64 = 64 << 10;

/// Records what a workload does to its space.
#[derive(Debug)]
pub(crate) struct Recorder {
    builder: Builder,
    /// The space's size so far, in bytes.
    bytes: u64,
}

impl Recorder {
    /// With accesses joined within `window` touches.
    pub(crate) fn new(window: usize) -> Self {
        Self {
            builder: Builder::new(window),
            bytes: 0,
        }
    }

    /// Puts `data` into the space, behind what is there. That is not recorded: it is there before the run.
    pub(crate) fn array<T>(&mut self, data: Vec<T>) -> Array<T> {
        let base = self.bytes.next_multiple_of(ALIGNMENT);
        self.bytes = base + (data.len() * size_of::<T>()) as u64;
        Array { base, data }
    }

    /// The next access begins an item of the device.
    pub(crate) fn item(&mut self) {
        self.builder.next_item(Side::Device);
    }

    /// The next item of the device begins when all before it have ended.
    pub(crate) fn barrier(&mut self) {
        self.builder.next_item(Side::Device);
        self.builder.barrier();
    }

    /// What follows is done by the host, after all before it and before all behind the next barrier.
    pub(crate) fn host(&mut self) {
        self.builder.next_item(Side::Host);
        self.builder.barrier();
    }

    /// The trace.
    ///
    /// # Errors
    ///
    /// When it is larger than a trace may be.
    pub(crate) fn finish(self, name: String) -> Result<Trace, BuildError> {
        let pages = self.bytes.div_ceil(PAGE_BYTES).max(1);
        self.builder.finish(name, pages)
    }

    #[inline]
    fn touch(&mut self, address: u64, count: u32, write: bool) {
        // Beyond the largest space the builder remembers that, and nothing else.
        let page = u32::try_from(address / PAGE_BYTES).unwrap_or(u32::MAX);
        self.builder.access(page, count, write);
    }

    /// `count` accesses to neighbours of `size` bytes each.
    fn touch_run(&mut self, address: u64, size: u64, count: usize, write: bool) {
        let mut at = address;
        let end = address + count as u64 * size;
        while at < end {
            let next = (at / PAGE_BYTES + 1) * PAGE_BYTES;
            let here = (next.min(end) - at).div_ceil(size);
            self.touch(at, here as u32, write);
            at += here * size;
        }
    }
}

/// Data in the space.
#[derive(Debug)]
pub(crate) struct Array<T> {
    base: u64,
    data: Vec<T>,
}

impl<T: Copy> Array<T> {
    /// Element `i`, read.
    #[inline]
    pub(crate) fn get(&self, r: &mut Recorder, i: usize) -> T {
        r.touch(self.base + (i * size_of::<T>()) as u64, 1, false);
        self.data[i]
    }

    /// Element `i`, written.
    #[inline]
    pub(crate) fn set(&mut self, r: &mut Recorder, i: usize, value: T) {
        r.touch(self.base + (i * size_of::<T>()) as u64, 1, true);
        self.data[i] = value;
    }

    /// Neighbouring elements, each read once.
    #[inline]
    pub(crate) fn run(&self, r: &mut Recorder, range: Range<usize>) -> &[T] {
        let size = size_of::<T>();
        r.touch_run(
            self.base + (range.start * size) as u64,
            size as u64,
            range.len(),
            false,
        );
        &self.data[range]
    }

    /// Neighbouring elements, each written once.
    #[inline]
    pub(crate) fn run_mut(&mut self, r: &mut Recorder, range: Range<usize>) -> &mut [T] {
        let size = size_of::<T>();
        r.touch_run(
            self.base + (range.start * size) as u64,
            size as u64,
            range.len(),
            true,
        );
        &mut self.data[range]
    }

    /// Number of elements.
    pub(crate) fn len(&self) -> usize {
        self.data.len()
    }

    /// The data, without recording that it is looked at.
    #[cfg(test)]
    pub(crate) fn data(&self) -> &[T] {
        &self.data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_land_on_the_pages_of_their_elements() {
        let mut r = Recorder::new(1);
        let a = r.array(vec![0_u64; 1000]); // two pages
        let mut b = r.array(vec![0_u32; 10]); // page 16
        r.item();
        assert_eq!(a.run(&mut r, 510..514).len(), 4);
        b.set(&mut r, 3, 7);
        r.host();
        assert_eq!(b.get(&mut r, 3), 7);
        r.barrier();
        a.get(&mut r, 0);
        r.item();
        a.get(&mut r, 999);
        let t = r.finish("t".into()).unwrap();
        let seen: Vec<_> = t.touches.iter().map(|t| (t.page, t.accesses())).collect();
        assert_eq!(seen, [(0, 2), (1, 2), (16, 1), (16, 1), (0, 1), (1, 1)]);
        let items: Vec<_> = t.items.iter().map(|i| (i.end, i.barrier, i.side)).collect();
        assert_eq!(
            items,
            [
                (3, false, Side::Device),
                (4, true, Side::Host),
                (5, true, Side::Device),
                (6, false, Side::Device)
            ]
        );
        assert_eq!(t.pages, 17);
    }
}
