#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Groups of spaces, one a rank: a key is found by all ranks or by none, whoever dies when.

Two ranks are two processes on two devices of the stand-in driver, or on the host device, with and
without a host tier below. One is killed again and again in the midst of sealing; each time both are
asked for every key.

usage: test_group.py kvbrokerd=PATH broker-ctl=PATH client=PATH libcuda=PATH broker=PATH
"""

import os
import random
import re
import subprocess
import sys
import time

PROGRAMS = dict(arg.split("=", 1) for arg in sys.argv[1:])
sys.path.insert(0, os.path.dirname(PROGRAMS["broker"]))
from broker import TENANTS, WAIT_S, Broker, report, wait_until  # noqa: E402

ENV = {"FAKECUDA": "gpus=2,mem=8G", "LD_LIBRARY_PATH": os.path.dirname(PROGRAMS["libcuda"])}
GROUP = 77
KEYS = 48  # of a round
ASKED = 192  # keys that are looked at after each round: its own, and older ones
KEYS_MOST = 1024  # of one question
GPUS = ("cuda:0", "cuda:1")
HOST = ("host:0", "host:0")


class Rank:
    def __init__(self, broker, device, rank, ranks=2, group=GROUP):
        self.proc = subprocess.Popen(
            [PROGRAMS["client"], broker.sock, device, str(group), str(ranks), str(rank)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=dict(os.environ, **ENV))
        word, number = self.hear()
        self.refused = int(number) if word == "refused" else None
        self.slab = int(number)

    def say(self, line):
        self.proc.stdin.write(line + "\n")
        self.proc.stdin.flush()

    def hear(self):
        line = self.proc.stdout.readline()
        if not line:
            raise AssertionError("client: %s, %s" % (self.proc.wait(WAIT_S), self.proc.stderr.read()))
        return line.split()

    def ask(self, word, first, n, answer):
        self.say("%s %d %d" % (word, first, n))
        got, what = self.hear()
        assert got == answer, got
        return what

    def grow(self, slabs):
        self.say("grow %d" % slabs)
        word, n = self.hear()
        assert word == "grown", (word, n)
        return int(n) * self.slab

    def put(self, first, n):
        got = self.ask("put", first, n, "put")
        assert int(got) == n, (got, n)

    def have(self, first, n):
        return self.ask("have", first, n, "have")

    def any(self, first, n):
        return self.ask("any", first, n, "any")

    def get(self, first, n):
        return self.ask("get", first, n, "got")

    def end(self):
        _, err = self.proc.communicate(timeout=WAIT_S)
        assert self.proc.returncode == 0, (self.proc.returncode, err)

    def kill(self):
        self.proc.kill()
        self.proc.communicate()


def with_broker(run, devices, size="32M,32M", tier=None):
    """Runs a case; afterwards all is back and tables are sound."""
    args = (*TENANTS[:2], "--warm", "0", *(("--host-tier", tier) if tier else ()))
    broker = Broker(PROGRAMS, args=args, env=ENV, devices=[
        "%s=%s" % how for how in zip(sorted(set(devices)), size.split(","))])
    ranks = []

    def rank(number, *how):
        ranks.append(Rank(broker, devices[number % len(devices)], number, *how))
        return ranks[-1]

    try:
        assert broker.code is None, broker.text()
        if tier:
            for device in set(devices):
                wait_until(lambda d=device: "device %s: its tier is ready" % d in broker.text(), broker.text)
        said = run(broker, rank)
        for r in ranks:
            if r.proc.poll() is None:
                r.end()
        ranks.clear()
        if tier:  # an arena's chunks stay the daemon's
            broker.check_at_rest()
        else:
            broker.check_empty()
        broker.stop()
        return said
    finally:
        for r in ranks:
            r.kill()
        broker.kill()


def check_charges(broker, clients):
    """Of those that are gone nothing is charged; those that are there hold nothing either."""
    broker.check_at_rest(clients)
    for t in broker.json("tenant", "list")["tenants"]:
        assert (t["leases"], t["pins"], t["pages_held"]) == (0, 0, 0), t


def same_on_both(a, b, first, n, how):
    """What both find; what goes down or is lost between two questions is asked for again."""
    for _ in range(50):
        before, other, after = how(a, first, n), how(b, first, n), how(a, first, n)
        if before == after:
            assert before == other, "keys from %d:\n%s\n%s" % (first, before, other)
            return before
        time.sleep(0.02)
    raise AssertionError("keys come and go though nobody asks for memory")


# ---- cases -------------------------------------------------------------------------------------

def half_a_block_is_a_miss(devices):
    def run(broker, rank):
        a, b = rank(0), rank(1)
        a.grow(2), b.grow(2)
        a.put(0, 8)
        assert a.have(0, 8) == b.have(0, 8) == "0" * 8
        b.put(4, 8)
        assert a.have(0, 12) == b.have(0, 12) == "0" * 4 + "1" * 4 + "0" * 4
        a.put(8, 4), b.put(0, 4)
        assert a.have(0, 12) == b.have(0, 12) == "1" * 12
    return with_broker(run, devices)


def ranks_of_another_group_do_not_count():
    def run(broker, rank):
        a, other, alone = rank(0), rank(1, 2, GROUP + 1), rank(1, 3, GROUP)
        for r in (a, other, alone):
            r.grow(1)
            r.put(0, 8)
        assert a.have(0, 8) == other.have(0, 8) == alone.have(0, 8) == "0" * 8
    return with_broker(run, HOST)


def no_such_rank():
    def run(broker, rank):
        for number, ranks in ((2, 2), (0, 17), (1, 1)):
            assert rank(number, ranks).refused == 22, (number, ranks)
        assert rank(0, 1).refused == 22, "a group of one"
        assert rank(15, 16).refused is None
    return with_broker(run, HOST)


def rank_killed_sealing(devices, times, tier=None):
    """The second rank is killed at any moment between its first key and its last."""
    random.seed(1)

    def run(broker, rank):
        a, b = rank(0), rank(1)
        # two ranks of one device share it
        a.grow(1 + 48 // a.slab if len(set(devices)) == 1 else 1000), b.grow(1000)
        cut = took = found = lost = 0
        for i in range(times):
            first, asked = i * KEYS, max(0, (i + 1) * KEYS - ASKED)
            a.say("put %d %d" % (first, KEYS))
            b.say("put %d %d" % (first, KEYS))
            if i == 0:
                began = time.monotonic()
                assert b.hear() == ["put", str(KEYS)]
                took = time.monotonic() - began
            else:
                time.sleep(random.uniform(0, took))
            b.kill()
            assert a.hear() == ["put", str(KEYS)]
            check_charges(broker, 1)
            b = rank(1)
            have = same_on_both(a, b, asked, (i + 1) * KEYS - asked, Rank.any if tier else Rank.have)
            mine = have[-KEYS:]
            cut += "1" in mine and "0" in mine
            found += mine.count("1")
            lost += mine.count("0")
            if tier:  # and what is found does come, on both, and is right
                for r in (a, b):
                    assert "1" not in have or "1" in r.get(asked, len(have))
        assert cut >= times // 10, "killed between two keys only %d times" % cut
        return "%d kills, %d between two keys; %d blocks whole, %d gone" % (times, cut, found, lost)
    return with_broker(run, devices, tier=tier)


def a_block_below_counts(devices):
    """More than the devices have room for, below: found by both, and lost by both."""
    def run(broker, rank):
        a, b = rank(0), rank(1)
        pages = a.grow(1000)
        b.grow(1000)
        n = pages * 3 // 2
        for first in range(0, n, 16):  # a block that only one of them has is not worth a copy
            a.put(first, 16), b.put(first, 16)
        any_ = same_on_both(a, b, 0, n, Rank.any)
        here = [r.have(0, n).count("1") for r in (a, b)]
        assert any_.count("1") > max(here), (any_, here)
        for r in (a, b):
            assert r.get(0, n).count("1") > here[0]
        # more than all tiers have room for: what the smaller device's rank loses is lost
        for first in range(n, KEYS_MOST, 16):
            a.put(first, 16), b.put(first, 16)
        left = same_on_both(a, b, 0, KEYS_MOST, Rank.any).count("1")
        assert max(r.have(0, KEYS_MOST).count("1") for r in (a, b)) < left < KEYS_MOST, left
        return "%d of %d keys are there, %d on a device; in the end %d of %d" % (
            any_.count("1"), n, here[0], left, KEYS_MOST)
    return with_broker(run, devices, size="32M,16M", tier="64M")


def main():
    cases = [
        ("half_a_block_is_a_miss", lambda: half_a_block_is_a_miss(GPUS)),
        ("half_a_block_is_a_miss_host", lambda: half_a_block_is_a_miss(HOST)),
        ("ranks_of_another_group_do_not_count", ranks_of_another_group_do_not_count),
        ("no_such_rank", no_such_rank),
        ("fault_059_rank_killed_sealing", lambda: rank_killed_sealing(GPUS, 100)),
        ("fault_059_rank_killed_sealing_host", lambda: rank_killed_sealing(HOST, 30)),
        ("fault_059_rank_killed_sealing_tier", lambda: rank_killed_sealing(GPUS, 30, "64M")),
        ("a_block_below_counts", lambda: a_block_below_counts(GPUS)),
    ]
    print("1..%d" % len(cases), flush=True)
    for n, (name, run) in enumerate(cases, 1):
        if re.search(os.environ.get("GROUP_ONLY", ""), name):
            report(n, name, run)


main()
