#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Host tiers: what does not fit a device goes down to host memory and comes back as it was.

Over the `host` device, which needs no driver, and over the stand-in. A mover that is killed, hangs
or cannot serve costs nobody more than misses; what it had is told its successor; with the daemon
nothing of it is left.

usage: test_tiers.py kvbrokerd=PATH broker-ctl=PATH client=PATH libcuda=PATH broker=PATH
           fault-points=true|false: whether the daemon has them
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time

PROGRAMS = dict(arg.split("=", 1) for arg in sys.argv[1:])
sys.path.insert(0, os.path.dirname(PROGRAMS["broker"]))
from broker import Broker, TENANTS, WAIT_S, report, wait_gone, wait_until  # noqa: E402
from tier_engine import TierEngine  # noqa: E402

ENV = {"FAKECUDA": "gpus=2,mem=8G", "LD_LIBRARY_PATH": os.path.dirname(PROGRAMS["libcuda"])}
DEADLINE_MS = 1500
HOST = ("host:0=64M",)


def broker_of(*devices, tier="64M", more=(), fail="", env=None):
    env = dict(ENV, FAKECUDA=ENV["FAKECUDA"] + fail, **(env or {}))
    return Broker(PROGRAMS, args=(*TENANTS, "--host-tier", tier, "--owner-deadline", str(DEADLINE_MS), *more),
                  env=env, devices=list(devices or HOST))


class Engine(TierEngine):
    def __init__(self, broker, device="host:0", tenant="default", *geometry):
        super().__init__(PROGRAMS["client"], broker, device, tenant, *geometry, env=ENV)

    def grow(self, slabs):
        """Its pages; what the device gives, no less than one slab."""
        self.say("grow %d" % slabs)
        return self.hear("grown")[0] * self.slab

    def put(self, first, n):
        self.say("put %d %d" % (first, n))
        got = self.hear("put")[0]
        assert got == n, (got, n)

    def get(self, first, n):
        """How many of the keys came, and how many of those from below; none took long."""
        self.say("get %d %d" % (first, n))
        got, below, worst_us = self.hear("got")
        assert worst_us < 2e6, "a call took %d us" % worst_us
        return got, below

    def look(self, first, n):
        self.say("look %d %d" % (first, n))
        return tuple(self.hear("found"))

    def below(self):
        self.say("below")
        return self.hear("below")[0]

    def ping(self, n):
        """The longest of n calls, in seconds."""
        self.say("ping %d" % n)
        return self.hear("worst")[0] / 1e6

    def shrink(self):
        self.say("shrink")
        self.hear("ok")


def movers(broker):
    """Processes of movers that this daemon has started and that run, by device."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open("/proc/%s/stat" % name) as f:
                state, parent = f.read().rsplit(")", 1)[1].split()[:2]
            with open("/proc/%s/cmdline" % name) as f:
                words = f.read().split("\0")
        except OSError:
            continue
        what = [w for w in words if w.startswith("--mover=")]
        if what and int(parent) == broker.proc.pid and state != "Z":
            found[what[0].split("=", 1)[1]] = int(name)
    return found


def mover(broker, device="host:0"):
    return wait_until(lambda: movers(broker).get(device), "no mover of %s: %s" % (device, broker.text()))


def wait_ready(broker, device="host:0", times=1):
    text = "device %s: its tier is ready" % device
    wait_until(lambda: broker.text().count(text) >= times, lambda: "never ready:\n" + broker.text())


def with_broker(run, *devices, **how):
    """Runs a case; afterwards tables are sound, and the daemon and its movers end."""
    broker = broker_of(*devices, **how)
    engines = []

    def engine(*which):
        engines.append(Engine(broker, *which))
        return engines[-1]

    try:
        assert broker.code is None, broker.text()
        for device in devices or HOST:
            wait_ready(broker, device.split("=")[0])
        said = run(broker, engine)
        for e in engines:
            e.end()
        engines.clear()
        broker.check_empty(fds=broker.fds + 16)
        pids = list(movers(broker).values())
        broker.stop()
        wait_gone(*pids)
        return said
    finally:
        for e in engines:
            e.kill()
        broker.kill()


# ---- cases -------------------------------------------------------------------------------------

def there_and_back(device="host:0", regions=2):
    """Half as much again as the device holds is written; more than it holds comes back."""
    def run(broker, engine):
        e = engine(device, "default", 65536, regions)
        assert e.below() == 1
        pages = e.grow(1000)
        n = pages + pages // 2
        e.put(0, n)
        for _ in range(2):  # the second time copies are below already
            got, below = e.get(0, n)
            assert got > pages and below >= pages // 4, (got, below, pages, n)
        return "%d of %d pages came, %d from below; the device has %d" % (got, n, below, pages)
    return lambda: with_broker(run, *(() if device == "host:0" else (device + "=64M",)))


def two_devices():
    """Each has its mover; the arena is one where they are near to one node."""
    def run(broker, engine):
        for device in ("cuda:0", "cuda:1"):
            e = engine(device)
            pages = e.grow(1000)
            e.put(0, pages + pages // 4)
            got, below = e.get(0, pages + pages // 4)
            assert got > pages and below, (device, got, below)
        assert len(movers(broker)) == 2, movers(broker)
    return with_broker(run, "cuda:0=32M", "cuda:1=32M", tier="128M")


def the_daemon_loads_no_driver():
    def run(broker, engine):
        with open("/proc/%d/maps" % mover(broker, "cuda:0")) as f:
            assert "libcuda" in f.read()
        with open("/proc/%d/maps" % broker.proc.pid) as f:
            assert "libcuda" not in f.read()
        with open("/proc/%d/environ" % mover(broker, "cuda:0")) as f:
            assert "CUDA_MPS" not in f.read()
    return with_broker(run, "cuda:0=64M", env={"CUDA_MPS_PIPE_DIRECTORY": "/nonexistent"})


def two_tenants():
    """The same keys, other bytes: each finds its own, above and below, and nobody else's."""
    def run(broker, engine):
        one, other = engine("host:0", "default"), engine("host:0", "other")
        one.grow(8), other.grow(8)
        n = one.slab * 12
        one.put(0, n)
        assert other.look(0, n) == (0, 0)
        assert other.get(0, n) == (0, 0)
        other.put(0, n)
        for e in (one, other, one):
            got, below = e.get(0, n)
            assert got and below, (got, below)
    return with_broker(run, tier="128M")


def memory_goes_from_one_tenant_to_the_next():
    """What one wrote below is another's memory afterwards; its bytes are not to be had."""
    def run(broker, engine):
        for tenant in ("default", "other"):
            e = engine("host:0", tenant)
            pages = e.grow(1000)
            assert e.get(0, 64) == (0, 0)
            e.put(0, pages * 3 // 2)
            got, below = e.get(0, pages * 3 // 2)
            assert got and below, (tenant, got, below)
            e.shrink()
            e.end()
            wait_until(lambda: broker.ask("tenant", "delete", tenant)[0] == 0, "it keeps memory")
    return with_broker(run)


def arena_full():
    """Four times of what both have room for: the oldest are lost, nothing is wrong."""
    def run(broker, engine):
        e = engine()
        pages = e.grow(1000)
        n = pages * 4
        for first in range(0, n, 256):
            e.put(first, 256)
        kept, _ = e.get(n - pages, pages)
        assert kept >= pages // 2, (kept, pages)
        assert e.get(0, 32) == (0, 0)
        return "%d of the last %d are there" % (kept, pages)
    return with_broker(run, tier="32M")


def mover_killed(device="host:0"):
    """Between puts and gets: what was below is found again by its successor."""
    def run(broker, engine):
        e = engine(device)
        pages = e.grow(1000)
        n = pages + pages // 2
        e.put(0, n)
        for k in range(3):
            pid = mover(broker, device)
            os.kill(pid, signal.SIGKILL)
            wait_gone(pid)
            wait_ready(broker, device, k + 2)
            assert mover(broker, device) != pid
            got, below = e.get(0, n)
            assert got > pages and below, (k, got, below, pages, n)
        broker.check_alive()
    return lambda: with_broker(run, *(() if device == "host:0" else (device + "=64M",)))


def mover_killed_at_work():
    """At any moment: a copy that did not end is a miss; nothing is wrong, nothing is stuck."""
    def run(broker, engine):
        e, by = engine(), engine("host:0", "other")
        pages = e.grow(16)
        stop = threading.Event()
        kills = 0

        def kill():
            nonlocal kills
            while not stop.wait(0.3):
                for pid in movers(broker).values():
                    os.kill(pid, signal.SIGKILL)
                    kills += 1

        thread = threading.Thread(target=kill)
        thread.start()
        try:
            end = time.monotonic() + 6
            while time.monotonic() < end:
                e.put(0, pages * 2)
                e.get(0, pages * 2)
                by.ping(10)
        finally:
            stop.set()
            thread.join()
        assert kills >= 3, kills
        broker.check_alive()
        ready = broker.text().count("tier is ready")
        if not movers(broker):
            wait_ready(broker, "host:0", ready + 1)
        e.put(0, pages * 2)
        return "%d kills" % kills
    return with_broker(run)


def mover_hangs():
    """It is killed at its deadline; until then calls that need no copy go on."""
    def run(broker, engine):
        e, by = engine(), engine("host:0", "other")
        pages = e.grow(16)
        e.put(0, pages)
        pid = mover(broker)
        os.kill(pid, signal.SIGSTOP)
        e.say("put %d %d" % (pages, pages))
        worst = by.ping(2000)
        assert worst < DEADLINE_MS / 2000, worst
        assert e.hear("put")[0] == pages
        by.grow(1)  # a slab of which it has to be told
        wait_gone(pid)
        assert "in time" in broker.text(), broker.text()
        wait_ready(broker, times=2)
        e.put(2 * pages, pages)
        got, _ = e.get(2 * pages, pages)
        assert got >= pages // 2, (got, pages)
        return "worst call beside it %.1f ms" % (worst * 1000)
    return with_broker(run)


def slabs_are_given_up_while_a_mover_hangs():
    """Memory that it has mapped is not given on before it is dead; then it is."""
    def run(broker, engine):
        e = engine()
        pages = e.grow(1000)
        e.put(0, pages * 3 // 2)
        pid = mover(broker)
        os.kill(pid, signal.SIGSTOP)
        e.shrink()
        e.end()
        wait_gone(pid)
        again = engine("host:0", "other")
        wait_until(lambda: again.grow(1) > 0, "memory does not come back")
    return with_broker(run)


def stop_while_a_mover_hangs():
    broker = broker_of(more=("--owner-deadline", "60000"))
    try:
        wait_ready(broker)
        pid = mover(broker)
        os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        broker.stop()
        took = time.monotonic() - began
        assert took < 10, took
        wait_gone(pid)
        return "%.1f s" % took
    finally:
        broker.kill()


def movers_go_with_a_killed_daemon():
    shm = set(os.listdir("/dev/shm"))
    broker = broker_of("host:0=64M", "cuda:0=64M", tier="128M")
    try:
        wait_ready(broker, "cuda:0")
        pids = [mover(broker, "host:0"), mover(broker, "cuda:0")]
        os.kill(pids[0], signal.SIGSTOP)
        broker.proc.kill()
        broker.proc.wait()
        wait_gone(*pids)
        left = set(os.listdir("/dev/shm")) - shm
        assert not [name for name in left if "fakecuda" not in name], left  # those are other tests'
    finally:
        broker.kill()


def signals_of_the_group_are_not_for_movers():
    def run(broker, engine):
        pid = mover(broker)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(pid, number)
        e = engine()
        pages = e.grow(16)
        e.put(0, pages * 2)
        got, below = e.get(0, pages * 2)
        assert got > pages and below and mover(broker) == pid, (got, below)
    return with_broker(run)


def without_a_mover():
    """The driver gives it no context: the device serves as one without a tier, and says why."""
    broker = broker_of("cuda:0=64M", fail=",fail=cuDevicePrimaryCtxRetain:1:OUT_OF_MEMORY")
    e = None
    try:
        wait_until(lambda: "cannot serve" in broker.text(), broker.text)
        e = Engine(broker, "cuda:0")
        pages = e.grow(1000)
        e.put(0, pages * 2)
        assert e.get(0, 32) == (0, 0)
        got, below = e.get(pages * 2 - 32, 32)
        assert (got, below) == (32, 0), (got, below)
        e.end()
        e = None
        broker.stop()
    finally:
        if e:
            e.kill()
        broker.kill()


def without_a_tier():
    broker = Broker(PROGRAMS, args=TENANTS, devices=list(HOST))
    e = None
    try:
        e = Engine(broker)
        assert e.below() == 0 and not movers(broker)
        pages = e.grow(16)
        e.put(0, pages)
        assert e.get(0, pages) == (pages, 0)
        e.end()
        e = None
        broker.stop()
    finally:
        if e:
            e.kill()
        broker.kill()


def sums_off():
    def run(broker, engine):
        assert "checksums of the host tier are off" in broker.text()
        e = engine()
        pages = e.grow(16)
        e.put(0, pages * 2)
        got, below = e.get(0, pages * 2)
        assert got > pages and below, (got, below)
    return with_broker(run, more=("--mover-sums", "0"))


def mover_cannot_be_started():
    """Each of the daemon's own calls that start one, or make its ring, fails once."""
    seen = 0

    def run(broker, engine):
        nonlocal seen
        seen += "another is started" in broker.text() or "cannot start a mover" in broker.text()
        e = engine()
        pages = e.grow(16)
        e.put(0, pages * 2)
        assert e.get(0, pages * 2)[1]

    for k in range(2, 8):
        with_broker(run, env={"KVB_FAULT": "mover:%d" % k})
    return "%d starts failed, and came" % seen


def start_fails_or_works():
    """Each refusal of memory, of an fd, of a place in the loop: a daemon that says why it does not
    start, or one whose tier works."""
    starts = refusals = 0

    def run(broker, engine):
        e = engine()
        pages = e.grow(16)
        e.put(0, pages * 2)
        assert e.get(0, pages * 2)[1]

    for point, ks in (("tiers", 3), ("arena", 1), ("loop-add", 7), ("memfd", 2), ("mover-send", 4)):
        for k in range(1, ks + 1):
            env = {"KVB_FAULT": "%s:%d" % (point, k)}
            broker = broker_of(env=env)
            code = broker.code
            if code is None:
                wait_ready(broker)
                broker.stop()
                starts += 1
                with_broker(run, env=env)
            else:
                assert code == 1 and "error: " in broker.text(), (point, k, code, broker.text())
                broker.check_words()
                refusals += 1
            broker.kill()
    assert starts and refusals, (starts, refusals)
    return "%d refusals to start, %d starts" % (refusals, starts)


# What a mover calls once it serves, the version of a driver that makes it call that, and which of its
# calls come at the start, before there is anything to carry.
MOVER_CALLS = {
    "cuMemcpyBatchAsync_v2": (13000, 1), "cuMemcpyBatchAsync": (12080, 1), "cuMemcpyHtoDAsync_v2": (12000, 2),
    "cuMemcpyDtoHAsync_v2": (12000, 2), "cuEventRecord": (13000, 2), "cuEventQuery": (13000, 2),
    "cuMemHostRegister_v2": (13000, 1), "cuMemImportFromShareableHandle": (13000, 3), "cuMemMap": (13000, 3),
    "cuMemSetAccess": (13000, 2), "cuMemAddressReserve": (13000, 2), "cuMemRelease": (13000, 2),
}


def mover_call_fails(call, result):
    """The k-th such call of every mover fails: what it carried is a miss, nothing is wrong or stuck."""
    version, k = MOVER_CALLS[call]

    def run():
        broker = broker_of("cuda:0=64M", fail=",version=%d,fail=%s:%d:%s" % (version, call, k, result))
        e = None
        try:
            wait_until(lambda: re.search("its tier is ready|another is started", broker.text()), broker.text)
            e = Engine(broker, "cuda:0")
            pages = e.grow(4)
            n = pages * 3 // 2
            below = 0
            for _ in range(3):
                e.put(0, n)
                below += e.get(0, n)[1]
            broker.check_alive()
            assert below or result != "OUT_OF_MEMORY" or call.startswith("cuMem") and "cpy" not in call, broker.text()
            e.put(n, 32)
            assert e.get(n, 32) == (32, 0)
            e.end()
            e = None
            broker.check_at_rest()
            pids = list(movers(broker).values())
            text = broker.text()
            broker.stop()
            wait_gone(*pids)
            return "%d pages from below%s" % (below, ", another mover" if "another is started" in text else "")
        finally:
            if e:
                e.kill()
            broker.kill()
    return run


def damaged_memory_is_retired():
    """Slabs that a mover was at when the device found its memory damaged are given back, and no others."""
    def run(broker, engine):
        e = engine("cuda:0")
        pages = e.grow(4)
        e.put(0, pages * 3 // 2)
        device = wait_until(lambda: (lambda d: d["retired"] and d)(broker.json("gpu", "list")["devices"][0]),
                            lambda: "nothing is retired:\n" + broker.text())
        assert 1 <= device["retired"] <= 4, device
        assert "its memory is damaged" in broker.text(), broker.text()
        e.shrink()  # it gives back what was revoked, and the rest
        wait_until(lambda: broker.json("gpu", "list")["devices"][0]["slabs"] == 0, "slabs stay")
        by = engine("cuda:0", "other")
        assert by.grow(1) > 0
        return "%d slabs" % device["retired"]
    return with_broker(run, "cuda:0=64M", fail=",fail=cuEventQuery:2:ECC_UNCORRECTABLE")


def nodes_are_shown():
    """Every node there is as the system tells it, the arena on its node, every byte of it accounted for."""
    nodes = "/sys/devices/system/node"

    def text(path):
        with open(path) as f:
            return f.read().strip()

    def run(broker, engine):
        def arena_filled():
            seen = broker.json("numa", "show")
            arenas = [(n["node"], a) for n in seen["nodes"] for a in n["arenas"]]
            return arenas[0][1]["filled_bytes"] == 64 << 20 and (seen, arenas)
        seen, arenas = wait_until(arena_filled, "the arena is not filled")
        assert len(arenas) == 1, arenas
        node, arena = arenas[0]
        assert arena["name"] == "arena:%d" % node and arena["capacity_bytes"] == 64 << 20, arena
        assert arena["filled_bytes"] == arena["hugetlb_bytes"] + arena["thp_bytes"] + arena["small_bytes"], arena
        where = {d: n["node"] for n in [*seen["nodes"], dict(seen["elsewhere"], node=-1)] for d in n["devices"]}
        assert where == {"host:0": 0, "cuda:0": node if seen["known"] else 0}, where
        tier = [t for t in broker.json("tier", "list")["tiers"] if t["tier"] == "host"][0]
        assert all(tier[k] == arena[k] for k in ("misplaced_bytes", "hugetlb_bytes", "thp_bytes")), (tier, arena)
        assert broker.json("stat")["misplaced_bytes"] == (arena["misplaced_bytes"] or 0), arena
        assert seen["known"] == os.path.exists(nodes + "/online"), seen
        for n in seen["nodes"] if seen["known"] else []:
            at = "%s/node%d" % (nodes, n["node"])
            assert n["cpus"] == text(at + "/cpulist"), n
            assert n["distances"] == [int(d) for d in text(at + "/distance").split()], n
            pools = {p["page_bytes"] >> 10: p["pages"] for p in n["hugepages"]}
            assert pools == {int(re.search(r"\d+", p)[0]): int(text("%s/hugepages/%s/nr_hugepages" % (at, p)))
                             for p in os.listdir(at + "/hugepages")}, n
            assert n["total_bytes"] >= n["available_bytes"] > 0, n
        return "%d nodes" % len(seen["nodes"])
    return with_broker(run, "host:0=64M", "cuda:0=64M")


def what_cannot_be_is_refused():
    for args, words in ((("--device", "host:900=64M"), "NUMA node 900 is not there"), (("--host-tier", "1M"), "--host-tier"), (("--host-tier", "much"), "--host-tier"),
                        (("--mover-sums", "17"), "--mover-sums"), (("--host-tier", "900T"), "host tier")):
        p = subprocess.run([PROGRAMS["kvbrokerd"], "--socket", "/tmp/kvb-none", "--state-dir", "/tmp/kvb-none.d",
                            "--device", "host:0=64M", *args], capture_output=True, text=True, timeout=WAIT_S,
                           check=False)
        assert p.returncode in (1, 2) and words in p.stderr, (args, p.returncode, p.stderr)
    p = subprocess.run([PROGRAMS["kvbrokerd"], "--mover", "host:0"], capture_output=True, text=True,
                       stdin=subprocess.DEVNULL, timeout=WAIT_S, check=False)
    assert p.returncode == 2 and re.search("--mover is for kvbrokerd itself", p.stderr), p.stderr


def main():
    cases = [
        ("there_and_back_host", there_and_back()),
        ("there_and_back_packed", there_and_back("host:0", 1)),
        ("there_and_back_cuda", there_and_back("cuda:0", 4)),
        ("two_devices", two_devices),
        ("i9_the_daemon_loads_no_driver", the_daemon_loads_no_driver),
        ("i2_two_tenants", two_tenants),
        ("i2_memory_goes_from_one_tenant_to_the_next", memory_goes_from_one_tenant_to_the_next),
        ("arena_full", arena_full),
        ("mover_killed_host", mover_killed()),
        ("mover_killed_cuda", mover_killed("cuda:0")),
        ("mover_killed_at_work", mover_killed_at_work),
        ("mover_hangs", mover_hangs),
        ("slabs_are_given_up_while_a_mover_hangs", slabs_are_given_up_while_a_mover_hangs),
        ("stop_while_a_mover_hangs", stop_while_a_mover_hangs),
        ("movers_go_with_a_killed_daemon", movers_go_with_a_killed_daemon),
        ("signals_of_the_group_are_not_for_movers", signals_of_the_group_are_not_for_movers),
        ("without_a_mover", without_a_mover),
        ("without_a_tier", without_a_tier),
        ("sums_off", sums_off),
        *[("fault_083_mover_%s_%s" % (call, result), mover_call_fails(call, result))
          for call in MOVER_CALLS for result in ("OUT_OF_MEMORY", "ECC_UNCORRECTABLE")],
        ("fault_083_damaged_memory_is_retired", damaged_memory_is_retired),
        *([("fault_011_mover_cannot_be_started", mover_cannot_be_started),
           ("fault_011_start_fails_or_works", start_fails_or_works)]
          if PROGRAMS["fault-points"] == "true" else []),
        ("nodes_are_shown", nodes_are_shown),
        ("what_cannot_be_is_refused", what_cannot_be_is_refused),
    ]
    only = os.environ.get("TIERS_ONLY")
    print("1..%d" % len(cases), flush=True)
    for n, (name, run) in enumerate(cases, 1):
        if not only or re.search(only, name):
            report(n, name, run)


main()
