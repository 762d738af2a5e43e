#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Owners of GPUs: the processes that keep the memory, over the stand-in driver.

The daemon loads no driver. An owner that is killed, hangs or whose driver fails costs at most the
grant at hand: what was granted stays, the next grant comes from a new owner, other devices and the
rings notice nothing, and nothing is left behind.

usage: test_owner.py kvbrokerd=PATH broker-ctl=PATH client=PATH libcuda=PATH
           libnvidia-ml=PATH broker=PATH
           fault-points=true|false: whether the daemon has them
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time

PROGRAMS = dict(arg.split("=", 1) for arg in sys.argv[1:])
sys.path.insert(0, os.path.dirname(PROGRAMS["broker"]))
from broker import Broker, TENANTS, WAIT_S, report, wait_gone, wait_until  # noqa: E402

# GPUs of its own: they are lost, and filled.
ENV = {"FAKECUDA": "gpus=2,mem=8G,node=owner%d" % os.getpid(), "LD_LIBRARY_PATH": os.path.dirname(PROGRAMS["libcuda"])}
NVML = {"LD_LIBRARY_PATH": ENV["LD_LIBRARY_PATH"] + ":" + os.path.dirname(PROGRAMS["libnvidia-ml"])}
DEADLINE_MS = 1500
HANDLES = 2  # of a slab of the client's

# What an owner calls for a grant and to take it back.
CALLS = ("cuMemCreate", "cuMemExportToShareableHandle", "cuMemRelease")
# Results, and the how-manieth calls that end with them: the first is of that call alone; after the
# second a process is of no use any more, and its successor is a second away.
RESULTS = {"OUT_OF_MEMORY": (1, 2, 3, 5, 8), "ECC_UNCORRECTABLE": (1, 3, 6)}
TRIES = 3
# What it calls to open its device: one failure is a refusal to start.
OPENING = ("cuInit", "cuDeviceGet", "cuDeviceTotalMem_v2", "cuMemGetAllocationGranularity")


def environment(fail=""):
    return dict(ENV, FAKECUDA=ENV["FAKECUDA"] + fail)


def broker_of(*devices, fail="", more=(), env=None):
    return Broker(PROGRAMS, args=(*TENANTS, "--warm", "0", "--owner-deadline", str(DEADLINE_MS), *more),
                  env=dict(environment(fail), CUDA_MPS_PIPE_DIRECTORY="/nonexistent", **(env or {})),
                  devices=list(devices))


class Engine:
    def __init__(self, broker, device, *regions):
        self.proc = subprocess.Popen([PROGRAMS["client"], broker.sock, device, *regions], stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                     env=dict(os.environ, **ENV))
        self.expect("ready")

    def say(self, line):
        self.proc.stdin.write(line + "\n")
        self.proc.stdin.flush()

    def hear(self):
        line = self.proc.stdout.readline()
        if not line:
            raise AssertionError("client: %s, %s" % (self.proc.wait(WAIT_S), self.proc.stderr.read()))
        return line.strip()

    def expect(self, what):
        got = self.hear()
        assert got == what, got

    def do(self, line, what):
        self.say(line)
        self.expect(what)

    def ping(self, n):
        """The longest of n calls, in seconds."""
        self.say("ping %d" % n)
        word, worst = self.hear().split()
        assert word == "worst"
        return int(worst) / 1e6

    def end(self):
        _, err = self.proc.communicate(timeout=WAIT_S)
        assert self.proc.returncode == 0, (self.proc.returncode, err)

    def kill(self):
        self.proc.kill()
        self.proc.communicate()


def gpu(broker, n=0):
    return broker.json("gpu", "list")["devices"][n]


def owner(broker, n=0):
    return wait_until(lambda: gpu(broker, n)["owner_pid"], "device %d has no owner" % n)


def maps(pid):
    with open("/proc/%d/maps" % pid) as f:
        return f.read()


def with_broker(run, *devices, **how):
    """Runs a case; afterwards all that was granted is back, and daemon and owners end."""
    broker = broker_of(*devices, **how)
    engines = []

    def engine(*which):
        engines.append(Engine(broker, *which))
        return engines[-1]

    try:
        assert broker.code is None, broker.text()
        said = run(broker, engine)
        for e in engines:
            if e.proc.returncode is None:  # the case did not end it itself
                e.end()
        engines.clear()
        # movers have fds of their own, when they are there
        broker.check_empty(fds=broker.fds + 16 if "--host-tier" in how.get("more", ()) else None)
        owners = [d["owner_pid"] for d in broker.json("gpu", "list")["devices"] if d["owner_pid"]]
        broker.stop()
        wait_gone(*owners)
        return said
    finally:
        for e in engines:
            e.kill()
        broker.kill()


def refused(*devices, fail="", env=None):
    """The daemon does not start, with exit status 1; what it says."""
    broker = Broker(PROGRAMS, env=env or environment(fail), devices=list(devices))
    try:
        assert broker.code == 1, (broker.code, broker.text())
        broker.check_words()
        return broker.text()
    finally:
        broker.kill()


# ---- cases -------------------------------------------------------------------------------------

def i9_the_daemon_loads_no_driver():
    def run(broker, engine):
        e = engine("cuda:0")
        e.do("grow 2", "grown 2")
        pid = owner(broker)
        assert "libcuda" in maps(pid), maps(pid)
        assert "libcuda" not in maps(broker.proc.pid), maps(broker.proc.pid)
        with open("/proc/%d/environ" % pid) as f:
            seen = f.read()
        assert "CUDA_MPS" not in seen and "FAKECUDA" in seen, seen
        links = {}
        for fd in os.listdir("/proc/%d/fd" % pid):
            links[int(fd)] = os.readlink("/proc/%d/fd/%s" % (pid, fd))
        assert links[3].startswith("socket:"), links
        for fd, link in links.items():
            assert fd <= 3 or not any(word in link for word in ("socket:", "kvb-", "/lock", "[event", "uring")), links
        e.do("give", "ok")
    return with_broker(run, "cuda:0=128M")


def what_gpu_list_says():
    def run(broker, engine):
        devices = broker.json("gpu", "list")["devices"]
        assert [d["name"] for d in devices] == ["cuda:0", "host:0", "cuda:1"], devices
        for d in devices:
            assert d["mover_pid"] is None and d["state"] == "ok" and d["capacity"] == d["capacity_bytes"], d
        assert devices[0]["driver"] == devices[2]["driver"] == "fakecuda", devices
        assert devices[0]["owner_pid"] != devices[2]["owner_pid"], devices
        assert devices[1]["driver"] == "host" and devices[1]["owner_pid"] is None, devices
        assert [d["handle_bytes"] >> 20 for d in devices] == [4, 2, 2], devices
        assert [d["numa"] for d in devices] == [0, 0, 1], devices
    return with_broker(run, "cuda:0=256M", "host:0=64M", "cuda:1=64M", fail=",numa=0:1")


def fault_083_owner_killed():
    def run(broker, engine):
        e = engine("cuda:0")
        e.do("grow 2", "grown 2")
        pid = owner(broker)
        os.kill(pid, signal.SIGKILL)
        wait_gone(pid)
        d = wait_until(lambda: gpu(broker)["state"] != "ok" and gpu(broker), "nobody notices")
        assert d["owner_pid"] is None and d["state"].startswith("failed (") and "gone" in d["state"], d
        e.do("check", "ok")
        late = engine("cuda:0")  # joins the space: is sent what the dead owner made
        late.do("grow 1", "grown 1")
        d = gpu(broker)
        assert d["state"] == "ok" and d["owner_pid"] not in (None, pid), d
        e.do("check", "ok")
        late.do("check", "ok")
        late.do("give", "ok")
        e.do("give", "ok")
    return with_broker(run, "cuda:0=128M")


def fault_083_owner_killed_at_work():
    """Killed at any moment of a grant; that grant may fail, nothing else."""
    def run(broker, engine):
        e = engine("cuda:0")
        failed = 0
        for i in range(12):
            pid = owner(broker) if gpu(broker)["owner_pid"] else None
            e.say("grow 1")
            if pid:
                time.sleep(i * 0.0002)
                os.kill(pid, signal.SIGKILL)
            said = e.hear()
            assert said in ("grown 1", "failed 12"), said
            failed += said != "grown 1"
            e.do("check", "ok")
        e.do("grow 1", "grown 1")
        e.do("give", "ok")
        return "%d of 12 grants failed" % failed
    return with_broker(run, "cuda:0=128M")


def fault_083_owner_hangs():
    """It is given up after its deadline; until then another device and the rings go on."""
    def run(broker, engine):
        stuck, free = engine("cuda:1"), engine("cuda:0")
        stuck.do("grow 1", "grown 1")
        free.do("grow 1", "grown 1")
        pid = owner(broker, 1)
        os.kill(pid, signal.SIGSTOP)
        stuck.say("grow 1")
        began = time.monotonic()
        free.do("grow 1", "grown 1")
        worst = free.ping(2000)
        assert time.monotonic() - began < DEADLINE_MS / 1000, "the other device was delayed"
        assert worst < DEADLINE_MS / 2000, worst
        assert gpu(broker, 1)["owner_pid"] == pid
        stuck.expect("failed 12")
        wait_gone(pid)
        assert "answer" in gpu(broker, 1)["state"], gpu(broker, 1)
        stuck.do("check", "ok")
        stuck.do("grow 1", "grown 1")
        stuck.do("check", "ok")
        stuck.do("give", "ok")
        free.do("give", "ok")
        return "worst call beside it %.1f ms" % (worst * 1000)
    return with_broker(run, "cuda:0=64M", "cuda:1=64M")


def fault_083_stop_while_an_owner_hangs():
    broker = broker_of("cuda:0=64M", more=("--owner-deadline", "60000"))
    e = None
    try:
        e = Engine(broker, "cuda:0")
        pid = owner(broker)
        os.kill(pid, signal.SIGSTOP)
        e.say("grow 1")
        time.sleep(0.2)
        began = time.monotonic()
        broker.stop()
        took = time.monotonic() - began
        assert took < 10, took
        wait_gone(pid)
        return "%.1f s" % took
    finally:
        if e:
            e.kill()
        broker.kill()


def owners_go_with_a_killed_daemon():
    broker = broker_of("cuda:0=64M", "cuda:1=64M")
    try:
        pids = [owner(broker, 0), owner(broker, 1)]
        os.kill(pids[1], signal.SIGSTOP)
        broker.proc.kill()
        broker.proc.wait()
        wait_gone(*pids)
    finally:
        broker.kill()


def signals_of_the_group_are_not_for_owners():
    def run(broker, engine):
        pid = owner(broker)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(pid, number)
        e = engine("cuda:0")
        e.do("grow 1", "grown 1")
        assert owner(broker) == pid
        e.do("give", "ok")
    return with_broker(run, "cuda:0=64M")


def fault_083_call_fails(call, result):
    """The k-th such call of every owner fails: that grant at most, softly."""
    failed = 0

    def run_with(k):
        def run(broker, engine):
            nonlocal failed
            e = engine("cuda:0")
            grown = 0
            for _ in range(TRIES):
                e.say("grow 1")
                said = e.hear()
                assert said in ("grown 1", "failed 12"), (k, said)
                grown += said == "grown 1"
                failed += said != "grown 1"
                e.do("check", "ok")
            # An owner whose first call ends it never grants; any other grants again.
            assert grown >= (TRIES - 1 if result == "OUT_OF_MEMORY" else k > 1), (k, grown, broker.text())
            if grown:
                e.do("give", "ok")
        return run

    for k in RESULTS[result]:
        with_broker(run_with(k), "cuda:0=64M", fail=",fail=%s:%d:%s" % (call, k, result))
    return "%d grants failed" % failed


def fault_011_owner_cannot_be_started():
    """Each of the daemon's own calls that start an owner fails once: at its start, or at a grant."""
    refusals = grants = 0

    def run(broker, engine):
        nonlocal grants
        e = engine("cuda:0")
        pid = owner(broker)
        os.kill(pid, signal.SIGKILL)
        wait_gone(pid)
        e.say("grow 1")
        said = e.hear()
        assert said in ("failed 12", "grown 1"), said
        if said == "failed 12":
            grants += 1
            assert "cannot start an owner" in gpu(broker)["state"], gpu(broker)
            e.do("grow 1", "grown 1")
        e.do("check", "ok")
        e.do("give", "ok")

    for k in range(1, 11):
        env = {"KVB_FAULT": "owner:%d" % k}
        if grants or refusals < k - 1:
            with_broker(run, "cuda:0=64M", env=env)
            continue
        broker = broker_of("cuda:0=64M", env=env)
        if broker.code is not None:
            assert broker.code == 1 and "device cuda:0: " in broker.text(), broker.text()
            broker.check_words()
            refusals += 1
        else:
            broker.stop()
            with_broker(run, "cuda:0=64M", env=env)
        broker.kill()
    assert refusals >= 4 and grants >= 3, (refusals, grants)
    return "%d refusals to start, %d grants failed" % (refusals, grants)


def fault_083_start_takes_long():
    """Each grant waits for a new owner no longer than for any other answer, until there is one."""
    def run(broker, engine):
        e = engine("cuda:0")
        pid = owner(broker)
        os.kill(pid, signal.SIGKILL)
        wait_gone(pid)
        began = time.monotonic()
        e.do("grow 1", "failed 12")
        assert time.monotonic() - began < DEADLINE_MS / 1000 + 1.2
        d = gpu(broker)
        assert "starting" in d["state"] and d["owner_pid"] not in (None, pid), d
        new = d["owner_pid"]
        wait_until(lambda: e.say("grow 1") or e.hear() == "grown 1", "no memory to be had")
        assert gpu(broker)["owner_pid"] == new and gpu(broker)["state"] == "ok", gpu(broker)
        e.do("check", "ok")
        e.do("give", "ok")
    return with_broker(run, "cuda:0=64M", fail=",lat=cuInit:%dms" % (DEADLINE_MS * 5 // 3))


def slab_of_several_messages():
    """More handles than fds fit a message: 130, in 2. Of the second slab only the second fails."""
    def run(broker, engine):
        e = engine("cuda:0", "130")
        e.do("grow 1", "grown 1")
        e.do("check", "ok")
        fds = broker.count_fds()
        e.do("grow 1", "failed 12")
        assert broker.count_fds() == fds, (broker.count_fds(), fds)
        e.do("check", "ok")
        pid = owner(broker)
        os.kill(pid, signal.SIGKILL)
        wait_gone(pid)
        e.do("check", "ok")
        e.do("grow 1", "grown 1")
        e.do("check", "ok")
        e.do("give", "ok")
    return with_broker(run, "cuda:0=5G", fail=",fail=cuMemCreate:259:OUT_OF_MEMORY")


def fault_086_no_driver():
    said = refused("cuda:0=64M", env={"LD_LIBRARY_PATH": ""})
    assert "device cuda:0: " in said and "libcuda.so.1" in said, said


def fault_083_opening_fails(call):
    said = refused("cuda:0=64M", fail=",fail=%s:1:UNKNOWN" % call)
    assert "device cuda:0: " in said and call.split("_")[0] in said, said


def what_cannot_be_is_refused():
    said = refused("cuda:0=7900M")
    assert "asked 7.7G" in said and "has 8.0G" in said and "512.0M" in said, said
    said = refused("cuda:5=64M")
    assert "device cuda:5: " in said, said


# ---- GPUs by their UUID ------------------------------------------------------------------------

def uuid(n):
    """Of GPU n of the stand-in's machine, as nvidia-smi -L spells it."""
    node = re.search("node=([^,]*)", ENV["FAKECUDA"]).group(1)
    number = 2166136261
    for byte in node.encode():
        number = (number ^ byte) * 16777619 % (1 << 32)
    text = (b"fakecuda" + number.to_bytes(4, "little") + n.to_bytes(4, "little")).hex()
    return "GPU-%s-%s-%s-%s-%s" % (text[:8], text[8:12], text[12:16], text[16:20], text[20:])


def gpus_by_their_uuid():
    """Named the other way round than the driver numbers them: engines find what the broker means."""
    def run(broker, engine):
        wait_until(lambda: broker.text().count("its tier is ready") == 2, broker.text)
        devices = broker.json("gpu", "list")["devices"]
        assert [(d["name"], d["numa"]) for d in devices] == [("cuda:0", 1), ("cuda:7", 0)], devices
        pids = [d["owner_pid"] for d in devices]
        for d in devices:
            for pid in (d["owner_pid"], d["mover_pid"]):
                with open("/proc/%d/environ" % pid, "rb") as f:
                    assert b"CUDA_VISIBLE" not in f.read()
        engines = [engine("cuda:0"), engine("cuda:7")]
        for e in engines:
            e.do("grow 2", "grown 2")
            e.do("check", "ok")
        os.kill(pids[1], signal.SIGKILL)  # its successor is of the same GPU
        wait_gone(pids[1])
        for e in engines:
            e.do("grow 1", "grown 1")
            e.do("check", "ok")
            e.do("give", "ok")
        assert [d["numa"] for d in broker.json("gpu", "list")["devices"]] == [1, 0]
    return with_broker(run, "cuda:0@%s=64M" % uuid(1), "cuda:7@%s=64M" % uuid(0), fail=",numa=0:1",
                       more=("--host-tier", "64M"))


def uuids_that_are_none():
    said = refused("cuda:0@%s=64M" % uuid(5))
    assert "device cuda:0: " in said and "cuInit" in said, said
    said = refused("cuda:0=64M", "cuda:1@%s=64M" % uuid(0))
    assert "device cuda:1: it is the same GPU as cuda:0" in said, said
    for device in ("cuda:0@=64M", "cuda:0@0=64M", "cuda:0@GPU-$x=64M", "cuda:0@GPU-%s=64M" % ("0" * 80),
                   "cuda:@%s=64M" % uuid(0), "host:0@%s=64M" % uuid(0)):
        p = subprocess.run([PROGRAMS["kvbrokerd"], "--device", device], capture_output=True, text=True,
                           timeout=WAIT_S, check=False)
        assert p.returncode == 2 and "--device" in p.stderr, (device, p.returncode, p.stderr)


# ---- what happens to a GPU ---------------------------------------------------------------------

def fault_088_memory_taken_by_others():
    """It is seen, said, and no more is taken than leaves the GPU some; then all is well again."""
    with tempfile.TemporaryDirectory() as folder:
        path = folder + "/used"

        def use(text):
            with open(path + ".new", "w") as f:
                f.write(text)
            os.rename(path + ".new", path)

        def run(broker, engine):
            d = gpu(broker)
            assert (d["state"], d["others_bytes"] >> 20, d["unused_bytes"] >> 20) == ("ok", 1000, 7000), d
            e = engine("cuda:0")
            e.do("grow 1", "grown 1")
            pid = owner(broker)
            use("300 7700")
            d = wait_until(lambda: gpu(broker)["state"] != "ok" and gpu(broker), "nobody notices")
            assert d["state"].startswith("warning (others have taken ") and "of its 512.0M cannot" in d["state"], d
            assert d["others_bytes"] >> 20 == 7700 - (d["granted_bytes"] >> 20), d
            e.do("grow 1", "grown 1")
            use("259 7741")
            wait_until(lambda: gpu(broker)["unused_bytes"] >> 20 == 259, lambda: gpu(broker))
            e.do("grow 1", "failed 12")
            assert "are not taken: 259.0M of the GPU are unused, and 256.0M stay so" in broker.text(), broker.text()
            e.do("check", "ok")
            use("7000 1000")
            wait_until(lambda: gpu(broker)["state"] == "ok", lambda: gpu(broker))
            e.do("grow 1", "grown 1")
            use("rubbish")
            d = wait_until(lambda: gpu(broker)["others_bytes"] is None and gpu(broker), lambda: gpu(broker))
            assert d["state"] == "ok" and d["unused_bytes"] is None and d["owner_pid"] == pid, d
            assert "what is used of it is not known: nvmlDeviceGetMemoryInfo" in broker.text(), broker.text()
            e.do("grow 1", "grown 1")
            e.do("check", "ok")
            e.do("give", "ok")
            assert broker.text().count("others have taken") == 1, broker.text()
            assert broker.text().count("can be had again") == 1, broker.text()

        use("7000 1000")
        return with_broker(run, "cuda:0=512M", env=dict(NVML, FAKENVML=path))


def memory_taken_by_others_is_not_known():
    """No library, one that does not start, one that does not know the GPU: said once."""
    def run_with(words):
        def run(broker, engine):
            e = engine("cuda:0")
            os.kill(owner(broker), signal.SIGKILL)  # its successor need not say it again
            wait_until(lambda: e.say("grow 1") or e.hear() == "grown 1", "no memory to be had")
            d = gpu(broker)
            assert d["others_bytes"] is None and d["unused_bytes"] is None and d["state"] == "ok", d
            assert broker.text().count("what others use of it is not known: ") == 1, broker.text()
            assert words in broker.text(), broker.text()
            e.do("give", "ok")
        return run

    with_broker(run_with("device cuda:0: "), "cuda:0=64M")
    for word, words in (("deaf", "nvmlInit: error 999"), ("blind", "nvmlDeviceGetHandleByUUID: error 999 of GPU-")):
        with tempfile.NamedTemporaryFile("w") as f:
            f.write(word)
            f.flush()
            with_broker(run_with(words), "cuda:0=64M", env=dict(NVML, FAKENVML=f.name))


def compute_mode_is_found(mode, words):
    def run(broker, engine):
        e = engine("cuda:0")
        e.do("grow 1", "grown 1")
        d = gpu(broker)
        assert d["state"].startswith("warning (its compute mode ") and words in d["state"], d
        assert broker.text().count(words) == 1, broker.text()
        e.do("give", "ok")
    return lambda: with_broker(run, "cuda:0=64M", fail=",mode=%d" % mode)


def fault_083_device_lost():
    """Its grants fail and its state says why; what was granted comes back; the other device serves."""
    def run(broker, engine):
        on, off = engine("cuda:0"), engine("cuda:1")
        on.do("grow 1", "grown 1")
        off.do("grow 1", "grown 1")
        off.say("grow 1")
        assert off.hear() == "failed 12"
        d = gpu(broker, 1)
        assert d["state"].startswith("failed (") and "cuMemCreate: CUDA_ERROR_UNKNOWN" in d["state"], d
        assert d["owner_pid"] is None, d
        for _ in range(2):  # a successor finds it no better
            off.do("grow 1", "failed 12")
            assert "CUDA_ERROR_UNKNOWN" in gpu(broker, 1)["state"], gpu(broker, 1)
        on.do("grow 1", "grown 1")
        on.do("check", "ok")
        assert gpu(broker)["state"] == "ok", gpu(broker)
        off.kill()  # it can read nothing any more
        on.do("give", "ok")
    return with_broker(run, "cuda:0=64M", "cuda:1=64M", fail=",fail=cuMemCreate@1:%d:DEVICE_LOST" % (HANDLES + 1))


def fault_083_device_lost_under_a_mover():
    """What was on its way is a miss; a mover that cannot serve says so; the other device has both."""
    def run(broker, engine):
        for device in ("cuda:0", "cuda:1"):
            wait_until(lambda d=device: "device %s: its tier is ready" % d in broker.text(), broker.text)
        on, off = engine("cuda:0"), engine("cuda:1")
        on.do("grow 1", "grown 1")
        off.do("grow 1", "grown 1")
        off.do("grow 1", "failed 12")
        assert gpu(broker, 1)["state"].startswith("failed ("), gpu(broker, 1)
        on.do("grow 1", "grown 1")
        on.do("check", "ok")
        d = gpu(broker)
        assert d["state"] == "ok" and d["mover_pid"], d
        off.kill()
        on.do("give", "ok")
    return with_broker(run, "cuda:0=64M", "cuda:1=64M", more=("--host-tier", "64M"),
                       fail=",fail=cuMemCreate@1:%d:DEVICE_LOST" % (HANDLES + 1))


def main():
    cases = [
        ("i9_the_daemon_loads_no_driver", i9_the_daemon_loads_no_driver),
        ("what_gpu_list_says", what_gpu_list_says),
        ("fault_083_owner_killed", fault_083_owner_killed),
        ("fault_083_owner_killed_at_work", fault_083_owner_killed_at_work),
        ("fault_083_owner_hangs", fault_083_owner_hangs),
        ("fault_083_stop_while_an_owner_hangs", fault_083_stop_while_an_owner_hangs),
        ("owners_go_with_a_killed_daemon", owners_go_with_a_killed_daemon),
        ("signals_of_the_group_are_not_for_owners", signals_of_the_group_are_not_for_owners),
        *[("fault_083_%s_%s" % (call, result), lambda c=call, r=result: fault_083_call_fails(c, r))
          for call in CALLS for result in RESULTS],
        *[("fault_083_opening_" + call, lambda c=call: fault_083_opening_fails(c)) for call in OPENING],
        ("fault_083_start_takes_long", fault_083_start_takes_long),
        ("slab_of_several_messages", slab_of_several_messages),
        *([("fault_011_owner_cannot_be_started", fault_011_owner_cannot_be_started)]
          if PROGRAMS["fault-points"] == "true" else []),
        ("fault_088_memory_taken_by_others", fault_088_memory_taken_by_others),
        ("memory_taken_by_others_is_not_known", memory_taken_by_others_is_not_known),
        ("compute_mode_exclusive", compute_mode_is_found(3, "EXCLUSIVE_PROCESS")),
        ("compute_mode_prohibited", compute_mode_is_found(2, "lets no process use it")),
        ("fault_083_device_lost", fault_083_device_lost),
        ("fault_083_device_lost_under_a_mover", fault_083_device_lost_under_a_mover),
        ("gpus_by_their_uuid", gpus_by_their_uuid),
        ("uuids_that_are_none", uuids_that_are_none),
        ("fault_086_no_driver", fault_086_no_driver),
        ("what_cannot_be_is_refused", what_cannot_be_is_refused),
    ]
    print("1..%d" % len(cases), flush=True)
    for n, (name, run) in enumerate(cases, 1):
        if re.search(os.environ.get("OWNER_ONLY", ""), name):
            report(n, name, run)


main()
