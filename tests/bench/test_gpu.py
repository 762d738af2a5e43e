#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kvb-bench gpu, once, over the stand-in driver: that it measures, and not what.

Every key is there; every figure is a number above zero, but for those of kernels, which the
stand-in does not run; a ratio is the ratio of the two sides that stand beside it. What it cannot
measure it refuses. A stage that fails costs no other's figures. An interrupted run leaves neither
processes nor files.

usage: test_gpu.py kvb-bench=PATH kvbrokerd=PATH libcuda=PATH
"""

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time

PROGRAMS = dict(arg.split("=", 1) for arg in sys.argv[1:])
RUN_S = 200
NAMED = ("grow_per_layer_gib_s grow_packed_gib_s bare_copy_gb_s demote_ratio promote_ratio duplex_ratio "
         "adjacent_ratio scattered_ratio interference_memory interference_compute fence_us_p50 "
         "fence_floor_us_p50 mover_cpu_cores").split()
RATIOS = {
    "demote_ratio": ("demote_gb_s", "bare_down_gb_s"),
    "promote_ratio": ("promote_gb_s", "bare_up_gb_s"),
    "duplex_ratio": ("duplex_gb_s", "bare_duplex_gb_s"),
    "revoke_ratio": ("revoke_ms", "bare_unmap_ms"),
}
WORSE = {  # the smaller of two
    "adjacent_ratio": (("adjacent_down_gb_s", "bare_chain_down_gb_s"), ("adjacent_up_gb_s", "bare_chain_up_gb_s")),
    "scattered_ratio": (("scattered_down_gb_s", "bare_batch_scattered_down_gb_s"),
                        ("scattered_up_gb_s", "bare_batch_scattered_up_gb_s")),
}
WORDS = ("bench", "device", "driver_version", "date", "sizes")

scratch = tempfile.TemporaryDirectory(prefix="kvb-bench-gpu-")
memory = tempfile.TemporaryDirectory(prefix="kvb-bench-gpu-", dir="/dev/shm")  # of the device
cases = []


def case(name):
    def add(function):
        cases.append((name, function))
        return function
    return add


def start(*args, mem="2G", more=""):
    env = dict(os.environ, KVBROKERD=PROGRAMS["kvbrokerd"], TMPDIR=scratch.name,
               LD_LIBRARY_PATH=os.path.dirname(PROGRAMS["libcuda"]),
               FAKECUDA="gpus=1,mem=%s,node=bench,dir=%s%s" % (mem, memory.name, more))
    return subprocess.Popen([PROGRAMS["kvb-bench"], "gpu", *args], env=env, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def refused(status, word, *args, **more):
    process = start(*args, **more)
    _, said = process.communicate(timeout=RUN_S)
    assert process.returncode == status, "status %s: %s" % (process.returncode, said)
    assert word in said, said


def is_close(one, other):
    return math.isclose(one, other, rel_tol=1e-4)  # six digits are told


def left_behind():
    """Processes that name this run's folder, and what is in it."""
    found = ["file " + name for name in os.listdir(scratch.name)]
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/cmdline" % pid) as f:
                line = f.read().replace("\0", " ")
        except OSError:
            continue
        if scratch.name in line and int(pid) != os.getpid():
            found.append("process " + line)
    return found


@case("a run has every figure")
def every_figure():
    process = start("--json")
    out, said = process.communicate(timeout=RUN_S)
    assert process.returncode == 0, said
    figures = json.loads(out.splitlines()[-1])
    missing = [key for key in NAMED if key not in figures]
    assert not missing, "keys missing: %s" % missing
    for key, value in figures.items():
        if key in WORDS:
            assert isinstance(value, str) and value, key
        elif value is None:
            assert key.startswith(("interference_", "kernel_")), "%s is null" % key
        else:
            assert math.isfinite(value) and value > 0, "%s is %s" % (key, value)
    assert figures["interference_memory"] is None, "the stand-in runs kernels?"
    for key, (thing, floor) in RATIOS.items():
        assert is_close(figures[key], figures[thing] / figures[floor]), key
    for key, sides in WORSE.items():
        assert is_close(figures[key], min(figures[a] / figures[b] for a, b in sides)), key


@case("a table says what it leaves out")
def table():
    process = start("--quick")
    out, said = process.communicate(timeout=RUN_S)
    assert process.returncode == 0, said
    line = [one for one in out.splitlines() if one.startswith("interference_memory ")]
    assert len(line) == 1 and "runs no kernels" in line[0], line


@case("a stage that fails costs its own figures and the good end")
def stage_fails():
    process = start("--json", more=",fail=cuMemHostGetDevicePointer_v2:1+:INVALID_VALUE")
    out, said = process.communicate(timeout=RUN_S)
    assert process.returncode == 1, "status %s: %s" % (process.returncode, said)
    assert "fences: failed" in said, said
    figures = json.loads(out.splitlines()[-1])
    for key in NAMED:
        assert key in figures, key
        unset = key.startswith(("fence_", "interference_"))
        assert (figures[key] is None) == unset, "%s is %s" % (key, figures[key])


@case("a device that is too small is refused")
def too_small():
    refused(1, "at least", mem="512M")


@case("a device that is not there is refused")
def not_there():
    refused(1, "cuda:3", "--device", "3")


@case("a broker of somebody else's is refused")
def no_socket():
    refused(2, "--socket", "--socket", "/nonexistent")
    refused(2, "--cpus", "--cpus", "0,1")


@case("an interrupted run leaves nothing")
def interrupted():
    process = start("--json")
    for line in process.stderr:
        if "host tier" in line:
            break
    assert process.poll() is None, "it ended by itself"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGINT, process.returncode
    until = time.monotonic() + 5
    while left_behind() and time.monotonic() < until:
        time.sleep(0.05)
    assert not left_behind(), left_behind()


def main():
    print("1..%d" % len(cases))
    failed = 0
    for number, (name, function) in enumerate(cases, 1):
        try:
            function()
        except (AssertionError, subprocess.TimeoutExpired, ValueError, KeyError) as error:
            failed += 1
            print("not ok %d - %s" % (number, name))
            print("# " + str(error).replace("\n", "\n# "))
        else:
            print("ok %d - %s" % (number, name))
        sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
