#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""broker-ctl doctor on this machine: with a daemon, without one, and with what is wrong made wrong.

usage: test_doctor.py kvbrokerd=PATH broker-ctl=PATH libcuda=PATH broker=PATH
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile

PROGRAMS = dict(arg.split("=", 1) for arg in sys.argv[1:])
sys.path.insert(0, os.path.dirname(PROGRAMS["broker"]))
from broker import Broker, TENANTS, WAIT_S, report  # noqa: E402

CHECKS = {"daemon", "kernel", "io_uring", "hugepages", "numa", "gpu", "socket", "clock", "pressure"}


def doctor(sock, *args, env=None):
    """(exit code, stdout, stderr)"""
    p = subprocess.run([PROGRAMS["broker-ctl"], "-S", sock, "doctor", *args], capture_output=True, text=True,
                       stdin=subprocess.DEVNULL, timeout=WAIT_S, check=False, env=dict(os.environ, **(env or {})))
    return p.returncode, p.stdout, p.stderr


def findings(sock, **kw):
    """{check: [(verdict, text)]}; the document is whole and agrees with itself."""
    code, out, err = doctor(sock, "-j", **kw)
    assert not err, err
    o = json.loads(out)
    count, found = {"ok": 0, "warn": 0, "fail": 0}, {}
    for f in o["findings"]:
        assert set(f) == {"check", "verdict", "text", "fix"} and f["text"], f
        assert (f["fix"] is None) == (f["verdict"] == "ok"), f
        count[f["verdict"]] += 1
        found.setdefault(f["check"], []).append((f["verdict"], f["text"]))
    assert {k: o[k] for k in count} == count, o
    assert o["healthy"] == (count["fail"] == 0) and code == (0 if o["healthy"] else 1), (code, o)
    assert o["daemon"] == ("ready" in found["daemon"][0][1]), o
    assert CHECKS <= set(found), CHECKS - set(found)
    return found


def with_broker(case, **kw):
    broker = Broker(PROGRAMS, **kw)
    try:
        said = case(broker)
        broker.stop()
        return said
    except BaseException:
        broker.kill()
        raise


def without_a_daemon():
    with tempfile.TemporaryDirectory() as folder:
        found = findings(folder + "/sock")
        (verdict, text), = found["daemon"]
        assert verdict == "warn" and "none answers" in text and "machine alone" in text, found
        assert "state-dir" not in found and "store" not in found
        assert found["socket"][0][1].startswith("there is none")
        with open(folder + "/sock", "w"):
            pass
        assert ("fail", "%s/sock is no socket" % folder) in findings(folder + "/sock")["socket"]


def healthy_daemon(broker):
    store = broker.dir + "/store"
    found = findings(broker.sock)
    assert found["daemon"][0][0] == "ok" and "pid %d" % broker.proc.pid in found["daemon"][0][1], found
    assert found["state-dir"] == [("ok", "%s/state: mode 0755, uid %d" % (os.path.realpath(broker.dir), os.getuid()))]
    assert store in found["store"][0][1], found["store"]
    assert any("arena:0" in text for _, text in found["numa"]), found["numa"]
    may, need = map(int, re.match(r"(\d+) may be open.* (\d+) are needed", found["files"][0][1]).groups())
    with open("/proc/%d/limits" % broker.proc.pid) as f:
        assert str(may) in f.read()
    assert need > 512 * 6, need


def what_is_wrong_is_told(broker):
    os.chmod(broker.sock, 0o666)
    assert ("warn" in [v for v, _ in findings(broker.sock)["socket"]])
    os.chmod(broker.sock, 0o660)
    os.chmod(broker.dir, 0o777)
    assert ("fail" in [v for v, _ in findings(broker.sock)["socket"]])
    os.chmod(broker.dir, 0o700)
    os.chmod(broker.dir + "/state", 0o777)
    assert findings(broker.sock)["state-dir"][0][0] == "fail"
    os.chmod(broker.dir + "/state", 0o755)
    os.rename(broker.dir + "/store", broker.dir + "/away")
    assert ("fail" in [v for v, _ in findings(broker.sock)["store"]])
    os.rename(broker.dir + "/away", broker.dir + "/store")
    assert "fail" not in [v for v, _ in findings(broker.sock)["store"]]


def few_files_are_told(broker):
    (verdict, text), = findings(broker.sock)["files"]
    assert verdict == "warn" and text.startswith("300 may be open"), text


def stand_in_is_named(broker):
    env = {"LD_LIBRARY_PATH": os.path.dirname(PROGRAMS["libcuda"]), "FAKECUDA": "gpus=2"}
    assert "stand-in" in findings(broker.sock, env=env)["gpu"][0][1]
    env["FAKECUDA"] = "gpus=nonsense"  # cuInit fails
    (verdict, text), = findings(broker.sock, env=env)["gpu"]
    assert verdict == "fail" and "cuInit" in text, text


def silent_daemon_fails_in_time(broker):
    os.kill(broker.proc.pid, signal.SIGSTOP)
    try:
        code, out, _ = doctor(broker.sock, "-t", "0.5")
        assert code == 1 and "fail  daemon      it does not answer" in out, out
    finally:
        os.kill(broker.proc.pid, signal.SIGCONT)


def text_is_for_people(broker):
    code, out, err = doctor(broker.sock)
    lines = out.splitlines()
    assert not err and re.match(r"\d+ ok, \d+ warn, \d+ fail$", lines[-1]), out
    for line, after in zip(lines[:-1], lines[1:]):
        assert re.match(r"(ok  |warn|fail)  [a-z_-]+ +\S| +-> \S", line), line
        if line.startswith(("warn", "fail")):
            assert after.lstrip().startswith("-> "), line
    assert "\033" not in out
    assert doctor(broker.sock, "-q")[1] == "" and doctor(broker.sock, "-q")[0] == code
    assert doctor(broker.sock, "x")[0] == 2 and doctor(broker.sock, "--csv")[0] == 2
    p = subprocess.run([PROGRAMS["broker-ctl"], "completion", "bash"], capture_output=True, text=True, check=True)
    assert "'doctor'*)" in p.stdout and " doctor" in p.stdout


def main():
    folder = tempfile.mkdtemp(prefix="kvb-doctor-")
    tier = dict(where=folder, args=(*TENANTS, "--host-tier", "8M", "--store", folder + "/store=64M"))
    cases = [(without_a_daemon, None), (healthy_daemon, tier), (what_is_wrong_is_told, tier),
             (few_files_are_told, {"nofile": 300}), (stand_in_is_named, {}), (silent_daemon_fails_in_time, {}),
             (text_is_for_people, {})]
    print("1..%d" % len(cases), flush=True)
    for n, (case, how) in enumerate(cases, 1):
        os.makedirs(folder, exist_ok=True)
        report(n, case.__name__, case if how is None else lambda c=case, h=how: with_broker(c, **h))
    if os.path.isdir(folder):
        os.rmdir(folder)


main()
