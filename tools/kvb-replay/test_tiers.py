#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kvb-replay against a daemon whose devices have a host tier: what went down comes up, byte for byte.

On host memory and on GPUs of the stand-in driver; against the same two tiers offline; while the mover is killed again
and again; and when the broker itself dies with pages on their way.

usage: test_tiers.py KVB-REPLAY KVBROKERD BROKER-CTL STAND-IN-FOLDER TRACE
"""
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

REPLAY, BROKERD, CTL, STAND_IN, TRACE = sys.argv[1:6]
PAGE_KIB, DEVICE_MIB, HOST_MIB = 16, 16, 128
KILL_EVERY_S = 0.7


class Broker:
    def __init__(self, device):
        self.folder = tempfile.TemporaryDirectory()
        self.device = device
        self.socket = self.folder.name + "/broker.sock"
        self.env = dict(os.environ, LD_LIBRARY_PATH=STAND_IN, FAKECUDA=f"gpus=1,mem=1G,lat=*:0us,dir={self.folder.name}")
        self.daemon = subprocess.Popen([BROKERD, "--socket", self.socket, "--state-dir", self.folder.name, "--foreground",
                                        "--device", f"{device}={DEVICE_MIB}M", "--host-tier", f"{HOST_MIB}M"], env=self.env)

    def __enter__(self):
        end = time.monotonic() + 30
        while not self.tier_ready():
            assert self.daemon.poll() is None and time.monotonic() < end, "no tier"
            time.sleep(0.05)
        return self

    def __exit__(self, *_):
        self.daemon.kill()
        self.daemon.wait()
        self.folder.cleanup()

    def ask(self, *command):
        done = subprocess.run([CTL, "-S", self.socket, "-j", *command], capture_output=True, text=True, check=False)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def tier_ready(self):
        tiers = self.ask("tier", "list")
        return tiers and all(t["ready"] for t in tiers["tiers"])

    def promoted(self):
        tiers = self.ask("tier", "list")
        return sum(t["promoted"] for t in tiers["tiers"] if t["tier"] == "device") if tiers else 0

    def mover(self):
        devices = self.ask("gpu", "list")
        return next((d["mover_pid"] for d in devices["devices"] if d["name"] == self.device), None) if devices else None

    def start(self, *args):
        return subprocess.Popen([REPLAY, "--trace", TRACE, "--broker", self.socket, "--device", self.device, "--clients", "3",
                                 "--page-bytes", f"{PAGE_KIB}K", "--json", "--verify", *args],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.env)


def finish(process):
    out, err = process.communicate(timeout=240)
    return process.returncode, json.loads(out.splitlines()[-1]) if out else None, err


def check(got, err, code):
    assert code == 0, err
    assert got["corrupt"] == 0 and got["pages_verified"] >= got["hit_blocks"], got
    assert got["hit_blocks"] == got["hit_blocks_device"] + got["hit_blocks_host"], got
    assert got["hit_blocks_device"] > 0 and got["hit_blocks_host"] > 0, got


def replays_right(device, regions):
    offline = subprocess.run([REPLAY, "--sim", "--trace", TRACE, "--json", "--tiers",
                              f"{DEVICE_MIB * 1024 // PAGE_KIB},{HOST_MIB * 1024 // PAGE_KIB}"],
                             capture_output=True, text=True, check=True)
    exact = json.loads(offline.stdout)
    with Broker(device) as broker:
        code, got, err = finish(broker.start("--regions", regions))
        check(got, err, code)
        print(f"{device}, {regions} regions: {got['hit_blocks_device']} + {got['hit_blocks_host']} hits, "
              f"offline {exact['hit_blocks_device']} + {exact['hit_blocks_host']}, {got['seconds']:.1f} s")
        assert 0.85 * exact["hit_blocks"] <= got["hit_blocks"] <= 1.1 * exact["hit_blocks"], (got, exact)
        # All of it has been let go, and the next one finds it.
        code, got, err = finish(broker.start("--regions", regions, "--clients", "1"))
        check(got, err, code)


def outlives_its_movers(device):
    killed, over = [], threading.Event()

    def kill(broker):
        while not over.wait(KILL_EVERY_S):
            pid = broker.mover()
            if pid:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    with Broker(device) as broker:
        killer = threading.Thread(target=kill, args=(broker,))
        killer.start()
        while len(killed) < 3:
            code, got, err = finish(broker.start())
            assert code == 0 and got["corrupt"] == 0 and got["hit_blocks"] > 0, (got, err)
        over.set()
        killer.join()
        assert broker.daemon.poll() is None
        print(f"{device}: {len(killed)} movers killed")


def ends_with_its_broker(device):
    with Broker(device) as broker:
        replay = broker.start()
        while not broker.promoted():
            assert replay.poll() is None, replay.communicate()
        broker.daemon.kill()
        code, got, err = finish(replay)
        assert code == 1 and got is None and "broker" in err, (code, got, err)


for on in ("host:0", "cuda:0"):
    replays_right(on, "1")
    outlives_its_movers(on)
    ends_with_its_broker(on)
replays_right("cuda:0", "4")
