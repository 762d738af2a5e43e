#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""gpu drain, gpu resume, tier list: a GPU that is given up has no process and no memory left, what was
cached on it is in the host tier, and the other GPU notices nothing. Over the stand-in driver.

usage: test_drain.py kvbrokerd=PATH broker-ctl=PATH client=PATH libcuda=PATH broker=PATH
"""

import os
import signal
import struct
import subprocess
import sys

PROGRAMS = dict(arg.split("=", 1) for arg in sys.argv[1:])
sys.path.insert(0, os.path.dirname(PROGRAMS["broker"]))
from broker import Broker, TENANTS, alive, report, wait_until  # noqa: E402
from tier_engine import TierEngine  # noqa: E402

ENV = {"FAKECUDA": "gpus=2,mem=8G,numa=0:0", "LD_LIBRARY_PATH": os.path.dirname(PROGRAMS["libcuda"])}
DRY_RUN = 1
KEYS = 64


class Engine(TierEngine):
    def __init__(self, broker, device):
        super().__init__(PROGRAMS["client"], broker, device, env=ENV)

    def fill(self):
        assert self.do("grow 4", "grown") == [4]
        assert self.do("put 0 %d" % KEYS, "put") == [KEYS]

    def get(self):
        """How many of the keys came, and how many of those from below."""
        return self.do("get 0 %d" % KEYS, "got")[:2]


def with_broker(run, tier=("--host-tier", "128M")):
    broker = Broker(PROGRAMS, args=(*TENANTS, *tier), env=ENV,
                    devices=["cuda:0=64M", "cuda:1=64M", "host:0=16M"])
    engines = []

    def engine(device):
        engines.append(Engine(broker, device))
        return engines[-1]

    try:
        assert broker.code is None, broker.text()
        if tier:
            wait_until(lambda: all(t["ready"] for t in tiers(broker)), "the host tier is not ready")
        run(broker, engine)
        for e in engines:
            if e.proc.poll() is None:
                e.end()
        code, answer = broker.ask("health", "--deep")
        assert code == 0, answer
        broker.stop()
    finally:
        for e in engines:
            e.kill()
        broker.kill()


def tiers(broker):
    return broker.json("tier", "list")["tiers"]


def tier(broker, device):
    return next(t for t in tiers(broker) if t["device"] == device)


def gpu(broker, n=0):
    return broker.json("gpu", "list")["devices"][n]


def drain(broker, *more):
    """Until it is over."""
    wait_until(lambda: broker.ask("gpu", "drain", "cuda:0", *more)[0] == 0,
               lambda: "it is not drained: %s" % gpu(broker))
    return gpu(broker)


def drained_gpu_has_no_process_and_no_memory(broker, engine):
    before, other = gpu(broker), gpu(broker, 1)
    assert before["owner_pid"] and before["mover_pid"] and before["state"] == "ok", before
    e = engine("cuda:0")
    e.fill()
    e.end()
    after = drain(broker)
    assert after["state"] == "drained" and after["granted_bytes"] == 0 and after["slabs"] == 0, after
    assert after["owner_pid"] is None and after["mover_pid"] is None, after
    assert not alive(before["owner_pid"]) and not alive(before["mover_pid"])
    assert gpu(broker, 1) == other, (other, gpu(broker, 1))
    e = engine("cuda:1")
    e.fill()
    assert e.get() == [KEYS, 0]
    code, answer = broker.ask("gpu", "drain", "cuda:0")
    assert code == 0 and answer["drained"], answer


def what_was_cached_comes_back(broker, engine):
    e = engine("cuda:0")
    e.fill()
    e.end()
    drain(broker)
    low = tier(broker, "arena:0")
    assert low["tier"] == "host" and low["cached_bytes"] == KEYS * 2 * 65536, low
    assert tier(broker, "cuda:0")["demoted"] == KEYS, tiers(broker)
    code, answer = broker.ask("gpu", "resume", "cuda:0")
    assert code == 0 and answer["resumed"], answer
    again = wait_until(lambda: gpu(broker)["state"] == "ok" and gpu(broker), lambda: gpu(broker))
    assert alive(again["owner_pid"]) and alive(again["mover_pid"]), again
    assert again["mover_restarts"] == 1, again
    e = engine("cuda:0")
    assert e.do("grow 4", "grown") == [4]
    assert e.get() == [KEYS, KEYS]
    up = tier(broker, "cuda:0")
    assert up["promoted"] == KEYS and up["promoted_bytes"] == KEYS * 2 * 65536, up
    assert up["checksum_misses"] == 0 and up["failed"] == 0 and up["flights"] == 0, up
    status = broker.json("status")
    assert status["hit_ratio"] == 0 and status["hit_ratio_host"] == 1, status
    assert (status["lookup_below"], status["load_hits"], status["load_failed"]) == (KEYS, KEYS, 0), status
    code, answer = broker.ask("gpu", "resume", "cuda:0")
    assert code == 0 and not answer["resumed"], answer


def hash_of(key):
    return struct.pack("=QQ", key + 1, ~key & (1 << 64) - 1).hex()


def block_below_is_told_from_a_resident_one(broker, engine):
    e = engine("cuda:0")
    e.fill()
    ns = broker.json("ns", "list")["namespaces"][0]["digest"]
    code, answer = broker.ask("prefix", "lookup", ns, hash_of(0), hash_of(KEYS))
    assert code == 0 and answer["matched"] == 1 and answer["matched_tiers"] == 1, answer
    assert answer["keys"][0]["resident"] and answer["keys"][0]["tier"] == "device", answer
    e.end()
    drain(broker)
    code, answer = broker.ask("prefix", "lookup", ns, hash_of(0), hash_of(1))
    assert code == 0 and answer["matched"] == 0 and answer["matched_tiers"] == 2, answer
    assert not answer["keys"][0]["resident"] and answer["keys"][0]["tier"] == "host", answer
    code, answer = broker.ask("prefix", "explain", ns, hash_of(0))
    assert code == 0 and "host tier" in answer["reasons"][0], answer
    code, answer = broker.ask("prefix", "pin", ns, hash_of(0))
    assert code == 4 and "host tier" in answer["keys"][0]["why"], answer
    code, answer = broker.ask("prefix", "top", "--count", "500")
    assert len(answer["pages"]) == KEYS and all(p["tier"] == "host" for p in answer["pages"]), answer
    code, answer = broker.ask("prefix", "evict", ns, hash_of(KEYS - 1))
    assert code == 0 and answer["pages"] == 1, answer
    broker.ask("gpu", "resume", "cuda:0")
    e = engine("cuda:0")
    assert e.do("grow 4", "grown") == [4]
    wait_until(lambda: gpu(broker)["state"] == "ok", lambda: gpu(broker))
    assert e.get() == [KEYS - 1, KEYS - 1]
    code, answer = broker.ask("prefix", "lookup", ns, hash_of(0))
    assert answer["keys"][0]["resident"] and answer["keys"][0]["copy_below"], answer
    code, answer = broker.ask("prefix", "top", "--count", "500")
    assert len(answer["pages"]) == KEYS - 1, answer  # each block once
    code, answer = broker.ask("prefix", "evict", ns, hash_of(0))
    assert code == 0, answer
    assert e.do("look 0 1", "found") == [0, 0]  # in no tier


def client_that_stays_keeps_its_slabs(broker, engine):
    e = engine("cuda:0")
    e.fill()
    code, answer = broker.ask("gpu", "drain", "cuda:0")
    assert code == 8 and not answer["drained"], answer
    client = answer["clients"][0]
    assert client["pid"] == e.proc.pid and client["slabs"] == 4 and client["connected"], client
    assert gpu(broker)["state"].startswith("draining (by an operator"), gpu(broker)
    assert e.do("grow 1", "failed") == [28]
    code, answer = broker.ask("gpu", "drain", "cuda:0", "--force")
    assert code == 8 and answer["force"], answer
    wait_until(lambda: not broker.ask("gpu", "drain", "cuda:0")[1]["clients"][0]["connected"],
               "it is still connected")
    assert gpu(broker)["granted_bytes"] > 0, gpu(broker)  # it may still have it mapped
    e.proc.send_signal(signal.SIGKILL)
    assert drain(broker)["state"] == "drained"


def drain_is_taken_back(broker, engine):
    """Before it is over, and twice."""
    e = engine("cuda:0")
    e.fill()
    for _ in range(2):
        assert broker.ask("gpu", "drain", "cuda:0")[0] == 8
        assert broker.ask("gpu", "resume", "cuda:0")[1]["resumed"]
    e.end()
    wait_until(lambda: gpu(broker)["state"] == "ok", lambda: gpu(broker))
    e = engine("cuda:0")
    e.fill()


def without_a_host_tier(broker, engine):
    e = engine("cuda:0")
    e.fill()
    e.end()
    assert not broker.ask("gpu", "drain", "cuda:0")[1]["below"]
    assert drain(broker)["mover_pid"] is None
    rows = tiers(broker)
    assert [t["tier"] for t in rows] == ["device"] * 3, rows
    assert all(t["ready"] is None and t["below"] is None for t in rows), rows
    broker.ask("gpu", "resume", "cuda:0")
    e = engine("cuda:0")
    e.fill()


def what_makes_no_sense_is_refused(broker, engine):
    e = engine("cuda:0")
    e.fill()
    for argv, want in ((("gpu", "drain", "cuda:7"), 4), (("gpu", "drain", "host:0"), 2),
                       (("gpu", "drain", "arena:0"), 4), (("gpu", "drain", "cuda:0", "--farce"), 2),
                       (("gpu", "drain"), 2), (("gpu", "drain", "cuda:0", "--force", "x"), 2),
                       (("gpu", "resume", "cuda:7"), 4), (("gpu", "resume", "host:0"), 2),
                       (("gpu", "resume"), 2), (("gpu", "resume", "cuda:0", "--force"), 2)):
        code, answer = broker.ask(*argv)
        assert code == want and answer["error"]["why"], (argv, code, answer)
    p = subprocess.run([PROGRAMS["broker-ctl"], "-S", broker.sock, "gpu", "drain", "cuda:0"],
                       stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert p.returncode == 2 and "-y" in p.stderr, p
    p = subprocess.run([PROGRAMS["broker-ctl"], "-S", broker.sock, "-n", "gpu", "drain", "cuda:0", "--force"],
                       capture_output=True, text=True, check=False)
    assert p.returncode == 0 and str(e.proc.pid) in p.stdout and "would be disconnected" in p.stdout, p
    assert gpu(broker)["state"] == "ok" and e.do("ping 1", "worst")
    assert e.get() == [KEYS, 0]


def mover_that_is_away_is_told(broker, engine):
    pid = gpu(broker)["mover_pid"]
    os.kill(pid, signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: gpu(broker)["mover_pid"] != pid, "it is still there")
    now = wait_until(lambda: gpu(broker)["mover_restarts"] and gpu(broker), lambda: gpu(broker))
    assert now["state"] == "ok" or now["state"].startswith("no lower tier ("), now
    wait_until(lambda: gpu(broker)["state"] == "ok", lambda: gpu(broker))
    assert tier(broker, "cuda:0")["ready"] is True


def main():
    cases = [drained_gpu_has_no_process_and_no_memory, what_was_cached_comes_back,
             block_below_is_told_from_a_resident_one,
             client_that_stays_keeps_its_slabs, drain_is_taken_back, what_makes_no_sense_is_refused,
             mover_that_is_away_is_told]
    print("1..%d" % (len(cases) + 1), flush=True)
    for n, case in enumerate(cases, 1):
        report(n, case.__name__, lambda c=case: with_broker(c))
    report(len(cases) + 1, "without_a_host_tier", lambda: with_broker(without_a_host_tier, tier=()))


main()
