#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Arenas and the daemon on a machine of four NUMA nodes, which is emulated: no test of tools/check.

The kernel is Debian's, taken from its package index unless one is given; the rest of the machine is an
initial file system of busybox, programs of the build and the libraries they are linked with. What the
machine is like is said in nodes.c. Needs qemu-system-x86, busybox-static and dpkg; a minute or two.

usage: numa_vm.py [build=DIR] [kernel=PATH]: a build of the tree (build), a kernel image. Speaks TAP.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
KERNEL_PACKAGE = "linux-image-cloud-amd64"
LIMIT_S = 300

# Inside: what is run, each behind a line that names it and before one with its exit status.
STEPS = (
    ("arena", "/bin/test_arena"),
    ("topology", "/bin/test_topology"),
    ("nodes", "/bin/numa_vm_nodes"),
    ("refused", "timeout 60 kvbrokerd --socket /tmp/s --state-dir /tmp/d --device host:2=64M"),
    ("show", "numa_show"),
)
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /tmp
mount -t tmpfs tmp /tmp
mount -t tmpfs shm /dev/shm
exec >/dev/console 2>&1 </dev/null
export PATH=/bin LD_LIBRARY_PATH=/lib/fake FAKECUDA=gpus=2,mem=1G,numa=1:2

numa_show() {
	kvbrokerd --socket /tmp/s --state-dir /tmp/d --device host:0=64M --device cuda:0=64M --device cuda:1=64M \\
		--host-tier 192M >/tmp/log &
	for i in $(seq 120); do
		kill -0 %1 || break
		broker-ctl -S /tmp/s -H -o ready tier list 2>/dev/null >/tmp/ready
		[ "$(grep -c yes /tmp/ready)" = 5 ] && break
		sleep 1
	done
	cat /tmp/log
	broker-ctl -S /tmp/s numa show
	broker-ctl -S /tmp/s -j numa show
	code=$?
	kill %1
	wait %1
	return $code
}
"""

NODES = ((640, "0"), (384, "1"), (0, "2"), (160, None))  # MiB, processors
DISTANCES = {(0, 1): 20, (0, 2): 30, (0, 3): 40, (1, 2): 15, (1, 3): 40, (2, 3): 50}


def need(program, package):
    path = shutil.which(program)
    if not path:
        sys.exit("%s is missing: apt-get install %s" % (program, package))
    return path


def run(*argv, **how):
    return subprocess.run(argv, check=True, capture_output=True, text=True, **how).stdout


def debian_kernel(where):
    """The image of the package that Debian's package of kernels depends on; kept in `where`."""
    kept = os.path.join(where, "vmlinuz")
    if os.path.exists(kept):
        return kept
    package = re.search(r"Depends: (linux-image-\S+)", run("apt-cache", "depends", KERNEL_PACKAGE))
    if not package:
        sys.exit("apt-cache does not know %s (apt-get update?); give kernel=PATH" % KERNEL_PACKAGE)
    with tempfile.TemporaryDirectory() as scratch:
        run("apt-get", "download", package[1], cwd=scratch)
        deb = [name for name in os.listdir(scratch) if name.endswith(".deb")]
        run("dpkg-deb", "-x", os.path.join(scratch, deb[0]), scratch)
        image = [name for name in os.listdir(scratch + "/boot") if name.startswith("vmlinuz")]
        shutil.move("%s/boot/%s" % (scratch, image[0]), kept)
    return kept


def put(tree, source, target):
    to = tree + target
    os.makedirs(os.path.dirname(to), exist_ok=True)
    shutil.copy(source, to)


def initial_files(build, tree):
    """busybox as everything, our programs, and what ld.so needs for them."""
    programs = ["tests/unit/test_arena", "tests/unit/test_topology", "tests/numa-vm/numa_vm_nodes",
                "broker/kvbrokerd", "tools/broker-ctl/broker-ctl", "tests/fakecuda/libcuda.so.1"]
    put(tree, need("busybox", "busybox-static"), "/bin/busybox")
    for name in programs:
        path = os.path.join(build, name)
        if not os.path.exists(path):
            sys.exit("%s is missing: build the tree first" % path)
        put(tree, path, ("/lib/fake/" if name.endswith(".so.1") else "/bin/") + os.path.basename(name))
        for line in run("ldd", path).splitlines():
            library = re.search(r"(/\S+) \(0x", line)
            if library and not os.path.exists(tree + library[1]):
                put(tree, library[1], library[1])
    with open(tree + "/init", "w") as f:
        f.write(INIT)
        for name, command in STEPS:
            f.write("echo '=== %s'\n%s\necho \"=== end $?\"\n" % (name, command))
        f.write("poweroff -f\n")
    os.chmod(tree + "/init", 0o755)
    for name in ("proc", "sys", "dev"):
        os.mkdir(os.path.join(tree, name))


def machine(kernel, archive, drive):
    argv = [need("qemu-system-x86_64", "qemu-system-x86"), "-machine", "q35,accel=tcg", "-cpu", "max", "-smp", "3",
            "-m", "%dM" % sum(mib for mib, _ in NODES), "-display", "none", "-serial", "stdio", "-monitor", "none",
            "-nic", "none", "-vga", "none", "-no-reboot", "-kernel", kernel, "-initrd", archive,
            "-append", "console=ttyS0 quiet panic=-1"]
    for node, (mib, cpus) in enumerate(NODES):
        if mib:
            argv += ["-object", "memory-backend-ram,id=m%d,size=%dM" % (node, mib)]
        argv += ["-numa", "node,nodeid=%d%s%s" % (node, ",memdev=m%d" % node if mib else "",
                                                  ",cpus=" + cpus if cpus else "")]
    for (a, b), distance in DISTANCES.items():
        argv += ["-numa", "dist,src=%d,dst=%d,val=%d" % (a, b, distance)]
    return argv + ["-device", "pxb-pcie,id=bridge,bus_nr=64,numa_node=1,bus=pcie.0",
                   "-device", "pcie-root-port,id=way,bus=bridge,chassis=1",
                   "-drive", "file=%s,if=none,id=drive,format=raw" % drive,
                   "-device", "nvme,drive=drive,serial=numa,bus=way"]


def start(build, kernel):
    """What the machine said on its console."""
    with tempfile.TemporaryDirectory() as scratch:
        tree = scratch + "/tree"
        os.mkdir(tree)
        initial_files(build, tree)
        names = run("find", ".", cwd=tree)
        with open(scratch + "/archive", "wb") as archive:
            subprocess.run(["busybox", "cpio", "-o", "-H", "newc"], cwd=tree, input=names.encode(), stdout=archive,
                           stderr=subprocess.DEVNULL, check=True)
        with open(scratch + "/drive", "wb") as drive:
            drive.truncate(64 << 20)
        try:
            said = subprocess.run(machine(kernel, scratch + "/archive", scratch + "/drive"), stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=LIMIT_S, check=False).stdout
        except subprocess.TimeoutExpired as late:
            said = late.stdout or b""
        return said.decode(errors="replace").replace("\r", "")


def steps_of(said):
    """What each step printed, and its exit status."""
    found = re.findall(r"^=== (\w+)\n(.*?)^=== end (\d+)$", said, re.M | re.S)
    return {name: (text, int(code)) for name, text, code in found}


def check_tap(steps, name):
    text, code = steps[name]
    bad = [line for line in text.splitlines() if line.startswith("not ok")]
    good = len(re.findall(r"^ok ", text, re.M))
    assert code == 0 and not bad and good, (code, text)
    assert "1..%d" % good in text, text
    return "%d cases" % good


def check_refused(steps, name):
    text, code = steps[name]
    assert code != 0 and "NUMA node 2 has no memory of its own" in text, (code, text)


def check_show(steps, name):
    """A part for each device: on its own node, and for the one on node 2 on node 1."""
    text, code = steps[name]
    assert code == 0, text
    seen = json.loads(text[text.index("\n{") + 1:].splitlines()[0])
    arenas = {n["node"]: a for n in seen["nodes"] for a in n["arenas"]}
    devices = {d: n["node"] for n in seen["nodes"] for d in n["devices"]}
    assert devices == {"host:0": 0, "cuda:0": 1, "cuda:1": 2}, devices
    assert {node: a["filled_bytes"] >> 20 for node, a in arenas.items()} == {0: 64, 1: 128}, arenas
    assert all(a["misplaced_bytes"] == 0 and a["placed"] for a in arenas.values()), arenas
    assert [n["state"] for n in seen["nodes"]] == ["ok", "ok", "memoryless", "ok"], seen
    assert seen["nodes"][1]["drives"] == ["nvme0n1"], seen
    return "on nodes %s" % sorted(arenas)


def main():
    given = dict(arg.split("=", 1) for arg in sys.argv[1:])
    build = os.path.abspath(given.get("build", os.path.join(ROOT, "build")))
    kernel = given.get("kernel") or debian_kernel(build)
    said = start(build, kernel)
    steps = steps_of(said)
    checks = {"refused": check_refused, "show": check_show}
    failed = 0
    print("1..%d" % len(STEPS))
    for n, (name, _) in enumerate(STEPS, 1):
        try:
            assert name in steps, "it did not come to this%s" % (
                "" if failed else "; the end of what the machine said:\n" + said[-4000:])
            note = checks.get(name, check_tap)(steps, name)
            print("ok %d - %s%s" % (n, name, " (%s)" % note if note else ""))
        except (AssertionError, ValueError, KeyError) as error:
            failed += 1
            print("not ok %d - %s\n# %s" % (n, name, str(error).replace("\\n", "\n").replace("\n", "\n# ")))
    return 1 if failed else 0


sys.exit(main())
