#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kvb-replay against a daemon with a store: what memory has no room for comes back from files, byte for byte.

Below a `host` device alone, below its host tier, and below a GPU of the stand-in driver and its host tier. Hits are
those of the same tiers offline: with one client, since of two the second does not find what the first is filling. Then
the daemon is killed with writes under way, the store is checked page by page, and the next daemon finds it warm;
as it does after a stop. Two files are one store. With admission less is written.

The store makes room in some of the runs. It does so by the segment: of a file's one is ready to be written to, one
is being written, and one may be about to be free. So its hits are those offline of a store that has one segment less,
of one that has three less, or between them; and at times a prefix more of them, since a page that is read before its
segment is emptied is carried, and when that is depends on the drive.

usage: test_store.py KVB-REPLAY KVBROKERD BROKER-CTL KVB-STORE STAND-IN-FOLDER TRACE
"""
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

REPLAY, BROKERD, CTL, STORE, STAND_IN, TRACE = sys.argv[1:7]
REQUESTS, PAGE_KIB, DEVICE_MIB, HOST_MIB = 600, 64, 32, 64
HEAD_MIB, SEGMENT_MIB, SEGMENT_PAGES = 4, 16, 251
WAIT_S = 60
FOLDER = tempfile.TemporaryDirectory(dir=".")
NAMES = map(lambda n: f"{FOLDER.name}/{n}", itertools.count())


def run_json(*args, code=0):
    done = subprocess.run(args, capture_output=True, text=True, check=False)
    assert done.returncode == code, (args, done)
    return json.loads(done.stdout.splitlines()[-1])


def sizes_mib(segments, parts):
    return (HEAD_MIB + segments * SEGMENT_MIB,) * parts


class Broker:
    """A daemon over the store of these files, which are made when they are not there."""

    def __init__(self, files, device="host:0", host_mib=0, admit="all"):
        self.files, self.device, self.state = files, device, tempfile.TemporaryDirectory()
        self.socket = self.state.name + "/broker.sock"
        self.env = dict(os.environ, LD_LIBRARY_PATH=STAND_IN, FAKECUDA=f"gpus=1,mem=1G,lat=*:0us,dir={self.state.name}")
        parts = [word for path, mib in files for word in ("--store", f"{path}={mib}M")]
        self.daemon = subprocess.Popen([BROKERD, "--socket", self.socket, "--state-dir", self.state.name, "--foreground",
                                        "--device", f"{device}={DEVICE_MIB}M", "--host-tier", f"{host_mib}M", *parts,
                                        "--store-admit", admit], env=self.env)
        end = time.monotonic() + WAIT_S
        while not self.ready(host_mib):
            assert self.daemon.poll() is None and time.monotonic() < end, "it does not come up"
            time.sleep(0.05)

    def ready(self, host_mib):
        done = subprocess.run([CTL, "-S", self.socket, "-j", "tier", "list"], capture_output=True, text=True, check=False)
        return done.returncode == 0 and (not host_mib or all(t["ready"] for t in json.loads(done.stdout)["tiers"]))

    def start(self, trace, *args):
        return subprocess.Popen([REPLAY, "--trace", trace, "--broker", self.socket, "--device", self.device, "--clients",
                                 "1", "--page-bytes", f"{PAGE_KIB}K", "--json", "--verify", *args],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.env)

    def replay(self, trace, *args):
        out, err = (process := self.start(trace, *args)).communicate(timeout=WAIT_S)
        assert process.returncode == 0, err
        got = json.loads(out.splitlines()[-1])
        assert got["corrupt"] == 0 and got["pages_verified"] >= got["hit_blocks"], got
        assert got["hit_blocks"] == sum(got[f"hit_blocks_{t}"] for t in ("device", "host", "store")), got
        return got

    def end(self, signo):
        self.daemon.send_signal(signo)
        code = self.daemon.wait(WAIT_S)
        assert code == (0 if signo == signal.SIGTERM else -signo), code
        self.state.cleanup()


def check_store(files):
    """No page that is not as it was put; how many there are."""
    found = run_json(STORE, "fsck", "--deep", "-j", *(path for path, _ in files))
    assert found["ok"] and found["bad"] == 0, found
    return found["pages"]


def new_files(segments, parts=1):
    return [(next(NAMES), mib) for mib in sizes_mib(segments, parts)]


def offline(trace, host_mib, store_pages):
    tiers = *(mib * 1024 // PAGE_KIB for mib in (DEVICE_MIB, host_mib)), store_pages
    return run_json(REPLAY, "--sim", "--trace", trace, "--json", "--tiers", ",".join(map(str, tiers)), "--store-admit", "all")


def replays_as_offline(trace, device, host_mib, segments, *args, parts=1):
    most, least = (offline(trace, host_mib, (segments - free) * SEGMENT_PAGES * parts) for free in (1, 3))
    files = new_files(segments, parts)
    broker = Broker(files, device, host_mib)
    got = broker.replay(trace, *args)
    broker.end(signal.SIGTERM)
    print(f"{device}, host tier {host_mib} MiB, {parts} files of {segments} segments: {got['hit_blocks_device']} + "
          f"{got['hit_blocks_host']} + {got['hit_blocks_store']} hits, offline {least['hit_blocks']} to "
          f"{most['hit_blocks']}; {got['seconds']:.1f} s", flush=True)
    assert got["hit_blocks_store"] > 0, got
    more = 0 if least["hit_blocks"] == most["hit_blocks"] else 0.04  # a prefix of 90 blocks is 3.4 %
    assert 0.99 * least["hit_blocks"] <= got["hit_blocks"] <= (1 + more) * most["hit_blocks"], (got, least, most)
    assert check_store(files) > 0
    return files


def is_warm(trace, files, least):
    """The daemon that comes next finds what was stored. How much; it is stopped."""
    broker = Broker(files)
    got = broker.replay(trace)
    broker.end(signal.SIGTERM)
    assert got["hit_blocks_store"] > 0 and got["hit_blocks"] >= least * got["blocks"], got
    return got["hit_blocks"] / got["blocks"]


def outlives_its_broker(trace):
    files = new_files(60)
    broker = Broker(files)
    began = broker.replay(trace)
    replay = broker.start(trace, "--clients", "3")
    time.sleep(0.3)
    broker.end(signal.SIGKILL)
    replay.communicate(timeout=WAIT_S)
    assert replay.returncode in (0, 1), replay.returncode  # it may have been done
    pages = check_store(files)
    warm = is_warm(trace, files, 0.8)
    print(f"killed: {pages} pages are sound, {warm:.2f} found of all, {began['hit_blocks'] / began['blocks']:.2f} the first time",
          flush=True)


def admits_less(trace):
    stored = {}
    for admit in ("all", "filter"):
        files = new_files(60)
        broker = Broker(files, admit=admit)
        got = broker.replay(trace)
        broker.end(signal.SIGTERM)
        stored[admit] = check_store(files), got["hit_blocks"]
    (every, hits), (chosen, fewer) = stored["all"], stored["filter"]
    print(f"admission: {chosen} pages written instead of {every}, {fewer} hits instead of {hits}", flush=True)
    assert 0 < chosen < 0.5 * every and fewer <= hits, stored


def main():
    trace = FOLDER.name + "/trace.jsonl"
    with open(TRACE) as f, open(trace, "w") as to:
        to.writelines(itertools.islice(f, REQUESTS))
    files = replays_as_offline(trace, "host:0", 0, 60)
    print(f"stopped: {is_warm(trace, files, 0.8):.2f} found of all", flush=True)
    replays_as_offline(trace, "host:0", 0, 16)
    replays_as_offline(trace, "host:0", HOST_MIB, 16)
    replays_as_offline(trace, "cuda:0", HOST_MIB, 32, "--regions", "4")
    replays_as_offline(trace, "host:0", 0, 10, parts=2)
    outlives_its_broker(trace)
    admits_less(trace)


with FOLDER:
    main()
