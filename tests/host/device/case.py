# SPDX-License-Identifier: GPL-2.0
"""What the tests share: a machine for each, and QEMU must survive every one."""

import random
import unittest

from lib import HW, Machine


class DeviceTest(unittest.TestCase):
    """Makes machines; each is ended with the test, and must not have crashed."""

    maxDiff = None

    def machine(self, **options):
        m = Machine(**options)
        self.addCleanup(self._end, m)
        return m

    def _end(self, m):
        status = m.close()
        self.assertEqual(status, 0, "QEMU did not end by itself")

    def pf(self, **options):
        return self.machine(**options).pf

    def fresh_pf(self, **options):
        """A PF that has just been reset; a new machine only if there is none with these properties."""
        known = self.__dict__.setdefault("_known", {})
        key = tuple(sorted(options.items()))
        if key in known:
            known[key].flr()
        else:
            known[key] = self.pf(**options)
        return known[key]

    def functions(self, n, weights=None, **options):
        """PF and n VFs with memory in equal parts."""
        options.setdefault("total_vfs", max(n, 1))
        return self.pf(**options).share_out(n, weights)

    def assertStatus(self, completion, status, nbytes=None):
        names = {getattr(HW, n): n for n in dir(HW) if n.startswith("STATUS_")}
        self.assertEqual(names[completion.status], names[status])
        if nbytes is not None:
            self.assertEqual(completion.bytes, nbytes)


def noise(n, seed=1):
    return random.Random(seed).randbytes(n)
