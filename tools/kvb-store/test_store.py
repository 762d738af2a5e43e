# SPDX-License-Identifier: Apache-2.0
"""kvb-store on stores that were closed, killed, damaged, and are in use."""

import json
import os
import subprocess
import sys
import tempfile
import time
import unittest

KVB_STORE, FILL = sys.argv[1:3]
DIR = tempfile.TemporaryDirectory(dir=".")


def run(*args):
    return subprocess.run([KVB_STORE, *args], capture_output=True, text=True, check=False)


def fill(name, pages, end, size=20 << 20):
    path = os.path.join(DIR.name, name)
    subprocess.run([FILL, path, str(size), str(pages), end], check=True, stdout=subprocess.DEVNULL)
    return path


class Store(unittest.TestCase):
    def test_clean(self):
        path = fill("clean", 100, "close")
        for deep in ([], ["--deep"]):
            r = run("fsck", "-j", *deep, path)
            self.assertEqual(r.returncode, 0, r.stderr)
            o = json.loads(r.stdout)
            self.assertEqual((o["ok"], o["pages"], o["bad"]), (True, 100, 0))
            self.assertEqual(o["segments_scanned"], 0)
        self.assertIn("100 pages", run("info", path).stdout)
        info = json.loads(run("info", "-j", path).stdout)
        self.assertEqual((info["pages"], info["clean"], len(info["namespaces"])), (100, True, 1))

    def test_killed(self):
        path = fill("killed", 50, "kill")
        r = run("fsck", "--deep", "-j", path)
        o = json.loads(r.stdout)
        self.assertEqual((r.returncode, o["ok"], o["pages"], o["bad"]), (0, True, 50, 0))
        self.assertGreater(o["segments_scanned"], 0)
        self.assertFalse(json.loads(run("info", "-j", path).stdout)["clean"])

    def test_damage_is_found(self):
        path = fill("damaged", 60, "close")
        lines = [json.loads(x) for x in run("dump", "-j", path).stdout.splitlines()]
        self.assertEqual(len(lines), 60)
        page = lines[17]
        at = (4 << 20) + page["segment"] * (1 << 20) + page["unit"] * 4096
        with open(path, "r+b") as f:
            f.seek(at + 1000)
            byte = f.read(1)[0]
            f.seek(at + 1000)
            f.write(bytes([byte ^ 16]))
        r = run("fsck", "-j", path)
        self.assertEqual((r.returncode, json.loads(r.stdout)["ok"]), (0, True))
        r = run("fsck", "--deep", "-j", path)
        o = json.loads(r.stdout)
        self.assertEqual((r.returncode, o["ok"], o["pages"], o["bad"]), (1, False, 60, 1))
        self.assertIn(f"segment {page['segment']}", o["first"])

    def test_superblocks_gone(self):
        path = fill("heads", 5, "close")
        with open(path, "r+b") as f:
            for copy in range(3):
                f.seek(copy << 20)
                f.write(b"\xff" * 64)
        r = run("fsck", "-j", path)
        self.assertEqual((r.returncode, json.loads(r.stdout)["ok"]), (1, False))

    def test_in_use(self):
        path = os.path.join(DIR.name, "used")
        with subprocess.Popen([FILL, path, str(20 << 20), "3", "hold"], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True) as p:
            self.assertEqual(p.stdout.readline(), "ready\n")
            start = time.monotonic()
            r = run("fsck", path)
            self.assertEqual(r.returncode, 4)
            self.assertGreater(time.monotonic() - start, 4.5)
            self.assertIn("broker", r.stderr)
            self.assertEqual(run("wipe", "-y", path).returncode, 4)
            p.stdin.close()
        self.assertEqual(run("fsck", path).returncode, 0)

    def test_wipe(self):
        path = fill("wiped", 10, "close")
        r = run("wipe", path)
        self.assertEqual(r.returncode, 3)
        self.assertIn("--yes", r.stderr)
        self.assertEqual(run("wipe", "--yes", path).returncode, 0)
        self.assertEqual(run("info", path).returncode, 3)
        self.assertEqual(os.stat(path).st_blocks * 512 < 8 << 20, True)
        fill("wiped", 3, "close")
        self.assertEqual(json.loads(run("fsck", "-j", path).stdout)["pages"], 3)

    def test_usage(self):
        self.assertEqual(run().returncode, 2)
        self.assertEqual(run("fsck").returncode, 2)
        self.assertEqual(run("mend", "x").returncode, 2)
        self.assertEqual(run("info", "--deep", "x").returncode, 2)
        self.assertEqual(run("--help").returncode, 0)
        self.assertEqual(run("fsck", "--help").returncode, 0)
        self.assertEqual(run("fsck", os.path.join(DIR.name, "none")).returncode, 3)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
