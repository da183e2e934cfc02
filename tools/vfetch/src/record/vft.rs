// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Writes the simulator's trace format (`tools/vfetch-sim/FORMAT.md`).

use std::io::{self, Write};

const MAGIC: &[u8; 8] = b"vftrace\x01";
const ITEM: u64 = 1;
const BARRIER: u64 = 1 << 1;
const HOST: u64 = 1 << 2;
/// A head's number of touches stands above its flags.
const ONE_TOUCH: u64 = 1 << 3;
const WRITE: u64 = 1;

/// The most touches and pages that a file may have.
pub(super) const MAX_TOUCHES: usize = 1 << 30;
pub(super) const MAX_PAGES: u64 = 1 << 28;

/// One access to a page of the file's space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Touch {
    pub(super) page: u64,
    pub(super) write: bool,
    /// By the host's processor, and not by a strand of the device.
    pub(super) host: bool,
}

/// Writes, and sums up what it has written (FNV-1a).
struct Sink<W> {
    out: W,
    sum: u64,
}

impl<W: Write> Sink<W> {
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        for byte in bytes {
            self.sum = (self.sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        self.out.write_all(bytes)
    }

    /// Unsigned LEB128.
    fn number(&mut self, mut value: u64) -> io::Result<()> {
        loop {
            let [low, ..] = (value & 0x7f).to_le_bytes();
            value >>= 7;
            if value == 0 {
                return self.bytes(&[low]);
            }
            self.bytes(&[low | 0x80])?;
        }
    }
}

/// A signed number as an unsigned one, near 0 where that is.
fn zigzag(n: i64) -> u64 {
    u64::from_ne_bytes(((n << 1) ^ (n >> 63)).to_ne_bytes())
}

/// Writes a trace of a space of `pages` pages: each touch is an item, so that strands take them one by one. Those of one side wait for those of
/// the other that come before.
pub(super) fn write(
    out: impl Write,
    name: &str,
    pages: u64,
    touches: impl Iterator<Item = Touch>,
) -> io::Result<()> {
    let mut sink = Sink {
        out,
        sum: 0xcbf2_9ce4_8422_2325,
    };
    sink.bytes(MAGIC)?;
    sink.number(pages)?;
    sink.number(name.len() as u64)?;
    sink.bytes(name.as_bytes())?;
    let (mut count, mut before, mut page) = (0_u64, None, 0_i64);
    for touch in touches {
        let mut head = ONE_TOUCH | ITEM;
        if touch.host {
            head |= HOST;
        }
        if before.is_some_and(|host| host != touch.host) {
            head |= BARRIER;
        }
        before = Some(touch.host);
        sink.number(head)?;
        // Below 2^28, as the caller has seen to.
        let to = i64::try_from(touch.page).unwrap_or(i64::MAX);
        let step = zigzag(to.wrapping_sub(page)) << 2;
        page = to;
        sink.number(if touch.write { step | WRITE } else { step })?;
        count += 1;
    }
    sink.number(0)?;
    // Items, touches and accesses are one and the same here.
    for _ in 0..3 {
        sink.number(count)?;
    }
    let sum = sink.sum.to_le_bytes();
    sink.out.write_all(&sum)?;
    sink.out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_what_the_format_says() {
        let touch = |page, write, host| Touch { page, write, host };
        let touches = [
            touch(3, false, false),
            touch(2, true, false),
            touch(300, false, true),
        ];
        let mut bytes = Vec::new();
        write(&mut bytes, "x", 512, touches.into_iter()).unwrap();
        let (body, sum) = bytes.split_at(bytes.len() - 8);
        assert_eq!(
            body.strip_prefix(b"vftrace\x01"),
            Some(
                &[
                    0x80,
                    0x04, // 512 pages
                    1,
                    b'x', //
                    0b1001,
                    6 << 2, // +3
                    0b1001,
                    (1 << 2) | 1, // -1, a write
                    0b1111,
                    0xd0,
                    0x12, // a barrier, the host; 298: 596 << 2 = 2384
                    0,
                    3,
                    3,
                    3,
                ][..]
            )
        );
        let expected = body.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
            (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        assert_eq!(sum, expected.to_le_bytes());
    }
}
