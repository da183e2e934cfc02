# SPDX-License-Identifier: GPL-2.0
"""The device without a guest: QEMU's qtest protocol, enough of PCI to reach the
functions, and a driver of queues that does what it is told, wrong things too.

Every number comes out of include/vfetch_hw.h; see Header.
"""

import base64
import functools
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import tempfile
from collections import namedtuple

TOP = os.path.realpath(os.path.join(os.path.dirname(__file__), "../../.."))


class Header:
    """The #defines of C headers as attributes, its structs as Struct."""

    _SIZES = {"__u8": "B", "__u16": "H", "__u32": "I", "__u64": "Q"}

    def __init__(self, prefix, *paths):
        for path in paths:
            self._read(re.sub(r"/\*.*?\*/", "", open(path).read(), flags=re.S), prefix)

    def _read(self, text, prefix):
        for name, value in re.findall(rf"^#define\s+{prefix}(\w+)[ \t]+(\S.*?)\s*$", text, re.M):
            if re.fullmatch(r"[\w() <]+", value):
                setattr(self, name, eval(re.sub(r"(?i)\b(0x[0-9a-f]+|[0-9]+)(ull?)?\b", r"\1", value)))
        for name, body in re.findall(rf"struct {prefix.lower()}(\w+)\s*{{(.*?)}};", text, re.S):
            code, fields = "<", []
            for kind, field, count in re.findall(r"(__u\d+)\s+(\w+)(?:\[(\w+)\])?;", body):
                for i in range(int(count or 1) if count.isdigit() or not count
                               else getattr(self, count.removeprefix(prefix))):
                    code += self._SIZES[kind]
                    fields.append(field + (str(i) if count else ""))
            setattr(self, name, Struct(code, fields))


class Struct:
    def __init__(self, code, fields):
        self.fields = fields
        self._code = struct.Struct(code)
        self.size = self._code.size
        self._tuple = namedtuple("Fields", fields, defaults=[0] * len(fields))

    def pack(self, **values):
        return self._code.pack(*self._tuple(**values))

    def unpack(self, data):
        return self._tuple(*self._code.unpack(data))

    def offset(self, field):
        i = self.fields.index(field)
        return struct.calcsize(self._code.format[: i + 1])


HW = Header("VFETCH_", os.path.join(TOP, "include/uapi/linux/vfetch_job.h"), os.path.join(TOP, "include/vfetch_hw.h"))


class Port(namedtuple("Port", "name devfn bus mem32 mem64")):
    """A root port: a hot-plug slot, and the addresses behind it. The second one
    has 256 MiB below 4 GiB, the first one twice as much."""


PORTS = (Port("rp", 4 << 3, 1, 0xC0000000, 0x10_0000_0000), Port("rp2", 5 << 3, 2, 0xE0000000, 0x20_0000_0000))


class Machine:
    """A q35 with two hot-plug slots and, unless told otherwise, a device in the
    first. Another one goes into the second: see plug_second."""

    RAM = 64 << 20
    ECAM = 0xB0000000
    SLOT = PORTS[0].devfn
    MEM32 = PORTS[0].mem32
    MEM64 = PORTS[0].mem64

    def __init__(self, plug=True, native_hotplug=True, qemu=(), **properties):
        self.dir = tempfile.mkdtemp(prefix="vfetch-qtest-")
        self.properties = properties
        self.log = open(os.path.join(self.dir, "log"), "w+b")
        listeners = {}
        for name in ("qtest", "qmp"):
            s = socket.socket(socket.AF_UNIX)
            s.bind(os.path.join(self.dir, name))
            s.listen(1)
            s.settimeout(20)
            listeners[name] = s
        command = [
            "qemu-system-x86_64", "-machine", "q35", "-accel", "qtest", "-m", str(self.RAM >> 20),
            "-nodefaults", "-display", "none",
            # The port's own hot plug, not ACPI's.
            "-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=" + ("off" if native_hotplug else "on"),
            "-qtest", f"unix:{self.dir}/qtest", "-qtest-log", "none", "-qmp", f"unix:{self.dir}/qmp",
        ]
        for n, port in enumerate(PORTS, 1):
            command += ["-device", f"pcie-root-port,id={port.name},addr={port.devfn >> 3},chassis={n},slot={n}"]
        command += qemu
        if plug:
            command += ["-device", ",".join(["vfetch", "id=dev", "bus=rp"] + self._options())]
        so = os.environ["VFETCH_DEVICE_SO"]
        qtest = os.path.join(os.path.dirname(so), "qtest-accel.so")
        wrap = os.environ.get("VFETCH_DEVICE_WRAP", "").split()
        self.process = subprocess.Popen([*wrap, "env", f"LD_PRELOAD={so}:{qtest}", *command],
                                        stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self._connections = []
        try:
            self._qtest = self._accept(listeners["qtest"])
            self._qmp = self._accept(listeners["qmp"])
        except Exception:
            self.close()
            raise
        finally:
            for s in listeners.values():
                s.close()
        self._events = []
        self._qmp_line()
        self.qmp("qmp_capabilities")
        self.free = 1 << 20
        self.now = 0
        self._setup_bridge()
        self.pf = PF(self) if plug else None

    def _options(self):
        return [f"{k.replace('__', '-')}={v}" for k, v in self.properties.items()]

    def _accept(self, listener):
        while True:
            listener.settimeout(0.2)
            try:
                connection, _ = listener.accept()
                break
            except socket.timeout:
                if self.process.poll() is not None:
                    raise Died(self.output()) from None
        self._connections.append(Connection(connection))
        return self._connections[-1]

    def output(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def resident(self):
        """Bytes of memory that QEMU takes."""
        with open(f"/proc/{self.process.pid}/statm") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def close(self):
        """Ends QEMU; returns its exit status (negative: killed by that signal)."""
        if self.process.poll() is None:
            try:
                self.qmp("quit")
                self.process.wait(10)
            except Exception:
                self.process.kill()
        status = self.process.wait()
        for connection in self._connections:
            connection.close()
        self.log.close()
        shutil.rmtree(self.dir, ignore_errors=True)
        return status

    # ---- qtest --------------------------------------------------------------

    def command(self, *words):
        self._qtest.send(" ".join(str(w) for w in words))
        while True:
            line = self._qtest.line().strip()
            if not line:
                self._died(" ".join(str(w) for w in words)[:100])
            if line.startswith("IRQ"):
                continue
            status, *rest = line.split()
            if status != "OK":
                raise RuntimeError(f"{words}: {line}")
            return rest

    def read(self, addr, size):
        letter = {1: "b", 2: "w", 4: "l", 8: "q"}[size]
        return int(self.command("read" + letter, hex(addr))[0], 0) & ((1 << 8 * size) - 1)

    def write(self, addr, size, value):
        letter = {1: "b", 2: "w", 4: "l", 8: "q"}[size]
        self.command("write" + letter, hex(addr), hex(value & ((1 << 8 * size) - 1)))

    def peek(self, addr, size):
        return base64.b64decode(self.command("b64read", hex(addr), size)[0]) if size else b""

    def poke(self, addr, data):
        if data:
            self.command("b64write", hex(addr), len(data), base64.b64encode(data).decode())

    def step(self, ns):
        """Lets ns nanoseconds pass."""
        self.now = int(self.command("clock_step", ns)[0], 0)

    def alloc(self, size, align=4096):
        """Host memory, never given back: machines are short-lived."""
        self.free = -(-self.free // align) * align
        addr = self.free
        self.free += size
        if self.free > self.RAM:
            raise MemoryError("out of guest memory")
        return addr

    def _died(self, at):
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            pass
        raise Died(f"QEMU ended ({self.process.returncode}) at: {at}\n{self.output()}")

    # ---- QMP ----------------------------------------------------------------

    def qmp(self, execute, **arguments):
        self._qmp.send(json.dumps({"execute": execute, "arguments": arguments}))
        while True:
            answer = self._qmp_line()
            if "event" in answer:
                self._events.append(answer)
            elif "error" in answer:
                raise QmpError(answer["error"]["desc"])
            else:
                return answer["return"]

    def _qmp_line(self):
        line = self._qmp.line()
        if not line:
            self._died("QMP")
        return json.loads(line)

    def event(self, name):
        """Waits for an event."""
        while True:
            for e in self._events:
                if e["event"] == name:
                    self._events.remove(e)
                    return e
            answer = self._qmp_line()
            if "event" in answer:
                self._events.append(answer)

    def plug(self, **properties):
        self.properties = properties or self.properties
        self._device_add("dev", PORTS[0], self.properties)

    def plug_second(self, **properties):
        """Another device, "dev2", in the second slot. Returns its PF."""
        self._device_add("dev2", PORTS[1], properties)
        Slot(self, PORTS[1]).control(Slot.POWER_ON)
        return PF(self, PORTS[1])

    def _device_add(self, name, port, properties):
        options = {k.replace("__", "-"): v for k, v in properties.items()}
        self.qmp("device_add", driver="vfetch", id=name, bus=port.name, **options)

    def inject(self, text):
        self.qmp("qom-set", path="dev", property="x-inject", value=text)

    def injected(self):
        return self.qmp("qom-get", path="dev", property="x-inject")

    # ---- PCI ----------------------------------------------------------------

    def config(self, bus, devfn):
        return self.ECAM + (bus << 20) + (devfn << 12)

    def capabilities(self, config):
        """Offsets by id, of the function whose configuration space is there."""
        found, at = {}, self.read(config + 0x34, 1)
        if at == 0xFF:
            raise LookupError(f"no function answers at {config:#x}")
        while at:
            found[self.read(config + at, 1)] = at
            at = self.read(config + at + 1, 1)
        return found

    def _setup_bridge(self):
        self.command("outl", "0xcf8", "0x80000064")
        self.command("outl", "0xcfc", "0x0")
        self.command("outl", "0xcf8", "0x80000060")
        self.command("outl", "0xcfc", hex(self.ECAM | 1))
        for port in PORTS:
            slot = self.config(0, port.devfn)
            self.write(slot + 0x18, 4, port.bus << 16 | port.bus << 8)  # secondary and subordinate bus
            limit = port.mem32 + (0x1FFFFFFF if port is PORTS[0] else 0x0FFFFFFF)
            self.write(slot + 0x20, 4, (limit & 0xFFF00000) | port.mem32 >> 16)
            base, limit = port.mem64, port.mem64 + (1 << 36) - 1
            self.write(slot + 0x24, 4, (limit & 0xFFF00000) | (base >> 16) & 0xFFF0)
            self.write(slot + 0x28, 4, base >> 32)
            self.write(slot + 0x2C, 4, limit >> 32)
            self.write(slot + 0x04, 2, 0x6)


class Connection:
    """Lines over a socket; an empty one when the other side is gone."""

    def __init__(self, sock):
        sock.settimeout(30)
        self._sock = sock
        self._lines = sock.makefile("rb")

    def send(self, text):
        try:
            self._sock.sendall(text.encode() + b"\n")
        except ConnectionError:
            pass

    def line(self):
        try:
            return self._lines.readline().decode()
        except ConnectionError:
            return ""

    def close(self):
        self._lines.close()
        self._sock.close()


class Died(Exception):
    """QEMU ended by itself."""


class QmpError(Exception):
    pass


CAP_EXP, CAP_MSIX = 0x10, 0x11
EXT_ARI, EXT_SRIOV = 0x0E, 0x10
COMMAND_MEMORY, COMMAND_MASTER = 2, 4


class Function:
    """A PCI function whose BARs have been placed."""

    def __init__(self, machine, port, devfn, bars):
        self.m = machine
        self.port = port
        self.devfn = devfn
        self.config = machine.config(port.bus, devfn)
        self.bar = bars
        self.queues = {}

    def cfg(self, offset, size=4):
        return self.m.read(self.config + offset, size)

    def set_cfg(self, offset, size, value):
        self.m.write(self.config + offset, size, value)

    @functools.cached_property
    def cap(self):
        return self.m.capabilities(self.config)

    def extended(self):
        found, at = {}, 0x100
        while at:
            header = self.cfg(at)
            if not header or header == 0xFFFFFFFF:
                break
            found[header & 0xFFFF] = at
            at = header >> 20
        return found

    def enable(self, bits=COMMAND_MEMORY | COMMAND_MASTER):
        self.set_cfg(4, 2, bits)
        return self

    def flr(self):
        """A function level reset, and what Linux restores after it."""
        bars = [self.cfg(0x10 + 4 * i) for i in range(6)]
        self.set_cfg(self.cap[CAP_EXP] + 8, 2, 0x8000)
        for i, bar in enumerate(bars):
            self.set_cfg(0x10 + 4 * i, 4, bar)
        self.queues = {}
        self.enable()

    def reg(self, offset, size=4):
        return self.m.read(self.bar[HW.BAR_REGS] + offset, size)

    def set_reg(self, offset, value, size=4):
        self.m.write(self.bar[HW.BAR_REGS] + offset, size, value)

    def counter(self, name):
        return self.reg(getattr(HW, "REG_" + name), 4 if name.startswith("DEPTH") else 8)

    def window(self, offset, size):
        return self.m.peek(self.bar[HW.BAR_WINDOW] + offset, size)

    def set_window(self, offset, data):
        self.m.poke(self.bar[HW.BAR_WINDOW] + offset, data)

    def msix(self, vector):
        """Sends a vector's messages to host memory. Returns a counter of them:
        a message writes the data that was set, so 0 there means none since."""
        where = self.m.alloc(4, 4)
        entry = self.bar[HW.BAR_MSIX] + 16 * vector
        for i, value in enumerate((where, 0, 0x1000 + vector, 0)):
            self.m.write(entry + 4 * i, 4, value)
        self.set_cfg(self.cap[CAP_MSIX] + 2, 2, 0x8000)
        return Message(self.m, where)

    def queue(self, index=0, **settings):
        self.queues[index] = Queue(self, index, **settings)
        return self.queues[index]


class Message:
    def __init__(self, machine, where):
        self.m = machine
        self.where = where

    def taken(self):
        """Has there been a message since the last call?"""
        value = self.m.read(self.where, 4)
        self.m.write(self.where, 4, 0)
        return value != 0


class PF(Function):
    def __init__(self, machine, port=PORTS[0]):
        m32, m64 = port.mem32, port.mem64
        bars = {HW.BAR_REGS: m32, HW.BAR_MSIX: m32 + 0x10000, HW.BAR_TEST: m32 + 0x20000,
                HW.BAR_WINDOW: m64}
        config = machine.config(port.bus, 0)
        for bar, base in bars.items():
            machine.write(config + 0x10 + 4 * bar, 4, base & 0xFFFFFFFF)
        machine.write(config + 0x14 + 4 * HW.BAR_WINDOW, 4, m64 >> 32)
        super().__init__(machine, port, 0, bars)
        self.enable()
        self.vfs = []

    def place_vf_bars(self):
        sriov = self.extended()[EXT_SRIOV]
        m32, m64 = self.port.mem32 + 0x1000000, self.port.mem64 + (1 << 35)
        bases = {HW.BAR_REGS: m32, HW.BAR_MSIX: m32 + 0x1000000, HW.BAR_WINDOW: m64}
        strides = {}
        for bar, base in bases.items():
            at = sriov + 0x24 + 4 * bar
            self.set_cfg(at, 4, 0xFFFFFFFF)
            mask = self.cfg(at)
            size = (~(mask & ~0xF) & 0xFFFFFFFF) + 1
            strides[bar] = size
            self.set_cfg(at, 4, base & 0xFFFFFFFF)
        self.set_cfg(sriov + 0x28 + 4 * HW.BAR_WINDOW, 4, m64 >> 32)
        return sriov, bases, strides

    def enable_vfs(self, n):
        """SR-IOV on with n VFs; returns them."""
        sriov, bases, strides = self.place_vf_bars()
        self.set_cfg(sriov + 0x10, 2, n)
        self.set_cfg(sriov + 0x08, 2, 0x19)  # VF enable, memory, ARI
        first, stride = self.cfg(sriov + 0x14, 2), self.cfg(sriov + 0x16, 2)
        self.vfs = []
        for i in range(n):
            bars = {bar: base + i * strides[bar] for bar, base in bases.items()}
            vf = Function(self.m, self.port, first + i * stride, bars)
            self.vfs.append(vf.enable())
        return self.vfs

    def disable_vfs(self):
        sriov = self.extended()[EXT_SRIOV]
        self.set_cfg(sriov + 0x08, 2, 0)
        self.vfs = []

    def partition(self, index, base, size, weight=None):
        """Returns VFETCH_PART_*."""
        self.set_reg(HW.REG_PART_INDEX, index)
        self.set_reg(HW.REG_PART_BASE, base, 8)
        self.set_reg(HW.REG_PART_SIZE, size, 8)
        if weight is not None:
            self.set_reg(HW.REG_PART_WEIGHT, weight)
        self.set_reg(HW.REG_PART_COMMAND, HW.PART_APPLY)
        return self.reg(HW.REG_PART_RESULT)

    def share_out(self, n, weights=None):
        """n VFs, and memory in n + 1 equal parts. Returns all functions, PF first."""
        granule = self.reg(HW.REG_PART_GRANULE)
        part = self.reg(HW.REG_MEM_TOTAL, 8) // (n + 1) // granule * granule
        for i in range(n + 1):
            result = self.partition(i, i * part, part, weights[i] if weights else None)
            if result != HW.PART_OK:
                raise RuntimeError(f"partition {i}: {result}")
        return [self] + self.enable_vfs(n)

    def test(self, offset, size=4):
        return self.m.read(self.bar[HW.BAR_TEST] + offset, size)

    def set_test(self, offset, value, size=4):
        self.m.write(self.bar[HW.BAR_TEST] + offset, size, value)


class Slot:
    """A root port's hot-plug registers, and its message."""

    # Offsets in the PCI Express capability, and bits there.
    LNKSTA, SLTCTL, SLTSTA = 0x12, 0x18, 0x1A
    DLLLA = 1 << 13
    PDS, PDC, ABP = 1 << 6, 1 << 3, 1 << 0
    HPIE, PDCE, ABPE = 1 << 5, 1 << 3, 1 << 0
    # The attention indicator is off in all. Linux removes power, waits for a
    # second and then switches the power indicator off.
    POWER_ON = 0x100 | 0xC0
    NO_POWER = 0x400 | 0x100 | 0xC0
    POWER_OFF = 0x400 | 0x300 | 0xC0

    def __init__(self, m, port=PORTS[0]):
        self.m = m
        self.config = m.config(0, port.devfn)
        caps = m.capabilities(self.config)
        self.cap = self.config + caps[CAP_EXP]
        self.where = m.alloc(4, 4)
        msix = self.config + caps[CAP_MSIX]
        # The port's MSI-X table is in its BAR0, behind what it forwards.
        end = port.mem32 + 0x10000000
        m.write(self.config + 0x10, 4, end - 0x1000)
        m.write(self.config + 0x20, 4, ((end - 0x100001) & 0xFFF00000) | port.mem32 >> 16)
        table = end - 0x1000 + (m.read(msix + 4, 4) & ~7)
        for i, value in enumerate((self.where, 0, 1, 0)):
            m.write(table + 4 * i, 4, value)
        m.write(msix + 2, 2, 0x8000)

    def status(self):
        return self.m.read(self.cap + self.SLTSTA, 2)

    def link(self):
        return self.m.read(self.cap + self.LNKSTA, 2)

    def control(self, value):
        self.m.write(self.cap + self.SLTCTL, 2, value)

    def interrupted(self):
        value = self.m.read(self.where, 4)
        self.m.write(self.where, 4, 0)
        return value != 0


class Queue:
    """A queue pair and its rings in host memory."""

    def __init__(self, function, index, order=6, vector=None, cls=HW.CLASS_ORDINARY,
                 enable=True, sq=None, cq=None):
        self.f = function
        self.m = function.m
        self.index = index
        self.at = HW.QUEUE_BASE + index * HW.QUEUE_STRIDE
        self.entries = 1 << order
        self.order = order
        self.sq = self.m.alloc(self.entries * HW.desc.size) if sq is None else sq
        self.cq = self.m.alloc(self.entries * HW.completion.size) if cq is None else cq
        self.tail = 0
        self.head = 0
        self.transaction = 0
        self.set(HW.QREG_SQ_BASE, self.sq, 8)
        self.set(HW.QREG_CQ_BASE, self.cq, 8)
        self.set(HW.QREG_ORDER, order)
        self.set(HW.QREG_VECTOR, index if vector is None else vector)
        self.set(HW.QREG_CLASS, cls)
        if enable:
            self.enable()

    def get(self, reg, size=4):
        return self.f.reg(self.at + reg, size)

    def set(self, reg, value, size=4):
        self.f.set_reg(self.at + reg, value, size)

    def enable(self):
        self.m.poke(self.cq, bytes(self.entries * HW.completion.size))
        self.tail = self.head = 0
        self.set(HW.QREG_CONTROL, HW.QCTL_ENABLE)

    def status(self):
        return self.get(HW.QREG_STATUS)

    def error(self):
        return (self.status() & HW.QSTAT_ERROR_MASK) >> HW.QSTAT_ERROR_SHIFT

    def reset(self):
        self.set(HW.QREG_CONTROL, HW.QCTL_RESET)

    def push(self, opcode, ring=True, **fields):
        """Writes a descriptor, and the doorbell. Returns its transaction id."""
        if "transaction" not in fields:
            self.transaction += 1
            fields["transaction"] = self.f.devfn << 48 | self.index << 40 | self.transaction
        slot = self.tail % self.entries
        self.m.poke(self.sq + slot * HW.desc.size, HW.desc.pack(opcode=opcode, **fields))
        self.tail = (self.tail + 1) & HW.INDEX_MASK
        if ring:
            self.ring()
        return fields["transaction"]

    def ring(self, tail=None):
        self.set(HW.QREG_SQ_TAIL, self.tail if tail is None else tail)

    def take(self, head=True, flags=0):
        """The completions that have been posted; gives their slots back."""
        out, size = [], HW.completion.size
        ring = self.m.peek(self.cq, self.entries * size)
        while len(out) < self.entries:
            at = self.head % self.entries * size
            c = HW.completion.unpack(ring[at:at + size])
            if (c.phase & HW.PHASE) != (~(self.head >> self.order) & 1):
                break
            out.append(c)
            self.head = (self.head + 1) & HW.INDEX_MASK
        if head:
            self.set(HW.QREG_CQ_HEAD, self.head | flags)
        return out

    def run(self, opcode, ns=10_000_000, **fields):
        """One descriptor to its end; returns its completion."""
        self.push(opcode, **fields)
        self.m.step(ns)
        completions = self.take()
        if len(completions) != 1:
            raise AssertionError(f"{len(completions)} completions for one descriptor")
        return completions[0]

    def write(self, device_addr, data, **fields):
        host = self.m.alloc(len(data), 1)
        self.m.poke(host, data)
        return self.run(HW.OP_WRITE, device_addr=device_addr, host_addr=host, bytes=len(data), **fields)

    def read(self, device_addr, size, **fields):
        """Returns the data; raises unless the status is OK."""
        host = self.m.alloc(size, 1)
        c = self.run(HW.OP_READ, device_addr=device_addr, host_addr=host, bytes=size, **fields)
        if c.status != HW.STATUS_OK:
            raise AssertionError(f"status {c.status}")
        return self.m.peek(host, size)

    def sg(self, *pieces):
        """A scatter list of (addr, bytes); returns its address and length."""
        at = self.m.alloc(len(pieces) * HW.sg.size)
        self.m.poke(at, b"".join(HW.sg.pack(addr=a, bytes=n) for a, n in pieces))
        return {"host_addr": at, "sg_entries": len(pieces), "flags": HW.DESC_SG}
