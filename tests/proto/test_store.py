#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The store of a daemon: what is found again after a restart and by whom, and what is wrong with its files.

A daemon that is killed has lost nothing that the store had; what an epoch's end has ended stays ended, also when the
kill comes right behind the answer; nobody finds what another tenant, or another geometry, has put there. A store that
is in use, foreign, cut or taken away costs a refusal to start with a reason, or misses, and nobody an error.

usage: test_store.py kvbrokerd=PATH broker-ctl=PATH client=PATH kvb-store=PATH libcuda=PATH broker=PATH
           fault-points=true|false: whether the daemon has them
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

PROGRAMS = dict(arg.split("=", 1) for arg in sys.argv[1:])
sys.path.insert(0, os.path.dirname(PROGRAMS["broker"]))
from broker import Broker, TENANTS, WAIT_S, report, wait_until  # noqa: E402
from tier_engine import TierEngine  # noqa: E402

STORE_MIB = 260
KEYS = 1000  # of the client's pages of 128 KiB; the device has room for half of them
LOCK_WAIT_S = 5


class Engine(TierEngine):
    def __init__(self, broker, tenant="default", *geometry):
        super().__init__(PROGRAMS["client"], broker, "host:0", tenant, *geometry)

    def fill(self, n=KEYS, first=0):
        if not first:
            self.do("grow 32", "grown")
        assert self.do("put %d %d" % (first, n), "put") == [n]

    def get(self, first=0, n=KEYS):
        """How many of the keys came, each with its bytes, and how many of those from below."""
        return tuple(self.do("get %d %d" % (first, n), "got")[:2])

    def found(self, first=0, n=KEYS):
        return sum(self.do("look %d 1" % key, "found")[0] for key in range(first, first + n, 10))

    def epoch(self):
        return self.do("epoch", "epoch")[0]


class Stage:
    """Daemons, one after the other, over one store."""

    def __init__(self, mib=STORE_MIB):
        self.folder = tempfile.mkdtemp(prefix="kvb-store-", dir=".")
        self.path, self.size, self.broker, self.engines = self.folder + "/store", "%dM" % mib, None, []

    def start(self, *more, **how):
        self.broker = Broker(PROGRAMS, args=(*TENANTS, "--host-tier", "0", "--store", "%s=%s" % (self.path, self.size),
                                             "--store-admit", "all", *more), **how)
        return self.broker

    def engine(self, *which):
        self.engines.append(Engine(self.broker, *which))
        return self.engines[-1]

    def end_engines(self):
        for e in self.engines:
            e.end()
        self.engines = []

    def kill(self):
        """As a crash: the engines are left without their daemon."""
        self.broker.kill()
        for e in self.engines:
            e.kill()
        self.engines = []

    def stop(self):
        self.end_engines()
        self.broker.check_at_rest()
        self.broker.stop()

    def refused(self, *words):
        assert self.broker.code == 1, (self.broker.code, self.broker.text())
        self.broker.check_words()
        for word in words:
            assert word in self.broker.text(), self.broker.text()
        self.broker.kill()

    def fsck(self):
        p = subprocess.run([PROGRAMS["kvb-store"], "fsck", "--deep", self.path], capture_output=True, text=True, check=False)
        assert p.returncode == 0, p

    def close(self):
        if self.broker:
            self.kill()
        shutil.rmtree(self.folder)


def staged(run, **how):
    def case():
        stage = Stage(**how)
        try:
            return run(stage)
        finally:
            stage.close()
    return case


# ---- what is found again -------------------------------------------------------------------------

def comes_back(stage, end):
    stage.start()
    e = stage.engine()
    e.fill()
    got, below = e.get()
    assert got == KEYS and below > KEYS // 4, (got, below)
    end()
    stage.fsck()
    stage.start()
    e = stage.engine()
    e.do("grow 32", "grown")
    got, below = e.get()
    assert below > KEYS // 4 and got == below, (got, below)
    stage.stop()
    return "%d of %d" % (got, KEYS)


def warm_after_a_stop(stage):
    return comes_back(stage, stage.stop)


def fault_064_warm_after_a_kill(stage):
    return comes_back(stage, stage.kill)


def i6_an_ended_epoch_stays_ended(stage):
    """Also when the daemon dies right behind the answer."""
    stage.start()
    e = stage.engine()
    e.fill()
    before, = e.do("bump", "epoch")
    stage.kill()
    stage.start()
    e = stage.engine()
    assert e.epoch() == before > 1, (e.epoch(), before)
    assert e.found() == 0
    e.fill()
    assert e.get()[0] == KEYS
    stage.kill()
    stage.start()
    e = stage.engine()
    assert e.epoch() == before and e.found() > KEYS // 40
    stage.stop()


def fault_093_nobody_finds_what_is_not_theirs(stage):
    """Another tenant has its own pages and epoch under the same digest, another geometry none."""
    stage.start()
    for tenant in ("default", "other"):
        stage.engine(tenant).fill()
        stage.end_engines()
    stage.engine("other").do("bump", "epoch")
    stage.kill()
    stage.start()
    mine, theirs = stage.engine("default"), stage.engine("other")
    assert (mine.epoch(), theirs.epoch()) == (1, 2), (mine.epoch(), theirs.epoch())
    assert theirs.found() == 0 and mine.found() > KEYS // 40, (theirs.found(), mine.found())
    for geometry in ((131072, 1), (65536, 1), (32768, 4)):
        assert stage.engine("default", *geometry).found() == 0, geometry
    stage.end_engines()
    e = stage.engine("default")
    e.do("grow 32", "grown")
    assert e.get()[0] > KEYS // 4  # with the bytes of this tenant
    stage.stop()


# ---- whose it is ---------------------------------------------------------------------------------

def a_store_in_use_is_refused(stage):
    """To a second daemon and to kvb-store, after a wait; who waits takes it when the holder dies."""
    stage.start()
    holder, began = stage.broker, time.monotonic()
    stage.start()
    assert time.monotonic() - began >= LOCK_WAIT_S - 0.5, "it did not wait"
    stage.refused("is a broker running on it")
    p = subprocess.run([PROGRAMS["kvb-store"], "fsck", stage.path], capture_output=True, text=True, check=False)
    assert p.returncode == 4, p
    killer = subprocess.Popen(["sh", "-c", "sleep 1.5; kill -9 %d" % holder.proc.pid])
    stage.start()
    killer.wait()
    assert stage.broker.code is None, stage.broker.text()
    stage.engine().fill(10)
    stage.stop()
    holder.kill()


def what_is_foreign_is_refused_and_untouched(stage):
    text = b"a letter to keep\n" * 100000
    with open(stage.path, "wb") as f:
        f.write(text)
    stage.start()
    stage.refused(stage.path)
    with open(stage.path, "rb") as f:
        assert f.read() == text
    os.remove(stage.path)
    os.mkdir(stage.path)
    stage.start()
    stage.refused(stage.path)


# ---- files that go wrong -------------------------------------------------------------------------

def goes_on_without(stage, spoil, seen):
    """Its store is spoilt under it: misses, no errors, and it stops well."""
    stage.start()
    e = stage.engine()
    e.fill()
    spoil(stage.path)
    if seen:
        wait_until(lambda: stage.broker.json("status")["store"]["parts"][0]["failed"], "it is not seen")
    e.get()
    e.fill(KEYS, first=2000)
    e.get(2000)
    assert e.get(2990, 10)[0] == 10
    stage.stop()


def cut(path):
    os.truncate(path, 8 << 20)


def replace(path):
    os.rename(path, path + ".old")
    with open(path, "wb") as f:
        f.write(b"something else")


def fault_080_no_space(stage):
    stage.size = "900T"
    stage.start()
    stage.refused("find room for it")


def options_are_checked(stage):
    for args, words in ((("--device", "cuda:0=64M", "--store", "/none=1G"), "--host-tier"),
                        (("--device", "host:0=64M", "--store", "/none=much"), "not a size"),
                        (("--device", "host:0=64M", "--store", "=1G"), "no path"),
                        (("--device", "host:0=64M", "--store", "/none=1G", "--store", "/none=2G"), "twice"),
                        (("--device", "host:0=64M", "--store-admit", "some"), "--store-admit")):
        p = subprocess.run([PROGRAMS["kvbrokerd"], "--socket", stage.folder + "/s", "--state-dir", stage.folder, *args],
                           capture_output=True, text=True, timeout=WAIT_S, check=False)
        assert p.returncode in (1, 2) and words in p.stderr, (args, p)
    stage.size = "1M"
    stage.start()
    stage.refused("a store has at least")


def fault_072_fails(point, k):
    """The k-th such call of the store fails: a miss at most."""
    def run(stage):
        stage.start(env={"KVB_FAULT": "%s:%d:5" % (point, k)})
        if stage.broker.code is not None:
            stage.refused("store: ")
            return "does not start"
        e = stage.engine()
        e.fill()
        got = e.get()[0]
        e.fill(KEYS, first=2000)
        stage.stop()
        stage.fsck()
        return "%d of %d" % (got, KEYS)
    return staged(run)


def main():
    cases = [
        *((run.__name__, staged(run)) for run in (
            warm_after_a_stop, fault_064_warm_after_a_kill, i6_an_ended_epoch_stays_ended,
            fault_093_nobody_finds_what_is_not_theirs, a_store_in_use_is_refused,
            what_is_foreign_is_refused_and_untouched, fault_080_no_space, options_are_checked)),
        *(("fault_080_%s" % spoil.__name__, staged(lambda stage, how=(spoil, seen): goes_on_without(stage, *how)))
          for spoil, seen in ((cut, True), (replace, False), (os.remove, True))),
        *(("fault_072_%s_%d" % (point, k), fault_072_fails(point, k))
          for point, ks in (("store-read", (1, 9)), ("store-write", (1, 9, 80)), ("store-flush", (1, 3)), ("store-map", (1, 3)))
          for k in ks if PROGRAMS["fault-points"] == "true"),
    ]
    only = os.environ.get("STORE_ONLY")
    print("1..%d" % len(cases), flush=True)
    for n, (name, run) in enumerate(cases, 1):
        if not only or re.search(only, name):
            report(n, name, run)


main()
