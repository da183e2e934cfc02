#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""The figures of `make bench`, from what scripts/bench.sh left in FOLDER:

  said      the guest's output (scripts/bench-guest.sh)
  slow      likewise, of a boot with a link of SLOW_BYTES_PER_US
  qemu      QEMU's command line
  trace, probe.nm, vfetch.ko    of the profiler, see profile_trace.py

Prints the tables and writes results.json. Exits with 0 when all measurements
are there, also if a wanted figure is missed; else with 1.
"""

import argparse
import json
import os
import re
import shlex
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True
import profile_trace  # noqa: E402 (its folder is known only now)

# What is wanted.
LINK_SHARE = 0.90
OWN_4K_READ = 6000

MLOAD_SHARE = 0.95
HOST_FAULT = 8000
DEVICE_FAULT = 500
BLOCK_BYTES = 6 << 10
# Of a job whose data is there, beyond what it takes in a flat space.
MANAGED_SHARE = 0.02
# Faults that it takes to read a block page by page, by the threshold: what is known of the tree.
DECISIONS = {1: 1, 25: 3, 30: 4, 51: 6, 75: 20, 99: 32, 100: 512}

PAGE = 4096
SLOW_BYTES_PER_US = 1000
SIZES = {4096: "4 KiB", 65536: "64 KiB", 1 << 20: "1 MiB"}
SETS = ("one function", "8 functions together")


def parts(path):
    """The guest's output as (name, text)."""
    found, name, lines = [], None, []
    with open(path, encoding="utf-8") as f:
        for line in f:
            if line.startswith("=== "):
                if name is not None:
                    found.append((name, "".join(lines)))
                name, lines = line[4:].strip(), []
            else:
                lines.append(line)
    if name is not None:
        found.append((name, "".join(lines)))
    return found


def boot(guest, qemu):
    """How it was booted: what decides the figures."""
    release, cmdline = guest.splitlines()[:2]
    words = shlex.split(qemu)
    options = {}
    for option in ("-icount", "-cpu", "-smp", "-m", "-accel", "-rtc", "-seed"):
        if option in words:
            options[option[1:]] = words[words.index(option) + 1]
    return {"kernel": release, "command_line": cmdline, "qemu": options, "iommu": "intel-iommu" in qemu}


class Bench:
    def __init__(self, folder):
        self.operations, self.managed, self.results = [], [], []
        self.link, self.jobs = None, []
        kallsyms, guest, functions = [], "", {}
        for name, text in parts(f"{folder}/said"):
            if name == "guest":
                guest = text
            elif name == "operations":
                self.operations = [json.loads(line) for line in text.splitlines()]
            elif name == "managed":
                self.managed = [json.loads(line) for line in text.splitlines()]
            elif name == "jobs":
                self.jobs = [job for f in json.loads(text)["functions"] for job in f["jobs"]]
            elif name == "kallsyms":
                kallsyms = text.splitlines()
            elif name.startswith("results "):
                report = json.loads(text)
                kind = name.removeprefix("results ")
                functions[kind] = report["functions"]
                self.calibration = report["calibration"]
                self.results += [dict(row, set=kind) for row in report["results"]]
        with open(f"{folder}/qemu", encoding="utf-8") as f:
            self.boot = boot(guest, f.read())
        one = functions[SETS[0]][0]
        self.functions = {kind: [f["kind"] for f in rows] for kind, rows in functions.items()}
        self.link = {k: one[k] for k in ("link_latency_ns", "link_bytes_per_us", "queues", "queue_entries",
                                         "transfer_max_bytes")}
        self.symbols, self.sections, self.lines = profile_trace.load_trace(folder, kallsyms)
        run = len(self.operations) + len(self.managed)
        if len(self.sections) != run:
            raise ValueError(f"{run} operations were run, the trace has {len(self.sections)}")
        with open(f"{folder}/slow", encoding="utf-8") as f:
            self.slow = json.loads(f.read())
        self.empty = self.sections[0].total / self.operations[0]["count"]
        for what, section in zip(self.operations, self.sections):
            what["instructions"] = round(section.total / what["count"] - self.empty, 1)
            what["ns_per_operation"] = round(what.pop("ns") / what["count"], 1)
            what["groups"] = {name: round(section.groups[name] / what["count"], 1)
                              for name, _ in profile_trace.GROUPS if section.groups[name]}

        for what, section in zip(self.managed, self.sections[len(self.operations):]):
            self.count_managed(what, section)

    def count_managed(self, what, section):
        """The figures of a section of managed memory: of a fault of a job, or of a page."""
        jobs = what["section"] in ("dfault", "dscatter")
        n = what["device_faults"] if jobs else what["count"]
        own = sum(v for function, v in section.self_.items() if function[1] == "vfetch")
        what["instructions"] = round(section.total / n, 1)
        what["of_the_module"] = round(own / n, 1)
        what["ns_per_operation"] = round(what["ns"] / n, 1)
        what["groups"] = {name: round(section.groups[name] / n, 1) for name, _ in profile_trace.GROUPS if section.groups[name]}

    def fault(self, section):
        """The figures of a section of managed memory."""
        for what in self.managed:
            if what["section"] == section:
                return what
        raise ValueError(f"the section '{section}' was not run")

    def decisions(self):
        """{threshold: faults}"""
        return {what["count"]: what["value"] for what in self.managed if what["section"] == "decide"}

    def job_times(self):
        """(job, its time in a flat space, its time with all of its data there) of each, in nanoseconds."""
        for job in self.jobs:
            flat, resident = job["runs"]
            if (flat["policy"], resident["policy"]) != ("flat", "resident") or flat.get("error") or resident.get("error"):
                raise ValueError(f"the job '{job['job']}' was not measured")
            yield job["job"], flat["time_ns"], resident["time_ns"]

    def beyond_flat(self):
        """The most that a job takes beyond its time in a flat space, as a share of that."""
        return max(resident / flat for _, flat, resident in self.job_times()) - 1

    def load_shares(self):
        """The shares of the link, at its own rate and at the slow one, that loads of a page each reach."""
        def share(what, rate):
            return PAGE * 1000 / rate / (what["ns"] / what["count"])
        return share(self.fault("mload"), self.link["link_bytes_per_us"]), share(self.slow, SLOW_BYTES_PER_US)

    def operation(self, section, size=0):
        for what in self.operations:
            if (what["section"], what["bytes"]) == (section, size):
                return what
        raise ValueError(f"the operation '{section} {size}' was not run")

    def section(self, section, size=0):
        return self.sections[self.operations.index(self.operation(section, size))]

    def model_ns(self, size):
        """What the link model allows a request that is alone."""
        return self.link["link_latency_ns"] + size * 1000 / self.link["link_bytes_per_us"]

    def row(self, kind, op, order, size, depth):
        for r in self.results:
            if (r["set"], r["op"], r["order"], r["block_bytes"], r["depth"]) == (kind, op, order, size, depth):
                return r
        raise ValueError(f"'{kind}, {op} {order} {size} depth {depth}' was not measured")

    def wanted(self):
        """What is wanted, what was measured, and whether it is enough."""
        for kind in SETS:
            for op in ("read", "write"):
                share = self.row(kind, op, "seq", 1 << 20, 1)["model_share"]
                yield {"what": f"link used by 1 MiB {op}s, {kind}", "wanted": LINK_SHARE, "measured": share,
                       "reached": share >= LINK_SHARE, "show": (f"{LINK_SHARE:.0%}", f"{share:.1%}")}
        own = self.own()["beyond_null_system_call"]
        yield {"what": "own instructions of a 4 KiB read", "wanted": OWN_4K_READ, "measured": own,
               "reached": own <= OWN_4K_READ, "show": (f"{OWN_4K_READ:,}", f"{own:,.0f}")}
        share = self.load_shares()[1]
        yield {"what": "link used by loads of a page each, at 1 GB/s", "wanted": MLOAD_SHARE, "measured": share,
               "reached": share >= MLOAD_SHARE, "show": (f"{MLOAD_SHARE:.0%}", f"{share:.1%}")}
        own = self.fault("mfault")["instructions"] - self.fault("shared")["instructions"]
        yield {"what": "instructions of a fault that fetches one page", "wanted": HOST_FAULT, "measured": own,
               "reached": own <= HOST_FAULT, "show": (f"{HOST_FAULT:,}", f"{own:,.0f}")}
        own = self.fault("dfault")["instructions"]
        yield {"what": "instructions of a job's fault, neighbours", "wanted": DEVICE_FAULT, "measured": own,
               "reached": own <= DEVICE_FAULT, "show": (f"{DEVICE_FAULT:,}", f"{own:,.0f}")}
        beyond = self.beyond_flat()
        yield {"what": "time of resident jobs beyond that of flat ones", "wanted": MANAGED_SHARE, "measured": beyond,
               "reached": beyond <= MANAGED_SHARE, "show": (f"{MANAGED_SHARE:.0%}", f"{beyond:.2%}")}
        of_block = self.fault("block")["value"]
        yield {"what": "bytes of the kernel's memory for a block in use", "wanted": BLOCK_BYTES, "measured": of_block,
               "reached": of_block <= BLOCK_BYTES, "show": (f"{BLOCK_BYTES:,}", f"{of_block:,}")}
        wrong = sum(self.decisions().get(threshold) != faults for threshold, faults in DECISIONS.items())
        yield {"what": "thresholds with other faults than is known", "wanted": 0, "measured": wrong,
               "reached": wrong == 0, "show": ("0", f"{wrong}")}

    def own(self):
        """The driver's own cost of a 4 KiB read. It copies nothing, so that there is no copy to leave out."""
        read = self.operation("read", 4096)
        return {"read_4k": read["instructions"], "null_system_call": self.operation("null")["instructions"],
                "beyond_null_system_call": round(read["instructions"] - self.operation("null")["instructions"], 1),
                "of_it_polling": read["groups"].get(profile_trace.POLLING, 0)}


def us(ns):
    return f"{ns / 1000:,.1f}" if ns < 999_950 else f"{ns / 1000:,.0f}"


def heading(text):
    return ["", text, "-" * len(text)]


def show(b):
    """The tables, as lines of at most 80 characters."""
    q, link = b.boot["qemu"], b.link
    out = ["vfetch: benchmarks under virtual time"]
    out += heading("How it was booted")
    functions = "; ".join(f"{kind}: {' + '.join(count(f))}" for kind, f in b.functions.items())
    out += [f"  guest     Linux {b.boot['kernel']}, {q.get('m', '?')} of memory, "
            f"{'with' if b.boot['iommu'] else 'no'} IOMMU",
            f"  QEMU      -icount {q.get('icount', '?')} -smp {q.get('smp', '?')} -cpu {q.get('cpu', '?')}: one CPU that",
            "            executes an instruction each ns; waiting takes no real time; string",
            "            instructions count once an iteration, so the kernel does without",
            f"  kernel    {' '.join(w for w in b.boot['command_line'].split() if re.match('init_on|nokaslr|mitig|crypto|intel_', w))}",
            f"  link      {link['link_latency_ns']:,} ns, then {link['link_bytes_per_us'] / 1000:g} bytes a ns, shared by all functions",
            f"  measured  {functions};",
            "            one process, one thread for each request under way",
            "  Two runs of the same build print the same figures."]

    out += heading("Throughput and time of a request")
    out += ["  link: share of what the link model allows with so many requests under way",
            "  own: virtual time a request takes beyond the link model: system call, driver,",
            "       interrupts, scheduler and the benchmark", "  instr.: instructions of a request", ""]
    out += [f"  {'op':<5} {'order':<5} {'block':>6} {'depth':>5} {'MB/s':>6} {'link':>6} {'p50 µs':>8} {'p99 µs':>8} "
            f"{'own µs':>8} {'instr.':>8}"]
    for kind in SETS:
        out += [f"  {kind}"]
        for r in (r for r in b.results if r["set"] == kind):
            instructions = ""
            if kind == SETS[0] and r["depth"] == 1 and r["order"] == "seq":
                instructions = f"{b.operation(r['op'], r['block_bytes'])['instructions']:,.0f}"
            out += [f"  {r['op']:<5} {r['order']:<5} {SIZES[r['block_bytes']]:>6} {r['depth']:>5} {r['megabytes_per_s']:>6,.0f} "
                    f"{r['model_share']:>6.1%} {us(r['p50_ns']):>8} {us(r['p99_ns']):>8} {us(r['own_ns_per_request']):>8} "
                    f"{instructions:>8}".rstrip()]

    out += heading("Baselines and single operations, one after the other")
    out += [f"  {'':<44} {'instructions':>12} {'virtual µs':>11} {'link':>6}"]
    names = (("null", 0, "null system call (getppid)"), ("copy", 4096, "copy of 4 KiB, 8 bytes at a time"),
             ("memfd", 4096, "read of 4 KiB of a memory file"), ("zero", 4096, "read of 4 KiB of /dev/zero"))
    for section, size, text in names:
        o = b.operation(section, size)
        out += [f"  {text:<44} {o['instructions']:>12,.0f} {us(o['ns_per_operation']):>11}"]
    for o in b.operations:
        if o["section"] in ("read", "write", "sread", "swrite"):
            text = f"{o['section'].lstrip('s')} of {SIZES[o['bytes']]} of vfetch" + \
                (", scattered pages" if o["section"][0] == "s" else "")
            share = b.model_ns(o["bytes"]) / o["ns_per_operation"]
            out += [f"  {text:<44} {o['instructions']:>12,.0f} {us(o['ns_per_operation']):>11} {share:>6.1%}"]

    out += heading("Where the instructions of a request go")
    columns = [("read", 4096), ("write", 4096), ("read", 65536), ("read", 1 << 20), ("sread", 1 << 20)]
    out += ["  " + " " * 31 + "".join(f"{op + ' ' + profile_trace.PAGES[size]:>9}" for op, size in columns)]
    for name, _ in profile_trace.GROUPS:
        values = [b.operation(*c)["groups"].get(name, 0) for c in columns]
        if max(values) >= 0.5:
            out += [f"  {name:<31}" + "".join(f"{v:>9,.0f}" for v in values)]
    sums = (sum(b.operation(*c)["groups"].values()) for c in columns)
    out += [f"  {'all':<31}" + "".join(f"{v:>9,.0f}" for v in sums)]
    out += ["  sread: to scattered single pages; the others to memory that begins at a huge",
            "  page, as that of the throughput above from 64 KiB on. What a function calls is",
            "  in its group, unless it belongs to another one.", "",
            "  The functions with most of the 4 KiB read:"]
    section, n = b.section("read", 4096), b.operation("read", 4096)["count"]
    for function, instructions in section.self_.most_common(16):
        if function[1] != "user":
            out += [f"    {profile_trace.clip(profile_trace.label(function), 64):<64} {instructions / n:>8,.0f}"]
    own = b.own()
    out += ["", f"  Own cost of a 4 KiB read: {own['read_4k']:,.0f} instructions, without a null system",
            f"  call ({own['null_system_call']:,.0f}) {own['beyond_null_system_call']:,.0f}.",
            "  The data goes to the user's pages by DMA: there is no copy to leave out."]
    if own["of_it_polling"]:
        out += [f"  Of these {own['of_it_polling']:,.0f} look for the completion while the link is at work."]

    out += managed(b)
    out += heading("Wanted")
    missed = 0
    for w in b.wanted():
        missed += not w["reached"]
        out += [f"  {'ok    ' if w['reached'] else 'MISSED'}  {w['what']:<47} {w['show'][1]:>6}, wanted {w['show'][0]}"]
    out += ["", "  All wanted figures are reached." if not missed else f"  {missed} wanted figure{'s are' if missed > 1 else ' is'} missed."]
    return out


def managed(b):
    """The tables of managed memory."""
    out = heading("Managed memory: faults")
    out += [f"  {'':<47} {'instructions':>12} {'module':>7} {'virtual µs':>10}"]
    names = (("shared", "load of a memory file's page, mapped by the fault"), ("mfault", "load of a page of the device's, alone"),
             ("dfault", "a job's fault, of 256 neighbours at once"), ("dscatter", "the same, of pages that are 8 apart"))
    for section, text in names:
        f = b.fault(section)
        out += [f"  {clip(text):<47} {f['instructions']:>12,.0f} {f['of_the_module']:>7,.0f} {us(f['ns_per_operation']):>10}"]
    out += ["  module: of them in vfetch itself, not in what it calls of the kernel", ""]
    out += ["  " + " " * 31 + "".join(f"{name:>11}" for name in ("mfault", "dfault", "dscatter"))]
    for name, _ in profile_trace.GROUPS:
        values = [b.fault(section)["groups"].get(name, 0) for section in ("mfault", "dfault", "dscatter")]
        if max(values) >= 0.5:
            out += [f"  {name:<31}" + "".join(f"{v:>11,.0f}" for v in values)]
    fast, slow = b.load_shares()
    f = b.fault("mload")
    out += ["", "  Loads of what the device has, in order, one of each page, with the policy auto:",
            f"  {f['host_faults']} faults for {f['count']:,} pages; {slow:.1%} of a link of {SLOW_BYTES_PER_US / 1000:g} bytes a ns, "
            f"{fast:.1%} of one of {b.link['link_bytes_per_us'] / 1000:g}."]
    out += ["", "  Jobs whose data is on the device, µs: in a flat space, and managed:"]
    jobs = list(b.job_times())
    for some in (jobs[:5], jobs[5:]):
        out += ["  " + " " * 9 + "".join(f"{job:>11}" for job, _, _ in some),
                "  flat     " + "".join(f"{us(flat):>11}" for _, flat, _ in some),
                "  managed  " + "".join(f"{us(resident):>11}" for _, _, resident in some)]
    out += ["", "  Faults that it takes to read a block of the device's page by page:",
            "  threshold " + "".join(f"{t:>6}" for t in DECISIONS),
            "  measured  " + "".join(f"{b.decisions().get(t, '-'):>6}" for t in DECISIONS),
            "  known     " + "".join(f"{n:>6}" for n in DECISIONS.values())]
    return out


def clip(text):
    return profile_trace.clip(text, 47)


def count(kinds):
    """['pf', 'vf', 'vf'] → ['PF', '2 VFs']"""
    vfs = kinds.count("vf")
    return ["PF"] * kinds.count("pf") + ([f"{vfs} VF{'s' if vfs > 1 else ''}"] if vfs else [])


def main(argv):
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("folder")
    p.add_argument("--json", help="where results.json goes")
    a = p.parse_args(argv)
    try:
        b = Bench(a.folder)
        lines = show(b)
        wanted = [{k: v for k, v in w.items() if k != "show"} for w in b.wanted()]
    except (OSError, ValueError, KeyError, IndexError) as e:
        print(f"bench: the measurements are not complete: {e!r}", file=sys.stderr)
        return 1
    print("\n".join(lines))
    if a.json:
        os.makedirs(os.path.dirname(a.json) or ".", exist_ok=True)
        with open(a.json, "w", encoding="utf-8") as f:
            json.dump({"boot": b.boot, "link": b.link, "functions": b.functions, "calibration": b.calibration,
                       "wanted": wanted, "own_cost_of_4k_read": b.own(), "results": b.results,
                       "operations": b.operations, "managed": b.managed, "slow_link": b.slow, "jobs": b.jobs}, f, indent=1)
            f.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
