# SPDX-License-Identifier: GPL-2.0
"""Sections 5 and 6 of SPEC.md, written down again as plainly as possible, and
the device compared with that to the nanosecond; and what follows from them."""

import os
import random

from case import DeviceTest
from lib import HW

SEED = int(os.environ.get("VFETCH_DEVICE_SEED", "1"))
LATENCY, LINK, QUANTUM, MEMORY = 1000, 8000, 4096, 100_000


def ns(nbytes, bytes_per_us):
    return -(-nbytes * 1000 // bytes_per_us)


class Transfer:
    def __init__(self, function, queue, cls, relaxed, opcode, nbytes, ready):
        self.queue = (function, queue)
        self.lane = (function, 0 if cls == HW.CLASS_PRIORITY else 1, not relaxed)
        self.opcode = opcode
        self.left = nbytes
        self.ready = ready
        self.end = None

    def by_link(self):
        return self.opcode == HW.OP_READ


class Model:
    """All of it is looked at for each event: slow, and hard to get wrong."""

    def __init__(self, weights):
        self.weights = weights
        self.share = [0] * len(weights)     # in 1/65536, as integers
        self.now_share = 0
        self.turn = [False] * len(weights)  # a relaxed one was last
        self.lanes = {}                     # lane: transfers in order
        self.since = {}                     # lane: when its first became the first
        self.open = {}                      # queue: transfers in order of fetching
        self.last_end = {}
        self.on_link = None                 # transfer, bytes, end
        self.free = 0

    def submit(self, x):
        self.lanes.setdefault(x.lane, []).append(x)
        self.open.setdefault(x.queue, []).append(x)

    def eligible(self, lane):
        """From when on its first may be served, or None."""
        x = self.lanes[lane][0]
        t = max(x.ready, self.since.get(lane, 0))
        if x.opcode == HW.OP_FENCE:
            if self.open[x.queue][0] is not x:
                return None
            t = max(t, self.last_end.get(x.queue, 0))
        return t

    def events(self):
        if self.on_link:
            yield self.on_link[2], 0, None
        for lane, transfers in self.lanes.items():
            t = self.eligible(lane) if transfers else None
            if t is None:
                continue
            if not transfers[0].by_link():
                fill = transfers[0].opcode == HW.OP_FILL
                yield t + (ns(transfers[0].left, MEMORY) if fill else 0), 1, lane
            elif not self.on_link:
                yield max(t, self.free), 2, None

    def ended(self, x, now):
        x.end = now
        self.last_end[x.queue] = now
        self.since[x.lane] = now
        self.lanes[x.lane].remove(x)
        self.open[x.queue].remove(x)

    def start_link(self, now):
        ready = [lane for lane, transfers in self.lanes.items()
                 if transfers and transfers[0].by_link() and self.eligible(lane) <= now]
        share, function = min((max(self.share[f], self.now_share), f) for f in {lane[0] for lane in ready})
        cls = min(lane[1] for lane in ready if lane[0] == function)
        kinds = [lane[2] for lane in ready if lane[:2] == (function, cls)]
        ordered = self.turn[function] if len(kinds) == 2 else kinds[0]
        x = self.lanes[function, cls, ordered][0]
        n = min(QUANTUM, x.left)
        self.turn[function] = not ordered
        self.now_share = share
        self.share[function] = share + (n << 16) // self.weights[function]
        self.on_link = x, n, now + ns(n, LINK)

    def run(self, until):
        while True:
            now, kind, lane = min(self.events(), key=lambda e: e[:2], default=(None, None, None))
            if now is None or now > until:
                return
            if kind == 0:
                x, n, _ = self.on_link
                self.on_link, self.free = None, now
                x.left -= n
                if not x.left:
                    self.ended(x, now)
            elif kind == 1:
                self.ended(self.lanes[lane][0], now)
            else:
                self.start_link(now)


class ByTheManual(DeviceTest):
    def test_every_completion_comes_when_the_manual_says(self):
        for seed in range(SEED, SEED + 6):
            rng = random.Random(seed)
            weights = [rng.choice((1, 2, 3, 16, 16, 100, 255)) for _ in range(rng.choice((2, 4, 9)))]
            functions = self.functions(len(weights) - 1, weights, mem_size="32M")
            m, model, transfers = functions[0].m, Model(weights), {}
            queues = [f.queue(i, order=8, cls=rng.randrange(2)) for f in functions for i in (0, 1)]
            classes = [q.get(HW.QREG_CLASS) for q in queues]
            model.free = m.now
            for _ in range(40):
                m.step(rng.choice((1, 300, 5_000, 60_000)))
                n = rng.randrange(len(queues))
                q, f = queues[n], n // 2
                model.run(m.now)
                for _ in range(rng.randrange(1, 6)):
                    opcode = rng.choice((HW.OP_READ,) * 5 + (HW.OP_FILL, HW.OP_FENCE))
                    relaxed = opcode != HW.OP_FENCE and rng.random() < 0.4
                    nbytes = rng.choice((8, 4096, 4104, 10_000, 50_000, 400_000)) if opcode != HW.OP_FENCE else 0
                    txn = q.push(opcode, ring=False, bytes=nbytes, device_addr=0, flags=relaxed * HW.DESC_RELAXED,
                                 host_addr=0 if opcode != HW.OP_READ else 1 << 24)
                    x = Transfer(f, q.index, classes[n], relaxed, opcode, nbytes, m.now + LATENCY)
                    transfers[txn] = x
                    model.submit(x)
                q.ring()
            m.step(1_000_000_000)
            model.run(m.now)
            done = {c.transaction: (c.status, c.time_ns) for q in queues for c in q.take()}
            self.assertEqual(done, {txn: (HW.STATUS_OK, x.end) for txn, x in transfers.items()}, f"seed {seed}")


class Shares(DeviceTest):
    def test_bytes_per_weight_never_differ_by_more_than_a_quantum_of_each(self):
        for seed in range(SEED, SEED + 4):
            rng = random.Random(seed)
            weights = [rng.choice((1, 2, 7, 16, 64, 255)) for _ in range(8)]
            functions = self.functions(8, [1] + weights, mem_size="32M")[1:]
            m = functions[0].m
            for f in functions:
                q = f.queue(order=8)
                nbytes = rng.choice((4096, 65536, 1 << 20))
                for _ in range(max(8, min(250, (8 << 20) // nbytes))):
                    q.push(HW.OP_READ, ring=False, device_addr=0, host_addr=1 << 24, bytes=nbytes)
                q.ring()
            looks, busy = 0, range(8)
            while len(busy) > 1:
                m.step(rng.randrange(1, 30_000))
                moved = [f.counter("BYTES_READ") / w for f, w in zip(functions, weights)]
                # Those that have always had something to do.
                busy = [i for i in busy if functions[i].counter("DEPTH")]
                for i in busy:
                    for j in busy:
                        self.assertLessEqual(abs(moved[i] - moved[j]), QUANTUM / weights[i] + QUANTUM / weights[j],
                                             f"seed {seed}: weights {weights[i]}, {weights[j]}")
                looks += 1
            self.assertGreater(looks, 20)
