# SPDX-License-Identifier: GPL-2.0
"""A driver that moves pages to and fro while jobs use them, with everything in flight at once: what jobs wrote must be
where the page is, and what they read must be what was last written."""

import os
import random

from case import DeviceTest
from kernels import stamped
from lib import HW
from spaces import PAGE, Spaces, u64

SEED = int(os.environ.get("VFETCH_DEVICE_SEED", "1"))
WORDS = PAGE // 8

HOST, DEVICE, REMOTE, OUT, IN, RECALL = "host", "device", "remote", "on its way out", "on its way in", "recalled"


class Mover:
    """Pages of a space; each has a place in host memory, and a frame while it is the device's. Every downgrade is an
    entry, an invalidation and a transfer behind it, in one doorbell and without waiting."""

    def __init__(self, s, space, frames, rng):
        self.s, self.m, self.space, self.rng = s, s.m, space, rng
        self.bus = [self.m.alloc(PAGE) for _ in range(space.pages)]
        self.state = [HOST] * space.pages
        self.frame = {}
        self.free = list(range(frames))
        self.actions = {}       # transaction: what it completes
        self.moves = 0

    def push(self, opcode, done=None, **fields):
        id = self.s.transfers.push(opcode, ring=False, **fields)
        if done:
            self.actions[id] = done

    def invalidate(self, page, done=None):
        self.push(HW.OP_INVALIDATE, done, asid=self.space.asid, device_addr=page, host_addr=1)

    def out(self, page):
        self.space.set(page, 0)
        self.state[page] = OUT
        self.invalidate(page)
        self.push(HW.OP_READ, lambda: self.is_host(page), device_addr=self.frame[page] * PAGE,
                  host_addr=self.bus[page], bytes=PAGE)

    def recall(self, page):
        self.space.set(page, 0)
        self.state[page] = RECALL
        self.invalidate(page, lambda: self.is_host(page))

    def bring(self, page):
        self.state[page] = IN
        self.frame[page] = self.free.pop()
        self.push(HW.OP_WRITE, lambda: self.is_device(page), device_addr=self.frame[page] * PAGE,
                  host_addr=self.bus[page], bytes=PAGE)

    def is_host(self, page):
        self.state[page] = HOST
        self.moves += 1
        if page in self.frame:
            self.free.append(self.frame.pop(page))

    def is_device(self, page):
        self.state[page] = DEVICE
        self.space.map(page, self.frame[page])

    def away(self, page):
        if self.state[page] == DEVICE:
            self.out(page)
        elif self.state[page] == REMOTE:
            self.recall(page)

    def work(self):
        """What there is to do; True if something was."""
        done = self.s.transfers.take()
        for c in done:
            assert c.status == HW.STATUS_OK, c
            if c.transaction in self.actions:
                self.actions.pop(c.transaction)()
        records = self.s.ring.take()
        for page in {r.page: 0 for r in records}:
            if self.state[page] == HOST:
                if self.rng.random() < 0.3:
                    self.space.map_remote(page, at=self.bus[page])
                    self.state[page] = REMOTE
                elif self.free:
                    self.bring(page)
                else:
                    mine = [p for p, st in enumerate(self.state) if st == DEVICE]
                    if mine:
                        self.out(self.rng.choice(mine))
        if self.rng.random() < 0.2:
            self.away(self.rng.randrange(self.space.pages))
        if self.s.transfers.tail != self.s.transfers.get(HW.QREG_SQ_HEAD):
            self.s.transfers.ring()
        if done or records:
            self.s.ring.replay(self.space.asid)

    def settle(self):
        for page in range(self.space.pages):
            while self.state[page] != HOST:
                self.away(page)
                self.m.step(3_000)
                self.work_quietly()

    def work_quietly(self):
        self.s.transfers.ring()
        self.m.step(3_000)
        for c in self.s.transfers.take():
            if c.transaction in self.actions:
                self.actions.pop(c.transaction)()


class Protocol(DeviceTest):
    REGIONS, PAGES = 6, 3

    def torture(self, seed, **options):
        rng = random.Random(seed)
        s = Spaces(self.pf(mem_size="1M", **options), order=8, ring_order=rng.choice((1, 4, 6)))
        space = s.space(1, self.REGIONS * self.PAGES)
        mover = Mover(s, space, 10, rng)
        words = self.PAGES * WORDS
        generation = [0] * self.REGIONS
        jobs = {}               # transaction: region, generation it writes
        left, idle = 60, 0
        while left or jobs:
            if left and len(jobs) < 4 and rng.random() < 0.3:
                r = rng.randrange(self.REGIONS)
                if r not in [j[0] for j in jobs.values()]:
                    at = r * self.PAGES * PAGE
                    fields = dict(strands=rng.choice((1, 3, 16)), order=rng.randrange(3),
                                  element_ps=rng.choice((0, 1000, 10_000)))
                    if rng.random() < 0.6:
                        write = generation[r] + 1
                        id = space.submit(HW.JOB_STAMP, at, words, r * words, write, **fields)
                    else:
                        write = None
                        id = space.submit(HW.JOB_CHECK, at, words, r * words, generation[r], generation[r], **fields)
                    jobs[id] = r, write
                    left -= 1
            s.m.step(rng.choice((100, 700, 3_000)))
            mover.work()
            for c in s.jobs.take():
                r, write = jobs.pop(c.transaction)
                self.assertEqual((c.status, c.value), (HW.STATUS_OK, 0), (seed, r, write))
                generation[r] = write or generation[r]
                idle = 0
            idle += 1
            self.assertLess(idle, 5_000, f"seed {seed}: no job ends")
        mover.settle()
        for page in range(space.pages):
            r = page // self.PAGES
            expected = u64([stamped(page * WORDS + i, generation[r]) if generation[r] else 0 for i in range(WORDS)])
            self.assertEqual(s.m.peek(mover.bus[page], PAGE), expected, (seed, page))
        return mover.moves

    def test_nothing_is_lost_or_stale_while_pages_move(self):
        moves = sum(self.torture(seed) for seed in range(SEED, SEED + 6))
        self.assertGreater(moves, 300)

    def test_nor_on_a_slow_link_with_a_tiny_tlb(self):
        moves = sum(self.torture(seed, link_bytes_per_us=1000, tlb_entries=8, invalidate_ns=0)
                    for seed in range(SEED, SEED + 4))
        self.assertGreater(moves, 200)
