# SPDX-License-Identifier: GPL-2.0
"""Address spaces, the fault ring and jobs, as a driver has them; and a driver
that brings pages when they are missed, and takes others away for it."""

import struct

from lib import HW

AS = getattr(HW, "as")
PAGE = 1 << HW.PAGE_SHIFT
BLOCK = HW.PT_ENTRIES


class Spaces:
    """The table of spaces of a function, a fault ring and queues: 0 for transfers,
    1 for commands, 2 for jobs."""

    def __init__(self, f, count=8, ring_order=6, order=6, strands=4, ring=True):
        self.f = f
        self.m = f.m
        self.count = count
        self.strands = strands
        self.table = self.m.alloc(count * AS.size)
        f.set_reg(HW.REG_AS_TABLE, self.table, 8)
        f.set_reg(HW.REG_AS_COUNT, count)
        self.transfers = f.queue(0, order=order)
        self.commands = f.queue(1, order=order, cls=HW.CLASS_PRIORITY)
        self.jobs = f.queue(2, order=order, cls=HW.CLASS_COMPUTE)
        self.ring = FaultRing(f, ring_order) if ring else None
        self.frames = list(range(f.reg(HW.REG_MEM_SIZE, 8) // PAGE - 1, -1, -1))

    def entry(self, asid, **fields):
        self.m.poke(self.table + asid * AS.size, AS.pack(**fields))

    def flat(self, asid, root, pages):
        self.entry(asid, root=root, pages=pages, flags=HW.AS_VALID | HW.AS_FLAT)

    def space(self, asid, pages):
        return Space(self, asid, pages)

    def invalidate(self, asid, page=0, count=0, **fields):
        """An invalidation to its end, and nothing else's."""
        fields.setdefault("flags", HW.DESC_RELAXED)
        c = self.commands.run(HW.OP_INVALIDATE, ns=5_000, asid=asid, device_addr=page, host_addr=count, **fields)
        assert c.status == HW.STATUS_OK, c
        return c

    def submit(self, asid, kind, *arguments, strands=None, element_ps=1000, order=HW.JOB_INTERLEAVED, seed=7,
               job=(), **fields):
        """`job` overrides what its structure says, `fields` the descriptor. Returns the transaction."""
        at = self.m.alloc(HW.job.size, 64)
        structure = {f"argument{i}": a & (1 << 64) - 1 for i, a in enumerate(arguments)}
        structure.update(kind=kind, order=order, strands=strands or self.strands, element_ps=element_ps, seed=seed)
        structure.update(job)
        self.m.poke(at, HW.job.pack(**structure))
        return self.jobs.push(HW.OP_JOB, **{"host_addr": at, "bytes": HW.job.size, "asid": asid, **fields})

    def end(self, ns=1_000_000, tries=100):
        """The completion of the only job."""
        for _ in range(tries):
            self.m.step(ns)
            done = self.jobs.take()
            if done:
                assert len(done) == 1, done
                return done[0]
        raise AssertionError("the job does not end")

    def run(self, *words, **fields):
        self.submit(*words, **fields)
        return self.end()


class FaultRing:
    def __init__(self, f, order, vector=3, enable=True):
        self.f = f
        self.m = f.m
        self.order = order
        self.entries = 1 << order
        self.base = self.m.alloc(self.entries * HW.fault.size)
        self.head = 0
        f.set_reg(HW.REG_FAULT_BASE, self.base, 8)
        f.set_reg(HW.REG_FAULT_ORDER, order)
        f.set_reg(HW.REG_FAULT_VECTOR, vector)
        if enable:
            self.enable()

    def enable(self):
        self.m.poke(self.base, bytes(self.entries * HW.fault.size))
        self.head = 0
        self.f.set_reg(HW.REG_FAULT_CONTROL, HW.FCTL_ENABLE)

    def reset(self):
        self.f.set_reg(HW.REG_FAULT_CONTROL, HW.FCTL_RESET)

    def status(self):
        return self.f.reg(HW.REG_FAULT_STATUS)

    def error(self):
        return (self.status() & HW.FSTAT_ERROR_MASK) >> HW.FSTAT_ERROR_SHIFT

    def acknowledge(self, flags=0):
        self.f.set_reg(HW.REG_FAULT_HEAD, self.head | flags)

    def take(self, acknowledge=True, flags=0):
        out, size = [], HW.fault.size
        ring = self.m.peek(self.base, self.entries * size)
        while len(out) < self.entries:
            at = self.head % self.entries * size
            r = HW.fault.unpack(ring[at:at + size])
            if (r.phase & HW.PHASE) != (~(self.head >> self.order) & 1):
                break
            out.append(r)
            self.head = (self.head + 1) & HW.INDEX_MASK
        if acknowledge and out:
            self.acknowledge(flags)
        return out

    def replay(self, asid=None):
        self.f.set_reg(HW.REG_FAULT_REPLAY, HW.AS_ALL if asid is None else asid)


class Space:
    """A space with a page table."""

    def __init__(self, spaces, asid, pages):
        self.s = spaces
        self.m = spaces.m
        self.asid = asid
        self.pages = pages
        blocks = -(-pages // BLOCK)
        self.root = self.m.alloc(max(1, -(-blocks // BLOCK)) * 8)
        self.second = {}
        self.leaf = {}
        self.marks = {}
        spaces.entry(asid, root=self.root, pages=pages, flags=HW.AS_VALID)

    def make(self, page):
        """The leaf of the page's block."""
        block = page // BLOCK
        if block not in self.leaf:
            if block // BLOCK not in self.second:
                at = self.second[block // BLOCK] = self.m.alloc(2 * PAGE)
                self.m.write(self.root + block // BLOCK * 8, 8, at | HW.PT_VALID)
            self.leaf[block] = self.m.alloc(PAGE)
            self.marks[block] = self.m.alloc(BLOCK, BLOCK)
            self.m.poke(self.second[block // BLOCK] + block % BLOCK * 16,
                        struct.pack("<QQ", self.leaf[block] | HW.PT_VALID, self.marks[block]))
        return self.leaf[block]

    def set(self, page, entry):
        self.m.write(self.make(page) + page % BLOCK * 8, 8, entry)

    def get(self, page):
        return self.m.read(self.make(page) + page % BLOCK * 8, 8)

    def map(self, page, frame, flags=HW.PTE_WRITE):
        self.set(page, frame * PAGE | HW.PT_VALID | flags)

    def map_all(self, flags=HW.PTE_WRITE, first=0):
        """Page n to frame first + n."""
        for page in range(self.pages):
            self.map(page, first + page, flags)

    def map_remote(self, page, flags=HW.PTE_WRITE, at=None):
        """Returns where it is in host memory."""
        at = self.m.alloc(PAGE) if at is None else at
        self.set(page, at | HW.PT_VALID | HW.PTE_REMOTE | flags)
        return at

    def mark(self, page):
        return self.m.read(self.marks[page // BLOCK] + page % BLOCK, 1)

    def run(self, *words, **fields):
        return self.s.run(self.asid, *words, **fields)

    def submit(self, *words, **fields):
        return self.s.submit(self.asid, *words, **fields)


class Pager:
    """Contents of a space on the host, brought in when the device misses them, into
    at most `room` frames; the page that came first goes first. READ_ONLY faults are
    what a page that was brought in for reading gets when it is written."""

    def __init__(self, space, contents=b"", room=None, read_only_first=False, remote=lambda page: False):
        self.space = space
        self.m = space.m
        self.s = space.s
        self.contents = bytearray(contents.ljust(space.pages * PAGE, b"\0"))
        self.room = room or space.pages
        self.read_only_first = read_only_first
        self.remote = remote
        self.where = {}         # page: frame, the oldest first
        self.there = {}         # page: bus address
        self.free = list(range(self.room))
        self.evictions = 0
        self.batches = []

    def _window(self, frame):
        return self.s.f.bar[HW.BAR_WINDOW] + frame * PAGE

    def evict(self, pages):
        for page in pages:
            self.space.set(page, 0)
        for page in pages:
            self.s.commands.push(HW.OP_INVALIDATE, asid=self.space.asid, device_addr=page, host_addr=1,
                                 flags=HW.DESC_RELAXED)
            self.m.step(5_000)
            assert [c.status for c in self.s.commands.take()] == [HW.STATUS_OK]
        for page in pages:
            frame = self.where.pop(page)
            self.contents[page * PAGE:(page + 1) * PAGE] = self.m.peek(self._window(frame), PAGE)
            self.free.append(frame)

    def bring(self, page, access):
        write = access == HW.ACCESS_WRITE
        flags = HW.PTE_WRITE if write or not self.read_only_first else 0
        data = bytes(self.contents[page * PAGE:(page + 1) * PAGE])
        if page in self.there:
            self.space.map_remote(page, flags, self.there[page])
        elif self.remote(page):
            self.there[page] = self.space.map_remote(page, flags)
            self.m.poke(self.there[page], data)
        elif page in self.where:
            self.space.map(page, self.where[page], flags)
        else:
            if not self.free:
                self.evict([next(iter(self.where))])
                self.evictions += 1
            frame = self.free.pop()
            self.m.poke(self._window(frame), data)
            self.where[page] = frame
            self.space.map(page, frame, flags)

    def serve(self, records):
        """Brings what was missed, in order, until frames run out: then only for the oldest fault, which is the first
        again after the replay. So its strand finds all pages of a step at last, however many there are."""
        self.batches.append(records)
        for n, r in enumerate(records):
            assert r.asid == self.space.asid, r
            if n and not self.free and r.page not in self.where:
                break
            self.bring(r.page, r.access)
        self.s.ring.replay(self.space.asid)

    def end(self, step=2_000, tries=20_000):
        """Serves faults until the job has ended; its completion."""
        for _ in range(tries):
            self.m.step(step)
            records = self.s.ring.take()
            if records:
                self.serve(records)
                continue
            done = self.s.jobs.take()
            if done:
                self.flush()
                return done[0]
        raise AssertionError("the job does not end")

    def run(self, *words, **fields):
        self.space.submit(*words, **fields)
        return self.end()

    def flush(self):
        """Everything back to `contents`."""
        self.evict(list(self.where))
        for page, at in self.there.items():
            self.contents[page * PAGE:(page + 1) * PAGE] = self.m.peek(at, PAGE)


def f64(values):
    return struct.pack(f"<{len(values)}d", *values)


def u64(values):
    return struct.pack(f"<{len(values)}Q", *values)


def u32(values):
    return struct.pack(f"<{len(values)}I", *values)


def bits(value):
    return struct.unpack("<Q", struct.pack("<d", value))[0]
