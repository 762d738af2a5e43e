#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kvb-replay against a daemon of its own: hits near the exact LRU, every byte right, and every way to end.

usage: test_live.py KVB-REPLAY KVBROKERD TRACE
"""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

REPLAY, BROKERD, TRACE = sys.argv[1:4]
DEVICE_MIB, PAGE_KIB = 128, 16
FEW = ("--page-bytes", f"{PAGE_KIB}K", "--clients", "3", "--json", "--verify")


def start(socket, *args):
    return subprocess.Popen([REPLAY, "--trace", TRACE, "--broker", socket, *args], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


def finish(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, json.loads(out.splitlines()[-1]) if out else None, err


def clients_of(process):
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as f:
        return [int(x) for x in f.read().split()]


def wait_for_clients(process, n):
    while len(clients_of(process)) < n:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    time.sleep(0.2)


def replays_right(socket):
    sim = subprocess.run([REPLAY, "--sim", "--trace", TRACE, "--json", "--capacity-pages",
                          str(DEVICE_MIB * 1024 // PAGE_KIB)], capture_output=True, text=True, check=True)
    exact = json.loads(sim.stdout)
    for regions in ("1", "16"):
        code, got, err = finish(start(socket, *FEW, "--regions", regions))
        assert code == 0, err
        assert (got["requests"], got["blocks"]) == (exact["requests"], exact["blocks"]), got
        assert got["corrupt"] == 0 and got["pages_verified"] >= got["hit_blocks"], got
        assert 0.93 * exact["hit_blocks"] <= got["hit_blocks"], (got, exact)
        assert got["clients"] == 3 and sum(got["client_requests"]) == got["requests"], got
        assert got["evictions"] > 0 and got["bytes_filled"] > 0, got


def finds_what_was_there(socket):
    code, got, err = finish(start(socket, *FEW, "--regions", "16", "--clients", "1"))
    assert code == 0 and got["hit_blocks"] > 0 and got["corrupt"] == 0, (got, err)


def ends_on_a_signal(socket):
    replay = start(socket, *FEW, "--speed", "1")
    wait_for_clients(replay, 3)
    replay.send_signal(signal.SIGINT)
    code, got, err = finish(replay)
    assert code == 130 and got["interrupted"] and got["requests"] < 1000, (code, got, err)


def notices_a_dead_client(socket):
    replay = start(socket, *FEW, "--speed", "1")
    wait_for_clients(replay, 3)
    os.kill(clients_of(replay)[1], signal.SIGKILL)
    code, got, err = finish(replay)
    assert code == 1 and got is None and "killed by signal 9" in err, (code, got, err)


def refuses(socket):
    for args, want, text in ((("--tenant", "nobody"), 1, "nobody"), (("--device", "host:999"), 1, "host:999"),
                             (("--device", "cuda:0"), 1, "cuda:0"), (("--device", "tpu:0"), 2, "cuda:N"),
                             (("--page-bytes", "100"), 2, "multiple of 64"), (("--policy", "lru"), 2, "--sim"),
                             (("--broker", socket + ".none"), 3, "no broker")):
        code, got, err = finish(start(socket, *args))
        assert code == want and got is None and text in err, (args, code, got, err)


def notices_a_dead_broker(socket, broker):
    replay = start(socket, *FEW, "--speed", "1")
    wait_for_clients(replay, 3)
    broker.kill()
    code, got, err = finish(replay)
    assert code == 1 and got is None and "broker" in err, (code, got, err)


with tempfile.TemporaryDirectory() as folder:
    path = folder + "/broker.sock"
    daemon = subprocess.Popen([BROKERD, "--socket", path, "--state-dir", folder, "--foreground", "--device",
                               f"host:0={DEVICE_MIB}M"])
    try:
        while not os.path.exists(path):
            assert daemon.poll() is None, "kvbrokerd did not start"
            time.sleep(0.05)
        replays_right(path)
        finds_what_was_there(path)
        ends_on_a_signal(path)
        notices_a_dead_client(path)
        refuses(path)
        notices_a_dead_broker(path, daemon)
    finally:
        daemon.kill()
        daemon.wait()
