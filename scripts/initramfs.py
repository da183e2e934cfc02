# SPDX-License-Identifier: GPL-2.0
"""Makes the guest's initramfs: a cpio archive in the "newc" format, the same
bytes for the same contents (no times, no owners, inodes numbered in order)."""

import lzma
import os
import re
import shlex
import stat
import subprocess

PASSWD = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/tmp:/bin/sh\n"
GROUP = "root:x:0:\nnogroup:x:65534:\n"
FOLDERS = ("bin dev dev/pts etc host lib lib/modules proc root run sbin sys tmp usr usr/bin usr/sbin var").split()


class Archive:
    """Entries by name; written sorted, folders before what is in them."""

    def __init__(self):
        self.entries = {}
        for name in FOLDERS:
            self.folder(name)

    def folder(self, name):
        parent = os.path.dirname(name)
        if parent and parent not in self.entries:
            self.folder(parent)
        self.entries.setdefault(name, (stat.S_IFDIR | 0o755, b"", 0))

    def file(self, name, data, mode=0o644):
        self.folder(os.path.dirname(name)) if os.path.dirname(name) else None
        self.entries[name] = (stat.S_IFREG | mode, data, 0)

    def copy(self, name, path):
        with open(path, "rb") as f:
            self.file(name, f.read(), 0o755 if os.access(path, os.X_OK) else 0o644)

    def link(self, name, target):
        self.entries[name] = (stat.S_IFLNK | 0o777, target.encode(), 0)

    def node(self, name, major, minor):
        self.entries[name] = (stat.S_IFCHR | 0o600, b"", (major, minor))

    def tree(self, name, path):
        """A file or a folder with all that is in it; links stay links."""
        if os.path.islink(path):
            self.link(name, os.readlink(path))
        elif os.path.isdir(path):
            self.folder(name)
            for entry in os.listdir(path):
                self.tree(f"{name}/{entry}", f"{path}/{entry}")
        else:
            self.copy(name, path)

    def write(self, path):
        with open(path, "wb") as f:
            for number, name in enumerate(sorted(self.entries), 1):
                mode, data, device = self.entries[name]
                self._entry(f, name, number, mode, data, device or (0, 0))
            self._entry(f, "TRAILER!!!", 0, 0, b"", (0, 0))

    @staticmethod
    def _entry(f, name, number, mode, data, device):
        raw = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(raw), 0)
        head = b"070701" + b"".join(b"%08X" % v for v in fields) + raw
        f.write(head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4))


def kernel_modules(image, release, names):
    """The kernel's own modules `names` and what they need, in the order in
    which they load: (name, contents)."""
    base = f"{image}/lib/modules/{release}"
    needs, paths = {}, {}
    with open(f"{base}/modules.dep", encoding="ascii") as f:
        for line in f:
            path, _, rest = line.partition(":")
            name = module_name(path)
            paths[name] = path
            needs[name] = [module_name(p) for p in rest.split()]
    with open(f"{base}/modules.builtin.bin", "rb") as f:
        builtin = f.read()
    done = {}

    def add(name):
        name = name.replace("-", "_")
        if name in done:
            return
        if name not in needs:
            if re.search(rb"\b" + name.encode() + rb"\b", builtin):
                return
            raise SystemExit(f"vm: the kernel {release} has no module '{name}'")
        # modules.dep lists the deepest need last.
        for need in reversed(needs[name]):
            add(need)
        with open(f"{base}/{paths[name]}", "rb") as f:
            data = f.read()
        done[name] = lzma.decompress(data) if paths[name].endswith(".xz") else data

    for name in names:
        add(name)
    return list(done.items())


def module_name(path):
    return os.path.basename(path).split(".ko")[0].replace("-", "_")


def make(path, *, top, files, conf, tools=(), module=None, modules=(), qmp=False,
         results=False):
    """Writes the initramfs to `path`. files: files and folders for
    /host; conf: what /etc/vm.conf says; tools: programs for /usr/bin; module:
    vfetch.ko; modules: (name, contents) of further kernel modules."""
    a = Archive()
    a.node("dev/console", 5, 1)
    a.node("dev/null", 1, 3)
    a.copy("bin/busybox", "/bin/busybox")
    applets = subprocess.run(["/bin/busybox", "--list"], check=True, capture_output=True, text=True).stdout.split()
    for name in applets:
        if name != "busybox":
            a.link(f"bin/{name}", "busybox")
    a.file("etc/passwd", PASSWD.encode())
    a.file("etc/group", GROUP.encode())
    a.file("etc/profile", b"PS1='vfetch:\\w# '\n")
    a.copy("init", f"{top}/tests/guest/init")
    if qmp:
        a.copy("usr/bin/qmp", f"{top}/tests/guest/qmp")
    if results:
        a.copy("usr/bin/results", f"{top}/tests/guest/results")
    for tool in tools:
        a.copy(f"usr/bin/{os.path.basename(tool)}", tool)
    for name, data in modules:
        a.file(f"lib/modules/{name}.ko", data)
    if module:
        a.copy("lib/modules/vfetch.ko", module)
    conf = dict(conf, MODULES=" ".join(name for name, _ in modules))
    a.file("etc/vm.conf", "".join(f"VM_{k}={shlex.quote(str(v))}\n" for k, v in sorted(conf.items())).encode())
    for f in files:
        a.tree(f"host/{os.path.basename(f.rstrip('/'))}", f)
    a.write(path)
