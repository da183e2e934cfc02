# SPDX-License-Identifier: GPL-2.0
"""What jobs compute, against the same computed here, bit by bit: resident, by
single pages that come and go, from host memory, in every order."""

import kernels
from case import DeviceTest
from lib import HW
from spaces import PAGE, Pager, Spaces

ORDERS = (HW.JOB_INTERLEAVED, HW.JOB_BLOCKED, HW.JOB_SHUFFLED)


class Kernels(DeviceTest):
    def check(self, case, pager, done):
        self.assertStatus(done, HW.STATUS_OK, 0)
        self.assertEqual(done.value, case.value)
        for page in range(case.pages):
            at = slice(page * PAGE, (page + 1) * PAGE)
            self.assertEqual(pager.contents[at], case.expected[at], f"page {page}")
        if pager.there:
            f = pager.s.f
            self.assertGreater(f.counter("REMOTE_READ") + f.counter("REMOTE_WRITTEN"), 0)

    def each(self, pager_of, **fields):
        """Every kernel in every order, with 1 and with more strands. Returns the pagers."""
        pagers = []
        for n, kernel in enumerate(kernels.ALL):
            case = kernels.make(kernel, n)
            for order in ORDERS:
                strands = (1, 7, 64)[(n + order) % 3]
                s = Spaces(self.fresh_pf(mem_size="1M", **fields))
                pager = pager_of(s.space(1, case.pages), case)
                try:
                    done = pager.run(case.kind, *case.arguments, order=order, strands=strands)
                    self.check(case, pager, done)
                except AssertionError as e:
                    raise AssertionError(f"{kernel.__name__}, order {order}, {strands} strands: {e}") from e
                self.assertEqual(s.f.counter("DEPTH"), 0)
                pagers.append(pager)
        return pagers

    def test_each_computes_what_the_host_does(self):
        for pager in self.each(lambda space, case: Pager(space, case.contents)):
            self.assertEqual(pager.evictions, 0)

    def test_each_does_in_eight_frames_with_a_tiny_tlb(self):
        pagers = self.each(lambda space, case: Pager(space, case.contents, room=8, read_only_first=True),
                           tlb_entries=8)
        self.assertGreater(sum(p.evictions for p in pagers), 100)
        self.assertGreater(sum(r.reason == HW.REASON_READ_ONLY for p in pagers for b in p.batches for r in b), 100)

    def test_shapes_that_touch_as_many_pages_as_can_be(self):
        for kernel, sizes in ((kernels.stencil, dict(nx=1100, ny=4, nz=4, steps=2)),
                              (kernels.stencil, dict(nx=512, ny=3, nz=3, steps=1)),
                              (kernels.stencil, dict(nx=1, ny=3, nz=3, steps=1)),
                              (kernels.gemm, dict(rows=3, columns=700, inner=9, tile=512)),
                              (kernels.gemm, dict(rows=7, columns=5, inner=600, tile=1)),
                              (kernels.gemm, dict(rows=3, columns=5, inner=0, tile=4)),
                              (kernels.conv2d, dict(cin=2, cout=1, h=24, w=600, k=20)),
                              (kernels.conv2d, dict(cin=1, cout=1, h=3, w=3, k=3)),
                              (kernels.pagerank, dict(n=700, iterations=2)),
                              (kernels.bfs, dict(n=1, source=0))):
            case = kernels.make(kernel, 3, **sizes)
            s = Spaces(self.fresh_pf(mem_size="1M", tlb_entries=8))
            pager = Pager(s.space(1, case.pages), case.contents, room=8)
            self.check(case, pager, pager.run(case.kind, *case.arguments, order=HW.JOB_SHUFFLED, strands=3))

    def test_each_does_in_host_memory(self):
        self.each(lambda space, case: Pager(space, case.contents, remote=lambda page: page % 3))
