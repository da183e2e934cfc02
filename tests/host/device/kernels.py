# SPDX-License-Identifier: GPL-2.0
"""Jobs over random data, laid out in a space, and what they must leave there,
computed here as plainly as can be. Offsets are odd on purpose: arrays share
pages and straddle them."""

import random

from lib import HW
from spaces import PAGE, bits, f64, u32, u64


class Case:
    """One job: `contents` of the space before, `expected` after, and its value."""

    def __init__(self, kind, pages, arguments, contents, expected, value=0):
        self.kind = kind
        self.pages = pages
        self.arguments = arguments
        self.contents = contents
        self.expected = expected
        self.value = value


class Layout:
    def __init__(self):
        self.at = {}
        self.end = 0
        self.data = {}

    def add(self, name, data, gap=8):
        """Places an array behind the others, at a multiple of 8 or more."""
        self.end = -(-(self.end + gap) // 8) * 8
        self.at[name] = self.end
        self.data[name] = data
        self.end += len(data)
        return self.at[name]

    def pages(self):
        return -(-self.end // PAGE)

    def bytes(self, **changed):
        out = bytearray(self.pages() * PAGE)
        for name, at in self.at.items():
            data = changed.get(name, self.data[name])
            out[at:at + len(data)] = data
        return bytes(out)


def doubles(rng, n):
    return [rng.uniform(-1, 1) * 2.0 ** rng.randrange(-8, 8) for _ in range(n)]


def _case(kind, layout, arguments, value=0, **changed):
    return Case(kind, layout.pages(), arguments, layout.bytes(), layout.bytes(**changed), value)


def triad(rng, n=5000):
    b, c, s = doubles(rng, n), doubles(rng, n), rng.uniform(-2, 2)
    m = Layout()
    a_, b_, c_ = m.add("a", bytes(8 * n)), m.add("b", f64(b), 24), m.add("c", f64(c), 136)
    return _case(HW.JOB_TRIAD, m, (a_, b_, c_, n, bits(s)), a=f64([x + s * y for x, y in zip(b, c)]))


def stencil(rng, nx=67, ny=9, nz=11, steps=3):
    n = nx * ny * nz
    cells, c0, c1 = doubles(rng, n), rng.uniform(-1, 1), rng.uniform(-1, 1)
    m = Layout()
    in_, out_ = m.add("in", f64(cells)), m.add("out", bytes(8 * n))
    now, then = cells, None
    history = [cells]
    for _ in range(steps):
        then = list(now)
        for z in range(1, nz - 1):
            for y in range(1, ny - 1):
                for x in range(1, nx - 1):
                    i = (z * ny + y) * nx + x
                    around = now[i - 1]
                    for j in (i + 1, i - nx, i + nx, i - nx * ny, i + nx * ny):
                        around += now[j]
                    then[i] = c0 * now[i] + c1 * around
        history.append(then)
        now = then
    last, before = f64(history[-1]), f64(history[-2]) if steps else None
    changed = {} if not steps else {"out": last, "in": before} if steps % 2 else {"in": last, "out": before}
    return _case(HW.JOB_STENCIL, m, (in_, out_, nx, ny, nz, steps, bits(c0), bits(c1)), **changed)


def gemm(rng, rows=19, columns=23, inner=41, tile=8):
    a, b = doubles(rng, rows * inner), doubles(rng, inner * columns)
    m = Layout()
    a_, b_, c_ = m.add("a", f64(a)), m.add("b", f64(b)), m.add("c", bytes(8 * rows * columns))
    c = []
    for i in range(rows):
        for j in range(columns):
            total = 0.0
            for k in range(inner):
                total += a[i * inner + k] * b[k * columns + j]
            c.append(total)
    return _case(HW.JOB_GEMM, m, (a_, b_, c_, rows, columns, inner, tile), c=f64(c))


def conv2d(rng, cin=2, cout=3, h=13, w=90, k=3):
    image, weights = doubles(rng, cin * h * w), doubles(rng, cout * cin * k * k)
    oh, ow = h - k + 1, w - k + 1
    m = Layout()
    in_, w_, out_ = m.add("in", f64(image)), m.add("w", f64(weights)), m.add("out", bytes(8 * cout * oh * ow))
    out = []
    for o in range(cout):
        for y in range(oh):
            for x in range(ow):
                total = 0.0
                for i in range(cin):
                    for dy in range(k):
                        for dx in range(k):
                            total += (image[(i * h + y + dy) * w + x + dx] *
                                      weights[((o * cin + i) * k + dy) * k + dx])
                out.append(total)
    return _case(HW.JOB_CONV2D, m, (in_, w_, out_, cin, cout, h, w, k), out=f64(out))


def rows_of(rng, n, columns, most=9, long=None):
    """Compressed rows, some of them empty; one of them long."""
    row, col = [0], []
    for i in range(n):
        count = long if long and i == n // 2 else rng.choice((0, 1, 2, 5, most))
        col += [rng.randrange(columns) for _ in range(count)]
        row.append(len(col))
    return row, col


def spmv(rng, n=300, columns=6000):
    row, col = rows_of(rng, n, columns, long=900)
    val, x = doubles(rng, len(col)), doubles(rng, columns)
    m = Layout()
    at = [m.add("row", u64(row)), m.add("col", u32(col)), m.add("val", f64(val)), m.add("x", f64(x)),
          m.add("y", bytes(8 * n))]
    y = []
    for i in range(n):
        total = 0.0
        for e in range(row[i], row[i + 1]):
            total += val[e] * x[col[e]]
        y.append(total)
    return _case(HW.JOB_SPMV, m, (*at, n, columns), y=f64(y))


def bfs(rng, n=3000, source=None):
    row, col = rows_of(rng, n, n, most=4, long=60)
    source = rng.randrange(n) if source is None else source
    m = Layout()
    at = [m.add("row", u64(row)), m.add("col", u32(col)), m.add("level", b"\xAB" * (4 * n))]
    level = {source: 0}
    front = [source]
    while front:
        found = []
        for u in front:
            for v in col[row[u]:row[u + 1]]:
                if v not in level:
                    level[v] = level[u] + 1
                    found.append(v)
        front = found
    return _case(HW.JOB_BFS, m, (*at, n, source), len(level),
                 level=u32([level.get(v, 0xFFFFFFFF) for v in range(n)]))


def pagerank(rng, n=250, iterations=3):
    row, col = rows_of(rng, n, n, long=300)
    degree = [0] * n
    for u in col:
        degree[u] += 1
    ranks, d = [rng.random() for _ in range(n)], 0.85
    m = Layout()
    at = [m.add("row", u64(row)), m.add("col", u32(col)), m.add("degree", u32(degree)), m.add("from", f64(ranks)),
          m.add("to", bytes(8 * n))]
    history = [ranks]
    for _ in range(iterations):
        now, then = history[-1], []
        for v in range(n):
            total = 0.0
            for u in col[row[v]:row[v + 1]]:
                total += now[u] / degree[u]
            then.append((1 - d) / n + d * total)
        history.append(then)
    last, before = f64(history[-1]), f64(history[-2])
    changed = {"to": last, "from": before} if iterations % 2 else {"from": last, "to": before}
    return _case(HW.JOB_PAGERANK, m, (*at, n, iterations, bits(d)), **changed)


def gather(rng, n=900, size=9000):
    values, index = doubles(rng, size), [rng.randrange(size) for _ in range(n)]
    m = Layout()
    at = [m.add("in", f64(values)), m.add("index", u32(index)), m.add("out", bytes(8 * n))]
    return _case(HW.JOB_GATHER, m, (*at, n, size), out=f64([values[i] for i in index]))


def scatter(rng, n=900, size=9000):
    values, index = doubles(rng, n), rng.sample(range(size), n)
    before = doubles(rng, size)
    m = Layout()
    at = [m.add("in", f64(values)), m.add("index", u32(index)), m.add("out", f64(before))]
    after = list(before)
    for i, v in zip(index, values):
        after[i] = v
    return _case(HW.JOB_SCATTER, m, (*at, n, size), out=f64(after))


def reduce(rng, n=9000):
    words = [rng.getrandbits(64) for _ in range(n)]
    m = Layout()
    return _case(HW.JOB_REDUCE, m, (m.add("in", u64(words), 40), n), sum(words) % (1 << 64))


def stamped(word, generation):
    return (generation << 40 | word & 0xFFFFFFFFFF) & (1 << 64) - 1


def stamp(rng, n=9000, first=(1 << 40) - 100, generation=(1 << 24) + 9):
    m = Layout()
    at = m.add("out", bytes(8 * n))
    return _case(HW.JOB_STAMP, m, (at, n, first, generation),
                 out=u64([stamped(first + i, generation) for i in range(n)]))


def check(rng, n=9000, first=5, lowest=0, highest=9):
    words, wrong = [], 0
    for i in range(n):
        kind = rng.randrange(20)
        if kind == 0:
            words.append(0)
            wrong += lowest > 0
        elif kind == 1:
            words.append(stamped(first + i, highest + 1))
            wrong += 1
        elif kind == 2:
            words.append(stamped(first + i + 1, highest))
            wrong += 1
        else:
            words.append(stamped(first + i, rng.randrange(lowest, highest + 1)))
    m = Layout()
    return _case(HW.JOB_CHECK, m, (m.add("in", u64(words)), n, first, lowest, highest), wrong)


ALL = (triad, stencil, gemm, conv2d, spmv, bfs, pagerank, gather, scatter, reduce, stamp, check)


def make(kernel, seed=1, **sizes):
    return kernel(random.Random(seed), **sizes)
