# SPDX-License-Identifier: GPL-2.0
"""How fast this machine's time stamp counter counts.

An emulated processor has the host's counter. A guest's kernel that has to find
out the rate by itself compares it with emulated timers, and is off by any
factor when the host takes the processor away at the wrong moment: seen was
94 MHz instead of 2.6 GHz, one boot in a hundred on a busy machine. Its seconds
are then as long or as short, and so are its time-outs. So it is told.
"""

import ctypes
import mmap
import platform
import time

# rdtsc; shl rdx, 32; or rax, rdx; ret
CODE = bytes.fromhex("0f31 48c1e220 4809d0 c3")


class Clock:
    """Compares the counter with the clock, from when it is made on."""

    def __init__(self):
        self.code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self.code.write(CODE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.code))
        self.read = ctypes.CFUNCTYPE(ctypes.c_uint64)(address)
        self.start = self.sample()

    def sample(self):
        """(time, count): of many attempts the one that was interrupted the least."""
        best = None
        for _ in range(200):
            before = time.monotonic_ns()
            count = self.read()
            after = time.monotonic_ns()
            if best is None or after - before < best[0]:
                best = after - before, before + (after - before) // 2, count
        return best[1:]

    def khz(self):
        """The rate in kHz, better than 1 in 10,000."""
        while True:
            now, count = self.sample()
            if now - self.start[0] >= 20_000_000:
                return (count - self.start[1]) * 1_000_000 // (now - self.start[0])
            time.sleep(0.005)


def clock():
    """A Clock, or None where an emulated x86 processor does not count like the host's."""
    return Clock() if platform.machine() == "x86_64" else None
