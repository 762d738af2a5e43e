#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The store as operators see it, and what they do with it: listings and figures, tier iostat, resize,
detach, flush, check. A daemon with a `host` space above a small store of two files.

usage: test_store_ctl.py kvbrokerd=PATH broker-ctl=PATH kvb-store=PATH client=PATH broker=PATH
           fault-points=true|false: whether the daemon has them
"""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

PROGRAMS = dict(arg.split("=", 1) for arg in sys.argv[1:])
sys.path.insert(0, os.path.dirname(PROGRAMS["broker"]))
from broker import Admin, Broker, TENANTS, WAIT_S, report, wait_until  # noqa: E402
from tier_engine import TierEngine  # noqa: E402

MIB = 1 << 20
HEAD = 4 * MIB      # before the first segment
SEGMENT = 2 * MIB   # of a store of this size
SEGMENTS = 13
PART = HEAD + SEGMENTS * SEGMENT
LEAST = HEAD + 4 * SEGMENT
PAGE = 65536
HELD = 256          # pages the device has
KEYS = 512          # that are put: half of them go down


class Engine(TierEngine):
    def __init__(self, broker):
        super().__init__(PROGRAMS["client"], broker, "host:0", "default", PAGE, 1)

    def fill(self, keys=KEYS):
        self.do("grow 1000", "grown")
        for first in range(0, keys, 256):
            assert self.do("put %d 256" % first, "put") == [256]

    def get(self, first, n):
        """How many of the keys came; their bytes were right, or the client has ended."""
        return self.do("get %d %d" % (first, n), "got")[0]


class Store:
    """Two files, which outlive the daemon."""

    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="kvb-store-ctl.", dir=".")
        self.a, self.b = (os.path.abspath(os.path.join(self.dir, name)) for name in "ab")

    def broker(self, *paths, size=PART, more=("--store-admit", "all")):
        words = [word for path in paths or (self.a, self.b) for word in ("--store", "%s=%d" % (path, size))]
        broker = Broker(PROGRAMS, args=(*TENANTS, *words, *more), size="32M")
        assert broker.code is None, broker.text()
        return broker

    def remove(self):
        shutil.rmtree(self.dir)


def ctl(broker, *args, **how):
    return subprocess.run([PROGRAMS["broker-ctl"], "-S", broker.sock, *args], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=2 * WAIT_S, check=False, **how)


def done(broker, *args, code=0):
    """What a command answers."""
    p = ctl(broker, "-j", *args)
    assert p.returncode == code, (args, p)
    return json.loads(p.stdout)


def figures(broker):
    return broker.json("status")["store"]


def part(broker, path):
    return next(p for p in figures(broker)["parts"] if p["path"] == path)


def stored(broker, pages):
    wait_until(lambda: figures(broker)["pages"] >= pages, lambda: "not stored: %s" % figures(broker))


def case(run):
    """With a daemon, a store and an engine that has filled both; all of them end well."""
    def with_all():
        store = Store()
        broker = store.broker()
        engine = Engine(broker)
        try:
            engine.fill()
            stored(broker, KEYS - HELD)
            said = run(broker, store, engine)
            engine.end()
            broker.check_at_rest()
            broker.stop()
            return said
        finally:
            engine.proc.kill()
            broker.kill()
            store.remove()
    with_all.__name__ = run.__name__
    return with_all


# ---- what is seen ------------------------------------------------------------------------------

@case
def listed_as_a_tier_with_its_parts(broker, store, engine):
    assert engine.get(0, 64) == 64
    s = figures(broker)
    assert s["engine"] in ("io_uring", "threads") and s["admit"] == "all", s
    assert s["stored"] >= KEYS - HELD and s["stored_bytes"] == s["stored"] * PAGE, s
    assert 1 <= s["fetched"] and s["fetched_bytes"] == s["fetched"] * PAGE, s
    assert s["gets"] - s["gets_missed"] >= s["fetched"] and s["mismatches"] == s["lost"] == s["refused"] == 0, s
    assert s["segment_bytes"] == SEGMENT and s["bytes"] == 2 * PART, s
    assert s["pages"] <= s["pages_max"] and s["index_bytes"] <= 32 * s["pages_max"], s
    assert s["recovery"]["pages"] == 0 and s["check"]["active"] is False, s
    assert sum(p["written_bytes"] for p in s["parts"]) >= s["page_bytes_written"] >= s["stored_bytes"], s
    rows = broker.json("tier", "list")["tiers"]
    assert [r["tier"] for r in rows] == ["device", "store", "part", "part"], rows
    whole, parts = rows[1], rows[2:]
    assert [p["device"] for p in parts] == [store.a, store.b], parts
    for key in ("capacity_bytes", "granted_bytes", "segments", "segments_free", "read_bytes", "written_bytes"):
        assert whole[key] == sum(p[key] for p in parts) > 0, (key, rows)
    assert whole["pages"] == s["pages"] and whole["ready"] is True and whole["why"] is None, rows
    table = list(csv.DictReader(io.StringIO(ctl(broker, "tier", "list", "--csv", "-o", "tier,device,segments").stdout)))
    assert table[2] == {"tier": "part", "device": store.a, "segments": str(SEGMENTS)}, table
    text = ctl(broker, "status").stdout
    assert "store " in text and "written %d" % s["stored"] in text, text
    rates = done(broker, "stat")
    assert rates["store_pages_per_s"] > 0 and rates["fetch_pages_per_s"] > 0, rates


@case
def iostat_counts_what_the_drives_did(broker, store, engine):
    engine.get(0, 64)
    wait_until(lambda: not any(p["queued"] + p["writes_in_flight"] for p in figures(broker)["parts"]), "it writes")
    rows = done(broker, "tier", "iostat", "-l")["parts"]
    seen = {p["path"]: p for p in figures(broker)["parts"]}
    assert [r["part"] for r in rows] == [store.a, store.b], rows
    for r in rows:
        count = {k: sum(bucket[k] for bucket in r["latency"]) for k in ("reads", "writes", "flushes")}
        assert count["writes"] > 0 and count["flushes"] > 0 and count["reads"] > 0, r
        assert abs(r["writes_per_s"] * r["interval_s"] - count["writes"]) < 0.01, r
        assert r["written_bytes"] == seen[r["part"]]["written_bytes"], (r, seen)
        assert abs(r["write_bytes_avg"] * count["writes"] - r["written_bytes"]) < 1, r
        assert 0 < r["write_p50_s"] <= r["write_p99_s"] < 60 and 0 < r["read_p50_s"] <= r["read_p99_s"], r
        assert [b["up_to_s"] for b in r["latency"]] == sorted(b["up_to_s"] for b in r["latency"]), r
        assert r["amplification"] >= 1 and r["year_bytes"] > r["written_bytes"] > 0 < r["overwrites_per_day"], r
    text = ctl(broker, "tier", "iostat", "-lw").stdout
    assert "READ.P99" in text and "TURNS/DAY" in text and "UP.TO" in text, text
    assert "READ.P99" not in ctl(broker, "tier", "iostat").stdout


@case
def iostat_goes_on_by_intervals(broker, store, engine):
    p = ctl(broker, "-j", "tier", "iostat", "0.2", "3")
    lines = [json.loads(line)["parts"] for line in p.stdout.splitlines()]
    assert p.returncode == 0 and len(lines) == 3, p
    assert lines[0][0]["writes_per_s"] > 0 and lines[2][0]["reads_per_s"] == 0, lines
    assert 0.1 < lines[1][0]["interval_s"] < 5, lines
    p = ctl(broker, "tier", "iostat", "--csv", "0.1", "2", "-o", "part,read_bytes_per_s")
    assert [line.split(",")[0] for line in p.stdout.splitlines()] == ["part", store.a, store.b, store.a, store.b], p
    for args in (["0.01"], ["1", "0"], ["x"], ["-o", "nope"]):
        assert ctl(broker, "tier", "iostat", *args).returncode == 2, args


@case
def interrupted_between_two_lines(broker, store, engine):
    for words in (["tier", "iostat", "0.1"], ["stat", "0.1"]):
        p = subprocess.Popen([PROGRAMS["broker-ctl"], "-S", broker.sock, *words], stdout=subprocess.PIPE, text=True)
        p.stdout.readline(), p.stdout.readline()
        p.send_signal(signal.SIGINT)
        out, _ = p.communicate(timeout=WAIT_S)
        assert p.returncode == 0 and (not out or out.endswith("\n")), (words, p.returncode, out)


@case
def completed_by_the_shell(broker, store, engine):
    script = subprocess.check_output([PROGRAMS["broker-ctl"], "completion", "bash"], text=True)
    for words, want in ((["tier", ""], {"list", "iostat", "resize", "detach", "flush", "check"}),
                        (["tier", "resize", ""], {store.a, store.b}), (["tier", "detach", ""], {store.a, store.b})):
        line = ["broker-ctl", "-S", broker.sock, *words]
        probe = "%s\nCOMP_WORDS=(%s ''); COMP_CWORD=%d; _broker_ctl; echo ${COMPREPLY[*]}" % (
            script, " ".join(line[:-1]), len(line) - 1)
        path = "%s:%s" % (os.path.dirname(PROGRAMS["broker-ctl"]), os.environ["PATH"])
        out = subprocess.run(["bash", "-c", probe], capture_output=True, text=True, check=False,
                             env=dict(os.environ, PATH=path))
        assert set(out.stdout.split()) == want and not out.stderr, (words, out)


# ---- what is done ------------------------------------------------------------------------------

@case
def resize_grows_and_shrinks(broker, store, engine):
    plan = done(broker, "-n", "tier", "resize", store.a, str(PART + 8 * SEGMENT))
    assert plan["dry_run"] and plan["pages"] == 0 and plan["to_bytes"] == PART + 8 * SEGMENT, plan
    assert part(broker, store.a)["bytes"] == PART
    # Nothing is lost by it: nobody is asked.
    answer = done(broker, "tier", "resize", store.a, str(PART + 8 * SEGMENT + 5))
    assert answer["done"] and answer["bytes"] == PART + 8 * SEGMENT == os.path.getsize(store.a), answer
    for path in (store.a, store.b):
        plan = done(broker, "-n", "tier", "resize", path, str(LEAST))
        assert 0 < plan["segments"] and plan["to_bytes"] == LEAST, plan
    at_most = plan["pages"]
    assert at_most > 0 and ctl(broker, "tier", "resize", store.b, "13M").returncode == 2
    answer = done(broker, "-y", "tier", "resize", store.b, "13M")  # whole segments of it
    assert answer["done"] and answer["bytes"] == LEAST == os.path.getsize(store.b), answer
    assert answer["evicted_pages"] <= at_most, answer
    p = ctl(broker, "-y", "tier", "resize", store.b, "12M")
    assert p.returncode == 0 and p.stdout.startswith("resized "), p
    assert engine.get(0, KEYS) > HELD
    return "%d of at most %d pages were lost" % (answer["evicted_pages"], at_most)


@case
def resize_is_remembered(broker, store, engine):
    done(broker, "-y", "tier", "resize", store.a, str(LEAST))
    pages = figures(broker)["pages"]
    engine.end()
    broker.stop()
    again = store.broker(store.a, store.b, size=0)
    try:
        s = figures(again)
        assert s["parts"][0]["bytes"] == LEAST and s["parts"][1]["bytes"] == PART, s
        assert s["recovery"]["pages"] >= pages // 2 and not s["recovery"]["reset"], s
        again.stop()
    finally:
        again.kill()
    broker.__dict__.update(store.broker().__dict__)
    engine.__dict__.update(Engine(broker).__dict__)
    assert part(broker, store.a)["bytes"] == PART


@case
def detach_leaves_a_part(broker, store, engine):
    engine.get(0, 64)  # what was read is kept
    ns = broker.json("ns", "list")["namespaces"][0]["ns"]
    plan = done(broker, "-n", "tier", "detach", store.b)
    assert plan["pages"] > 0 and plan["destroys"] and plan["to_bytes"] == 0, plan
    assert part(broker, store.b)["left"] is False
    assert ctl(broker, "tier", "detach", store.b).returncode == 2
    answer = done(broker, "-y", "tier", "detach", store.b)
    assert answer["done"] and answer["bytes"] == 0 and answer["evicted_pages"] <= plan["pages"], answer
    assert engine.get(0, 64) == 64
    rows = broker.json("tier", "list")["tiers"]
    assert [r["device"] for r in rows] == ["host:0", None, store.a], rows
    assert len(done(broker, "tier", "iostat")["parts"]) == 1
    assert store.b not in ctl(broker, "tier", "iostat", "-l").stdout
    os.rename(store.b, store.b + ".away")
    assert store.b not in ctl(broker, "doctor").stdout
    os.rename(store.b + ".away", store.b)
    assert not any(store.b in os.readlink("/proc/%d/fd/%s" % (broker.proc.pid, fd))
                   for fd in os.listdir("/proc/%d/fd" % broker.proc.pid))
    # It is nobody's now; what is there is no store, and no page of it can come back.
    p = subprocess.run([PROGRAMS["kvb-store"], "info", store.b], capture_output=True, text=True, check=False)
    assert p.returncode == 3 and "no store" in p.stderr, p
    # The rest goes on without it.
    assert done(broker, "tier", "flush")["parts"] == 1
    assert engine.do("put 1000 128", "put") == [128]
    assert done(broker, "-y", "epoch", "bump", ns)["stored"] is True
    for words, code in ((("detach", store.b), 4), (("resize", store.b, "64M"), 4), (("detach", store.a), 6)):
        assert ctl(broker, "-y", "tier", *words).returncode == code, words


@case
def detached_part_is_made_anew(broker, store, engine):
    done(broker, "-y", "tier", "detach", store.b)
    kept = figures(broker)["pages"]
    engine.end()
    broker.stop()
    broker.__dict__.update(store.broker().__dict__)
    engine.__dict__.update(Engine(broker).__dict__)
    s = figures(broker)
    assert [p["bytes"] for p in s["parts"]] == [PART, PART] and s["parts"][1]["segments_free"] == SEGMENTS, s
    assert s["recovery"]["pages"] >= kept and not s["recovery"]["reset"], (kept, s)


@case
def resized_and_checked_under_load(broker, store, engine):
    """Somebody puts and gets all the time, and gets what was put."""
    rounds = 0
    sizes = (LEAST, PART, LEAST + SEGMENT, 2 * PART)
    end = time.monotonic() + 4
    while time.monotonic() < end:
        first = 256 * (rounds % 8)
        engine.say("put %d 256" % first)
        answer = done(broker, "-y", "tier", "resize", (store.a, store.b)[rounds % 2], str(sizes[rounds // 2 % 4]))
        assert answer["done"], answer
        assert engine.hear("put") == [256]
        engine.say("get %d 256" % (256 * ((rounds + 5) % 8)))
        answer = done(broker, "tier", "check")
        assert answer["ok"] and not answer["unknown"], answer
        engine.hear("got")
        rounds += 1
    s = figures(broker)
    assert s["mismatches"] == s["gets_failed"] == s["lost"] == 0, s
    return "%d rounds" % rounds


@case
def killed_while_it_shrinks(broker, store, engine):
    engine.get(0, KEYS)  # all of it is kept, which takes a while
    p = subprocess.Popen([PROGRAMS["broker-ctl"], "-S", broker.sock, "-qy", "tier", "detach", store.b])
    time.sleep(0.01)
    broker.proc.kill()
    broker.proc.wait()
    p.wait(WAIT_S)
    engine.proc.kill()
    broker.__dict__.update(store.broker().__dict__)
    engine.__dict__.update(Engine(broker).__dict__)
    assert done(broker, "tier", "check")["ok"]
    engine.get(0, KEYS)


@case
def shrinking_is_not_turned_round(broker, store, engine):
    """Segments behind the new end may be gone: it gets there first."""
    for i in range(20):
        for first in (256 * i, 256 * i + 256):
            assert engine.do("put %d 256" % first, "put") == [256]
        engine.get(256 * i, 256)
        one, other = Admin(broker.sock), Admin(broker.sock)
        one.send("tier", "resize", store.a, str(LEAST))
        code, answer = other.ask("tier", "resize", store.a, str(PART))
        assert code in (0, 6), answer
        assert one.take()[0] == 0
        one.close(), other.close()
        assert done(broker, "tier", "resize", store.a, str(PART))["bytes"] == PART
        if code == 6:
            return
    raise AssertionError("it was never too early")


@case
def answer_that_is_not_waited_for(broker, store, engine):
    p = ctl(broker, "-y", "-t", "0.001", "tier", "detach", store.b)
    assert p.returncode in (0, 7), p
    wait_until(lambda: part(broker, store.b)["left"], lambda: "it stays: %s" % part(broker, store.b))


@case
def flush_is_a_flush_of_every_part(broker, store, engine):
    assert done(broker, "-n", "tier", "flush") == {"parts": 2, "dry_run": True}
    before = figures(broker)["flushes"]
    assert done(broker, "tier", "flush") == {"parts": 2, "dry_run": False, "done": True}
    assert figures(broker)["flushes"] >= before + 2, (before, figures(broker))
    several = [subprocess.Popen([PROGRAMS["broker-ctl"], "-S", broker.sock, "-q", "tier", "flush"]) for _ in range(8)]
    assert [p.wait(WAIT_S) for p in several] == [0] * 8


def overwrite(path, offset, size):
    with open(path, "r+b") as f:
        f.seek(offset)
        f.write(b"\xa5" * size)
        f.flush()
        os.fsync(f.fileno())


@case
def check_finds_what_rotted(broker, store, engine):
    plan = done(broker, "-n", "tier", "check")
    assert plan["pages"] == figures(broker)["pages"] and plan["dry_run"], plan
    answer = done(broker, "tier", "check")
    pages = answer["pages"]
    assert answer["ok"] and answer["done"] and pages >= KEYS - HELD and answer["bytes"] == pages * PAGE, answer
    assert figures(broker)["check"]["pages"] == pages
    overwrite(store.a, HEAD + SEGMENT // 2, 8192)
    answer = done(broker, "tier", "check", code=1)
    assert not answer["ok"] and 1 <= answer["bad"] <= 2 and answer["pages"] == pages - answer["bad"], answer
    assert figures(broker)["mismatches"] == answer["bad"]
    assert "not what was written" in broker.text()
    # What is wrong is found no longer.
    again = done(broker, "tier", "check")
    assert again["ok"] and again["pages"] == answer["pages"], again
    engine.get(0, KEYS)


@case
def check_says_what_it_cannot_see(broker, store, engine):
    wait_until(lambda: part(broker, store.a)["segments_free"] < SEGMENTS - 3, "no segment is full")
    assert done(broker, "tier", "check")["ok"]
    overwrite(store.a, HEAD + SEGMENT - 4096, 4096)  # the end of the table of the first
    answer = done(broker, "tier", "check", code=8)
    assert answer["ok"] and 0 < answer["unknown"] <= SEGMENT // PAGE, answer


@case
def several_wait_for_one_check(broker, store, engine):
    several = [subprocess.Popen([PROGRAMS["broker-ctl"], "-S", broker.sock, "-j", "tier", "check"], text=True,
                                stdout=subprocess.PIPE) for _ in range(6)]
    answers = [json.loads(p.communicate(timeout=WAIT_S)[0]) for p in several]
    assert all(a["ok"] and a["pages"] == figures(broker)["pages"] for a in answers), answers


@case
def stopped_while_it_checks(broker, store, engine):
    several = [subprocess.Popen([PROGRAMS["broker-ctl"], "-S", broker.sock, "-q", "tier", "check"]) for _ in range(3)]
    engine.end()
    broker.stop()
    assert all(p.wait(WAIT_S) in (0, 1, 3, 7) for p in several), [p.returncode for p in several]
    broker.__dict__.update(store.broker().__dict__)
    engine.__dict__.update(Engine(broker).__dict__)


# ---- what is refused ---------------------------------------------------------------------------

@case
def what_makes_no_sense_is_refused(broker, store, engine):
    before = figures(broker)["parts"]
    for words, code, why in ((("resize", "/no/such", "64M"), 4, "no part of that path"),
                             (("resize", store.a, "1M"), 2, "too small: the least is 12.0M"),
                             (("resize", store.a, "0"), 2, "no size"),
                             (("resize", store.a, "many"), 2, "no size"),
                             (("resize", store.a, "30%"), 2, "no size"),
                             (("resize", store.a, "4000P"), 1, "no room"),
                             (("resize", store.a), 2, "usage"),
                             (("detach", "/no/such"), 4, "no part of that path"),
                             (("detach",), 2, "usage"),
                             (("flush", store.a), 2, "usage"),
                             (("check", "--deep"), 2, "does not take"),
                             (("attach", "/x"), 2, "no such command")):
        for more in ((), ("-n",)) if code in (1, 4) else ((),):
            p = ctl(broker, *(more or ("-y",)) if words[0] in ("resize", "detach") else (), "tier", *words)
            assert p.returncode == code and why in p.stderr, (words, more, p)
    for words in (("tier", "resize", store.a, "x"), ("tier", "resize", store.a, "0"), ("tier", "detach", store.a, "b"),
                  ("tier", "flush", "x"), ("tier", "check", "x"), ("tier", "resize", store.a, "-1")):
        assert broker.ask(*words)[0] == 2, words
    assert [p["bytes_wanted"] for p in figures(broker)["parts"]] == [p["bytes"] for p in before]


@case
def operators_only(broker, store, engine):
    if os.getuid() != 0:
        return "only root can be somebody else"
    os.chmod(broker.dir, 0o755)
    os.chmod(broker.sock, 0o666)
    program = shutil.copy(PROGRAMS["broker-ctl"], broker.dir + "/ctl")
    nobody = dict(user=65534, group=65534, extra_groups=[])

    def as_nobody(*args):
        return subprocess.run([program, "-S", broker.sock, *args], capture_output=True, text=True, check=False,
                              stdin=subprocess.DEVNULL, **nobody)
    for words in (("resize", store.a, "64M"), ("detach", store.a), ("-n", "detach", store.a)):
        p = as_nobody("tier", *words, *(() if "-n" in words else ("-y",)))
        assert p.returncode == 5, p
    for words in (("flush",), ("check",)):
        assert as_nobody("tier", *words).returncode == 5, words
    assert as_nobody("tier", "iostat").returncode == 0
    return None


def without_a_store():
    broker = Broker(PROGRAMS, args=TENANTS)
    try:
        assert figures(broker) is None
        assert [t["tier"] for t in broker.json("tier", "list")["tiers"]] == ["device"]
        assert "store" not in ctl(broker, "status").stdout
        for words in (("iostat",), ("-y", "resize", "/x", "64M"), ("-n", "detach", "/x"), ("flush",), ("check",)):
            p = ctl(broker, "tier", *words)
            assert p.returncode == 4 and "no store" in p.stderr, (words, p)
        broker.stop()
    finally:
        broker.kill()


POINTS = ("store-read", "store-write", "store-flush", "store-memory", "store-resize")
TRIES = 8  # of each point


def everything_once(env):
    """Whatever fails: an answer, a daemon that serves, and no bytes that are wrong. The exit codes."""
    store = Store()
    broker = engine = None
    try:
        words = [word for path in (store.a, store.b) for word in ("--store", "%s=%d" % (path, PART))]
        broker = Broker(PROGRAMS, args=(*TENANTS, *words, "--store-admit", "all"), size="32M", env=env)
        if broker.code is not None:
            assert broker.code == 1 and "store: " in broker.text(), broker.text()
            return ["refused"]
        engine = Engine(broker)
        engine.fill()
        wait_until(lambda: not any(p["queued"] + p["writes_in_flight"] for p in figures(broker)["parts"]), "it writes")
        codes = [ctl(broker, "tier", *words).returncode
                 for words in (("resize", "-y", store.b, str(LEAST)), ("resize", "-y", store.b, str(PART)), ("check",),
                               ("detach", "-y", store.b), ("flush",))]
        assert all(code in (0, 1, 4, 6, 8) for code in codes), (codes, broker.text())
        engine.get(0, KEYS)
        assert engine.do("put 0 256", "put") == [256]
        engine.end()
        broker.check_at_rest()
        broker.stop()
        return codes
    finally:
        if engine:
            engine.proc.kill()
        if broker:
            broker.kill()
        store.remove()


def each_transfer_that_fails():
    with tempfile.NamedTemporaryFile() as count:
        assert everything_once({"KVB_FAULT_COUNT": count.name}) == [0] * 5
        calls = {name: int(n) for name, n in (line.split() for line in count.read().decode().splitlines())}
    failed = 0
    for point in POINTS:
        n = calls[point]
        for k in sorted({1 + (n - 1) * i // (TRIES - 1) for i in range(TRIES)}):
            failed += any(everything_once({"KVB_FAULT": "%s:%d:5" % (point, k)}))
    assert failed > len(POINTS), failed
    return "%d calls in all, %d runs told of it" % (sum(calls[point] for point in POINTS), failed)


def main():
    cases = [listed_as_a_tier_with_its_parts, iostat_counts_what_the_drives_did, iostat_goes_on_by_intervals,
             interrupted_between_two_lines, completed_by_the_shell, resize_grows_and_shrinks, resize_is_remembered, detach_leaves_a_part,
             detached_part_is_made_anew, resized_and_checked_under_load, killed_while_it_shrinks, shrinking_is_not_turned_round,
             answer_that_is_not_waited_for, flush_is_a_flush_of_every_part, check_finds_what_rotted,
             check_says_what_it_cannot_see, several_wait_for_one_check, stopped_while_it_checks,
             what_makes_no_sense_is_refused, operators_only, without_a_store]
    if PROGRAMS.get("fault-points") == "true":
        cases.append(each_transfer_that_fails)
    only = os.environ.get("STORE_CTL_ONLY")
    print("1..%d" % len(cases), flush=True)
    for n, run in enumerate(cases, 1):
        if not only or only in run.__name__:
            report(n, run.__name__, run)


main()
