#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The production path to GPU memory: daemon, owners, library, replay.

One, two and eight devices replay a trace at once and every byte is right; hits are those of host
memory of the same size. Clients and owners die in the middle. Each driver call of a client fails
once, and only that client hears of it. Memory that changes hands reads zero.

With libcuda=PATH over the stand-in driver; without it over the machine's own, and gpus=N says how
many GPUs it has. Nothing can be made to fail there, so the cases that need that are left out.

usage: test_end_to_end.py kvbrokerd=PATH broker-ctl=PATH kvb-replay=PATH client=PATH
           trace=PATH broker=PATH {libcuda=PATH | gpus=N}
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile

PROGRAMS = dict(arg.split("=", 1) for arg in sys.argv[1:])
sys.path.insert(0, os.path.dirname(PROGRAMS["broker"]))
from broker import BAD_WORDS, TENANTS, WAIT_S, Broker, report, wait_until  # noqa: E402

STAND_IN = "libcuda" in PROGRAMS
REPLAY_S = 150
ONE_TENANT = TENANTS[:2]
MPS = {"CUDA_MPS_PIPE_DIRECTORY": "/nonexistent", "CUDA_MPS_LOG_DIRECTORY": "/nonexistent"}

# What a client calls of the driver, with an error that the call can have.
CLIENT_CALLS = {
    "cuInit": "NO_DEVICE",
    "cuDeviceGet": "INVALID_DEVICE",
    "cuDeviceGetAttribute": "INVALID_VALUE",
    "cuMemGetAllocationGranularity": "INVALID_VALUE",
    "cuCtxGetCurrent": "NOT_INITIALIZED",
    "cuCtxGetDevice": "INVALID_CONTEXT",
    "cuDevicePrimaryCtxRetain": "OUT_OF_MEMORY",
    "cuCtxSetCurrent": "INVALID_CONTEXT",
    "cuMemAddressReserve": "OUT_OF_MEMORY",
    "cuMemImportFromShareableHandle": "INVALID_VALUE",
    "cuMemMap": "OUT_OF_MEMORY",
    "cuMemSetAccess": "OUT_OF_MEMORY",
    "cuMemcpyHtoD_v2": "ECC_UNCORRECTABLE",
    "cuMemcpyDtoH_v2": "ILLEGAL_ADDRESS",
    "cuMemUnmap": "INVALID_VALUE",
    "cuMemRelease": "INVALID_VALUE",
    "cuMemAddressFree": "INVALID_VALUE",
    "cuDevicePrimaryCtxRelease_v2": "INVALID_CONTEXT",
}
FAILURES_EACH = (1, 2, 5)
memory = tempfile.TemporaryDirectory(prefix="kvb-gpu-", dir="/dev/shm") if STAND_IN else None  # of its devices
worlds = itertools.count()


def environment(gpus):
    """Of a world with so many GPUs, apart from all others."""
    if not STAND_IN:
        return {}
    return {"FAKECUDA": "gpus=%d,mem=1G,node=%d,dir=%s" % (gpus, next(worlds), memory.name),
            "LD_LIBRARY_PATH": os.path.dirname(PROGRAMS["libcuda"])}


def trace_of(requests, folder):
    path = "%s/trace-%d" % (folder, requests)
    if not os.path.exists(path):
        with open(PROGRAMS["trace"]) as whole, open(path, "w") as part:
            part.writelines(itertools.islice(whole, requests))
    return path


class World:
    """A broker with so many GPUs, and what runs on it."""

    def __init__(self, gpus, size, more=(), args=TENANTS):
        env = environment(gpus)
        self.env = dict(os.environ, **env)
        self.broker = Broker(PROGRAMS, args=(*args, "--max-pages", "131072"), env=dict(env, **MPS),
                             devices=["cuda:%d=%s" % (i, size) for i in range(gpus)] + list(more))
        assert self.broker.code is None, self.broker.text()
        self.folder = tempfile.mkdtemp(dir=self.broker.dir)

    def replay(self, device, requests, regions=1, clients=2, more=()):
        return subprocess.Popen(
            [PROGRAMS["kvb-replay"], "--trace", trace_of(requests, self.folder), "--broker", self.broker.sock,
             "--device", device, "--clients", str(clients), "--page-bytes", "64K", "--regions", str(regions),
             "--verify", "--json", *more],
            env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def client(self, mode, tenant="default", regions=2, fail=None, context=None, library=None):
        env = dict(self.env, **({"LD_LIBRARY_PATH": library} if library else {}))
        if fail:
            env["FAKECUDA"] += ",fail=" + fail
        return subprocess.Popen([PROGRAMS["client"], self.broker.sock, tenant, "0", str(regions), mode,
                                 *([] if context is None else [str(context)])],
                                env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True)

    def gpus(self):
        return [d for d in self.broker.json("gpu", "list")["devices"] if d["driver"] != "host"]

    def owner(self, n=0):
        return self.gpus()[n]["owner_pid"]

    def end(self):
        try:
            self.broker.check_at_rest()
            self.broker.stop()
        finally:
            self.broker.kill()


def finish(process, code=0):
    out, err = process.communicate(timeout=REPLAY_S)
    assert process.returncode == code, (process.returncode, out[-500:], err[-1500:])
    return json.loads(out.splitlines()[-1]) if out.startswith("{") else out


def right(result):
    assert result["corrupt"] == 0 and result["pages_verified"] >= result["hit_blocks"] > 0, result
    assert result["hit_blocks_device"] == result["hit_blocks"], result
    return result["hit_blocks"]


def maps_libcuda(pid):
    with open("/proc/%d/maps" % pid) as f:
        return "libcuda" in f.read()


def i9_the_daemon_calls_no_driver(world):
    gpu = world.gpus()[0]
    assert (gpu["driver"] == "fakecuda") == STAND_IN, gpu
    assert maps_libcuda(gpu["owner_pid"]) and not maps_libcuda(world.broker.proc.pid)
    with open("/proc/%d/environ" % gpu["owner_pid"]) as f:
        assert "CUDA_MPS" not in f.read(), "the owner could have joined an MPS server"


def replays_at_once(gpus, size, requests, regions):
    world = World(gpus, size, args=ONE_TENANT)
    try:
        assert len(world.gpus()) == gpus
        i9_the_daemon_calls_no_driver(world)
        hits = [right(finish(p)) for p in
                [world.replay("cuda:%d" % i, requests, regions, clients=2 if gpus < 8 else 1)
                 for i in range(gpus)]]
        assert max(hits) <= 1.05 * min(hits), hits
        world.end()
        return "%d hits" % hits[0]
    finally:
        world.broker.kill()


def hits_are_those_of_host_memory():
    world = World(1, "128M", more=["host:0=128M"], args=ONE_TENANT)
    try:
        gpu, host = [right(finish(world.replay(device, 600, clients=1))) for device in ("cuda:0", "host:0")]
        assert abs(gpu - host) <= 0.02 * host, (gpu, host)
        world.end()
        return "%d and %d" % (gpu, host)
    finally:
        world.broker.kill()


def ready(replay):
    """Its clients; all of them have their memory and are at work."""
    def children():
        assert replay.poll() is None, replay.communicate()
        with open("/proc/%d/task/%d/children" % (replay.pid, replay.pid)) as f:
            return [int(x) for x in f.read().split()]
    return wait_until(lambda: len(children()) == 3 and children(), "clients do not start")


def fault_059_client_killed(world):
    replay = world.replay("cuda:0", 3000, clients=3, more=("--speed", "2"))
    pids = ready(replay)
    wait_until(lambda: world.broker.json("status")["clients"] == 3, "clients do not come")
    os.kill(pids[1], signal.SIGKILL)
    _, err = replay.communicate(timeout=REPLAY_S)
    assert replay.returncode == 1 and "killed by signal 9" in err, (replay.returncode, err)
    world.broker.check_at_rest()
    right(finish(world.replay("cuda:0", 300)))


def owner_killed(world):
    """What is granted stays; what is wanted next comes from a new owner."""
    replay = world.replay("cuda:0", 400, clients=3, more=("--speed", "300"))
    ready(replay)
    wait_until(lambda: world.gpus()[0]["granted_bytes"] > 0, "no memory is granted")
    old = world.owner()
    os.kill(old, signal.SIGKILL)
    right(finish(replay))
    world.broker.check_at_rest()
    finish(world.client("life"))
    new = wait_until(world.owner, "no owner comes back")
    assert new != old and maps_libcuda(new), (old, new)


def owner_killed_again_and_again(world):
    """Jobs in flight may fail, softly; nothing else does, and nothing is left behind."""
    lived = 0
    for _ in range(10):
        client = world.client("life")
        pid = world.owner()
        if pid:
            os.kill(pid, signal.SIGKILL)
        out, err = client.communicate(timeout=WAIT_S)
        assert client.returncode in (0, 1), (client.returncode, out, err)
        assert client.returncode == 0 or "grow" in err or "alloc" in err, err
        lived += client.returncode == 0
        world.broker.check_at_rest()
    finish(world.client("life"))
    return "%d of 10 got their memory" % lived


def fault_083_call_of_a_client_fails(world, call):
    name, ended = call.split("_")[0], 0
    for k in FAILURES_EACH:
        client = world.client("life", fail="%s:%d:%s" % (call, k, CLIENT_CALLS[call]),
                              context=0 if call == "cuCtxGetDevice" else None)
        out, err = client.communicate(timeout=WAIT_S)
        assert client.returncode in (0, 1), (k, client.returncode, out, err)
        assert not any(word in err for word in BAD_WORDS), (k, err)
        # A failure to restore the thread's context has no call of ours to be told by.
        assert client.returncode == 0 or name in err or "is not what it was" in err, (k, err)
        ended += client.returncode
        world.broker.check_at_rest()
    finish(world.client("life"))
    world.broker.check_at_rest()
    return "%d of %d ended" % (ended, len(FAILURES_EACH))


def fault_086_no_library(world):
    client = world.client("life")
    finish(client)
    with tempfile.TemporaryDirectory(dir=world.folder) as folder:
        open(folder + "/libcuda.so.1", "w").close()  # stands before one that the machine may have
        without = world.client("life", library=folder)
        _, err = without.communicate(timeout=WAIT_S)
    assert without.returncode == 1 and "libcuda" in err, err
    world.broker.check_at_rest()


def works_in_the_engines_context(gpus):
    world = World(gpus, "64M")
    try:
        finish(world.client("life", context=0))
        if gpus > 1:
            _, err = world.client("life", context=1).communicate(timeout=WAIT_S)
            assert "not of cuda:0" in err, err
        finish(world.client("life"))
        world.end()
        return None if gpus > 1 else "one GPU: a context of another one was not tried"
    finally:
        world.broker.kill()


def i2_memory_that_changes_hands_reads_zero():
    world = World(1, "64M", args=(*ONE_TENANT, "--tenant", "other,uid=%d" % os.getuid()))
    lender = None
    try:
        lender = world.client("lend", regions=1)
        assert lender.stdout.readline() == "ready\n", lender.communicate()
        said = finish(world.client("clean", tenant="other", regions=1))
        assert said.startswith("clean "), said
        finish(lender)
        # And what the dead leave behind; `other` has never written anything.
        for _ in range(3):
            dead = world.client("lend", regions=1)
            assert dead.stdout.readline() == "ready\n", dead.communicate()
            dead.kill()
            dead.communicate()
            said = finish(world.client("clean", tenant="other", regions=1))
        world.end()
        return said.strip()
    finally:
        if lender:
            lender.kill()
            lender.wait()
        world.broker.kill()


def everything_is_given_back(world):
    fds = world.broker.count_fds()
    finish(world.client("life"))
    world.broker.check_empty(fds)
    world.broker.stop()


def replays():
    """(name, GPUs, memory of each, requests, regions)"""
    if STAND_IN:
        return [("one_gpu", 1, "256M", 800, 1), ("one_gpu_32_regions", 1, "256M", 300, 32),
                ("two_gpus", 2, "128M", 400, 1), ("eight_gpus", 8, "64M", 150, 1),
                ("eight_gpus_32_regions", 8, "64M", 60, 32)]
    gpus = int(PROGRAMS["gpus"])
    return [("one_gpu", 1, "4G", 3800, 1), ("one_gpu_32_regions", 1, "4G", 400, 32),
            ("every_gpu", gpus, "512M", 800, 1), ("every_gpu_32_regions", gpus, "512M", 150, 32)]


def main():
    world = World(1, "256M")
    cases = [
        *[("replay_" + name, lambda a=args: replays_at_once(*a)) for name, *args in replays()],
        ("hits_are_those_of_host_memory", hits_are_those_of_host_memory),
        ("works_in_the_engines_context",
         lambda: works_in_the_engines_context(2 if STAND_IN else int(PROGRAMS["gpus"]))),
        ("i2_memory_that_changes_hands_reads_zero", i2_memory_that_changes_hands_reads_zero),
        ("fault_059_client_killed", lambda: fault_059_client_killed(world)),
        ("fault_083_owner_killed", lambda: owner_killed(world)),
        ("fault_083_owner_killed_again_and_again", lambda: owner_killed_again_and_again(world)),
        *[("fault_083_client_" + call, lambda c=call: fault_083_call_of_a_client_fails(world, c))
          for call in CLIENT_CALLS if STAND_IN],
        ("fault_086_client_without_a_driver", lambda: fault_086_no_library(world)),
        ("fault_056_all_is_zero_at_the_end", lambda: everything_is_given_back(world)),
    ]
    print("1..%d" % len(cases), flush=True)
    try:
        for n, (name, run) in enumerate(cases, 1):
            report(n, name, run)
    finally:
        world.broker.kill()


main()
