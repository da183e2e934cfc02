# SPDX-License-Identifier: GPL-2.0
import os
import subprocess
import tempfile
import unittest

MIRROR = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../scripts/mirror.sh")

DEBIAN = """\
Types: deb
# http://archive.example/commented
URIs: http://debian.example/debian
Suites: trixie trixie-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://debian.example/debian-security
Suites: trixie-security
Components: main
"""


class Mirror(unittest.TestCase):
    """Which of this machine's package sources is the Debian mirror."""

    def mirror(self, **files):
        with tempfile.TemporaryDirectory() as folder:
            os.mkdir(f"{folder}/sources.list.d")
            for name, text in files.items():
                path = "sources.list" if name == "sources_list" else "sources.list.d/" + name.replace("_", ".")
                with open(f"{folder}/{path}", "w", encoding="ascii") as f:
                    f.write(text.replace("FOLDER", folder))
            p = subprocess.run([MIRROR, folder], capture_output=True, text=True, timeout=30)
        self.assertEqual(p.stderr, "")
        return p.stdout.strip() if p.returncode == 0 else None

    def test_debians_own_file(self):
        self.assertEqual(self.mirror(debian_sources=DEBIAN), "http://debian.example/debian")

    def test_other_programs_repositories_are_not_it(self):
        other = "Types: deb\nURIs: https://other.example/debian\nSuites: trixie\nComponents: main\n"
        self.assertEqual(self.mirror(a_sources=other, debian_sources=DEBIAN), "http://debian.example/debian")
        docker = "deb [arch=amd64 signed-by=/k.gpg] https://docker.example/linux/debian trixie stable\n"
        node = "Types: deb\nURIs: https://node.example/node_20.x\nSuites: nodistro\nComponents: main\n"
        self.assertEqual(self.mirror(a_list=docker, b_sources=node), None)
        self.assertEqual(self.mirror(a_list=docker, b_sources=node, sources_list="deb http://d.example/debian stable main\n"),
                         "http://d.example/debian")

    def test_one_line_entries_with_options_and_comments(self):
        text = ("# deb http://commented.example/ trixie main\ndeb cdrom:[Debian 13]/ trixie main\n"
                "deb http://s.example/debian-security trixie-security main\n"
                "deb [arch=amd64] https://line.example/debian trixie contrib main # ours\n")
        self.assertEqual(self.mirror(sources_list=text), "https://line.example/debian")

    def test_what_is_switched_off_is_not_it(self):
        off = DEBIAN.replace("Types: deb\n#", "Types: deb\nEnabled: no\n#")
        self.assertEqual(self.mirror(debian_sources=off), None)

    def test_values_over_several_lines(self):
        text = "Types: deb deb-src\nURIs:\n http://many.example/debian\nSuites: trixie\n  trixie-updates\nComponents:\n main\n"
        self.assertEqual(self.mirror(debian_sources=text), "http://many.example/debian")

    def test_a_cloud_images_list_of_mirrors(self):
        text = DEBIAN.replace("http://debian.example/debian\n", "mirror+file://FOLDER/sources.list.d/mirrors\n")
        self.assertEqual(self.mirror(debian_sources=text, mirrors="# first\nhttps://cloud.example/debian\tpriority:1\n"),
                         "https://cloud.example/debian")

    def test_another_distribution_has_none(self):
        text = "Types: deb\nURIs: http://ubuntu.example/ubuntu\nSuites: noble noble-updates\nComponents: main universe\n"
        self.assertEqual(self.mirror(ubuntu_sources=text), None)
