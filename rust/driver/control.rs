// SPDX-License-Identifier: GPL-2.0

//! What user space sets and asks of a space and of its function: limits, policy, residency.

use core::ops::Range;

use kernel::prelude::*;
use kernel::sync::atomic::Relaxed;
use kernel::sync::Arc;

use super::evict::Room;
use super::space::{region_of, Space, PAGE};
use crate::engine::mask::PAGES;
use crate::engine::owner::Page;
use crate::engine::params::{Bounded, Params};
use crate::engine::policy::Kind;
use crate::engine::prefetch::{Location, Source};
use crate::engine::tree::{Mode, Threshold, Walk};
use crate::sys::abi::{
    self as hw, vfetch_limits, vfetch_policy, vfetch_policy_stats, vfetch_residency,
};
use crate::sys::ioctl::UserBytes;

const _: () = assert!(Kind::ALL.len() == hw::VFETCH_POLICIES as usize);
const _: () = assert!(Kind::Auto as u32 == hw::VFETCH_POLICY_AUTO);

/// A value as user space gives it. EINVAL out of range.
fn bounded<const LOW: u32, const HIGH: u32>(value: u32) -> Result<Bounded<LOW, HIGH>> {
    Bounded::new(value).ok_or(EINVAL)
}

fn flag(value: u32) -> Result<bool> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(EINVAL),
    }
}

/// The policy that user space calls `number`.
fn kind(number: u32) -> Result<Kind> {
    let at = usize::try_from(number)?;
    Kind::ALL.get(at).copied().ok_or(EINVAL)
}

impl Space {
    // ---- Limits ---------------------------------------------------------------------------------

    fn room_of(&self, scope: u32) -> Result<&Room> {
        match scope {
            hw::VFETCH_SCOPE_SPACE => Ok(&self.room),
            hw::VFETCH_SCOPE_FUNCTION => Ok(&self.function.room),
            _ => Err(EINVAL),
        }
    }

    /// See `VFETCH_IOC_GET_LIMITS`.
    pub(crate) fn limits(&self, scope: u32) -> Result<vfetch_limits> {
        let room = self.room_of(scope)?;
        Ok(vfetch_limits {
            flags: 0,
            scope,
            host_bytes: room.host_limit.load(Relaxed) * PAGE,
            device_bytes: room.device_limit.load(Relaxed) * PAGE,
            host_used_bytes: room.host.load(Relaxed) * PAGE,
            device_used_bytes: room.device.load(Relaxed) * PAGE,
        })
    }

    /// See `VFETCH_IOC_SET_LIMITS`.
    pub(crate) fn set_limits(&self, limits: &vfetch_limits) -> Result<vfetch_limits> {
        let room = self.room_of(limits.scope)?;
        let least = u64::from(hw::VFETCH_LIMIT_MIN_BYTES);
        for bytes in [limits.host_bytes, limits.device_bytes] {
            if bytes % PAGE != 0 || bytes < least {
                return Err(EINVAL);
            }
        }
        let frames = self.function.description.mem_bytes / PAGE;
        room.host_limit.store(limits.host_bytes / PAGE, Relaxed);
        room.device_limit
            .store((limits.device_bytes / PAGE).min(frames), Relaxed);
        self.fit();
        self.limits(limits.scope)
    }

    // ---- Policy ---------------------------------------------------------------------------------

    /// See `VFETCH_IOC_GET_POLICY`.
    pub(crate) fn policy(&self) -> vfetch_policy {
        let params = self.function.prefetcher.lock().params;
        vfetch_policy {
            flags: 0,
            enabled: params.enabled.into(),
            policy: params.policy as u32,
            threshold: params.threshold.percent().into(),
            min_faults: params.min_faults.get(),
            compat: (params.mode == Mode::Compat).into(),
            ats: (params.walk == Walk::Ats).into(),
            sample_period_us: params.sample_period_us.get(),
            stride_degree: params.stride_degree.get(),
            aggressiveness: params.aggressiveness.get(),
            neighbours: params.neighbours.get(),
            horizon_us: params.horizon_us.get(),
        }
    }

    /// See `VFETCH_IOC_SET_POLICY`.
    pub(crate) fn set_policy(&self, asked: &vfetch_policy) -> Result {
        let threshold = u8::try_from(asked.threshold).map_err(|_| EINVAL)?;
        if threshold == 0 {
            return Err(EINVAL);
        }
        let params = Params {
            enabled: flag(asked.enabled)?,
            policy: kind(asked.policy)?,
            mode: if flag(asked.compat)? {
                Mode::Compat
            } else {
                Mode::Strict
            },
            walk: if flag(asked.ats)? {
                Walk::Ats
            } else {
                Walk::Managed
            },
            threshold: Threshold::new(threshold).ok_or(EINVAL)?,
            min_faults: bounded(asked.min_faults)?,
            sample_period_us: bounded(asked.sample_period_us)?,
            stride_degree: bounded(asked.stride_degree)?,
            aggressiveness: bounded(asked.aggressiveness)?,
            neighbours: bounded(asked.neighbours)?,
            horizon_us: bounded(asked.horizon_us)?,
            ..self.function.prefetcher.lock().params
        };
        self.function.prefetcher.lock().params = params;
        Ok(())
    }

    /// See `VFETCH_IOC_POLICY_STATS`.
    pub(crate) fn policy_stats(&self, policy: u32) -> Result<vfetch_policy_stats> {
        let prefetcher = self.function.prefetcher.lock();
        let counters = match policy {
            hw::VFETCH_POLICY_ALL => prefetcher.state.all_counters(),
            policy => prefetcher.state.counters(Source::Native(kind(policy)?)),
        };
        Ok(vfetch_policy_stats {
            flags: 0,
            policy,
            decisions: counters.decisions,
            hints: counters.hints,
            withheld: counters.withheld,
            invalid: counters.invalid,
            prefetched_pages: counters.prefetched,
            used_pages: counters.used,
            late_pages: counters.late,
            unused_pages: counters.evicted_unused,
            dropped_pages: counters.dropped,
        })
    }

    // ---- Residency ------------------------------------------------------------------------------

    /// See `VFETCH_IOC_RESIDENCY`.
    pub(crate) fn residency(self: &Arc<Self>, asked: &mut vfetch_residency) -> Result {
        if asked.offset % PAGE != 0 || asked.bytes % PAGE != 0 {
            return Err(EINVAL);
        }
        let end = asked.offset.checked_add(asked.bytes).ok_or(ERANGE)?;
        if end > self.bytes() {
            return Err(ERANGE);
        }
        let pages: Range<u64> = asked.offset / PAGE..end / PAGE;
        let count = usize::try_from(pages.end - pages.start)?;
        let mut to = match asked.pages {
            0 => None,
            address => Some(UserBytes::new(address, count)?),
        };
        for set in [
            &mut asked.none,
            &mut asked.host,
            &mut asked.device,
            &mut asked.moving,
            &mut asked.lost,
        ] {
            *set = 0;
        }
        let mut at = pages.start;
        while at < pages.end {
            if crate::sys::wait::killed() {
                return Err(EINTR);
            }
            let index = at / PAGES as u64;
            let region = region_of(&pages, index);
            // CAST: states are below 256.
            let mut states = [hw::VFETCH_PAGE_NONE as u8; PAGES];
            if let Some(block) = self.block(index) {
                let locked = block.lock();
                for page in region.pages() {
                    if let Some(state) = states.get_mut(page.get()) {
                        // CAST: as above.
                        *state = match locked.state(page) {
                            None => hw::VFETCH_PAGE_MOVING,
                            Some(Page::Host { remote: false }) => hw::VFETCH_PAGE_HOST,
                            Some(Page::Host { remote: true }) => {
                                hw::VFETCH_PAGE_HOST | hw::VFETCH_PAGE_PINNED
                            }
                            Some(Page::Device { window: true }) => {
                                hw::VFETCH_PAGE_DEVICE | hw::VFETCH_PAGE_PINNED
                            }
                            Some(Page::Lost) => hw::VFETCH_PAGE_LOST,
                            Some(Page::None) => hw::VFETCH_PAGE_NONE,
                            Some(_) => hw::VFETCH_PAGE_DEVICE,
                        } as u8;
                    }
                }
            }
            let states = states.get(region.first()..region.outer()).unwrap_or(&[]);
            for state in states {
                let sum = match u32::from(*state) & !hw::VFETCH_PAGE_PINNED {
                    hw::VFETCH_PAGE_NONE => &mut asked.none,
                    hw::VFETCH_PAGE_HOST => &mut asked.host,
                    hw::VFETCH_PAGE_DEVICE => &mut asked.device,
                    hw::VFETCH_PAGE_MOVING => &mut asked.moving,
                    _ => &mut asked.lost,
                };
                *sum += 1;
            }
            if let Some(to) = &mut to {
                to.write(states)?;
            }
            at += region.len() as u64;
        }
        Ok(())
    }

    /// Sends blocks away until what is used fits, as far as that can be done.
    fn fit(&self) {
        for side in [Location::Device, Location::Host] {
            let fits = || self.evict(side, None, u64::MAX);
            Self::shrink(&self.room, side, fits);
            let function = &self.function;
            Self::shrink(&function.room, side, || {
                let space = function.oldest_space(side).ok_or(ENOSPC)?;
                space.evict(side, None, u64::MAX)
            });
        }
    }

    /// Calls `evict` for as long as a side of `room` is over its limit and gets nearer to it.
    fn shrink(room: &Room, side: Location, evict: impl Fn() -> Result) {
        let mut before = u64::MAX;
        while room.is_over(side) && !crate::sys::wait::killed() {
            let now = room.used(side);
            if now >= before || evict().is_err() {
                break;
            }
            before = now;
        }
    }
}
