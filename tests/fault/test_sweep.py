#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The k-th call of every labelled fault point of the daemon fails, for every k.

A scenario is run once to count its points (KVB_FAULT_COUNT), then once for each point and k. The
daemon refuses to start, with exit status 1 and a reason, or it serves: a fresh client then goes
through a whole cycle, and when the last has left nothing is charged, no fd is left, the tables are
sound, and the daemon stops as asked without a word of a sanitizer. Before that, controls: what the
checks are for must be seen by them.

Points that are passed at the start are swept by the scenario `start` alone.

usage: test_sweep.py kvbrokerd=PATH broker-ctl=PATH sweep_client=PATH survivor=PATH
"""

import concurrent.futures
import errno
import os
import shutil
import signal
import socket
import subprocess
import tempfile

from broker import TENANTS, WAIT_S, Admin, Broker, Client, parse_programs, report

PROGRAMS = parse_programs()
WORKERS = 3
# A place that is passed again and again, as often as the scheduler has it: the first few suffice.
UNCOUNTED = {"uring-enter": 6, "receive": 40, "send": 40}
ERRNO = {"accept": errno.EMFILE, "memfd": errno.EMFILE, "eventfd": errno.EMFILE, "doorbell": errno.EMFILE,
         "socket": errno.EMFILE, "pidfd": errno.EMFILE, "signalfd": errno.EMFILE, "epoll": errno.EMFILE,
         "send": errno.ETOOMANYREFS, "lock": errno.ENFILE, "uring-setup": errno.EPERM,
         "peercred": errno.ENOBUFS}


# ---- scenarios: what is done between start and check --------------------------------------------

def client(broker, scenario, *more):
    p = subprocess.run([PROGRAMS["sweep_client"], broker.sock, scenario, *more], capture_output=True,
                       text=True, timeout=WAIT_S, check=False)
    assert p.returncode == 0, "client of %s: %d %s" % (scenario, p.returncode, p.stderr[-3000:])


def nothing(broker):
    pass


def admin(broker):
    """An operator's whole afternoon; any of it may fail."""
    keep = None
    try:
        keep = Client(PROGRAMS["survivor"], broker.sock, "default")
    except AssertionError:
        pass  # it was refused something
    ns = "59" + "0" * 62
    key = "%016x%016x" % (0, 1 << 56)
    for argv in (("tenant", "set", "third", "max=8M", "weight=3"), ("prefix", "top"), ("prefix", "top", ns),
                 ("prefix", "lookup", ns, key), ("prefix", "explain", ns, key), ("prefix", "pin", ns, key),
                 ("epoch", "bump", ns), ("client", "kick", "0"), ("tenant", "delete", "third"),
                 ("health", "--deep"), ("no", "such")):
        a = None
        try:
            a = Admin(broker.sock)
            a.ask(*argv)
        except OSError:
            broker.check_alive()
        finally:
            if a:
                a.close()
    if keep:
        keep.kill()
    code, _ = broker.ask("tenant", "delete", "third")
    assert code in (0, 4), code


SCENARIOS = {
    "start": (nothing, ()),
    "start-epoll": (nothing, ("--io", "epoll")),
    "cycle": (lambda b: client(b, "cycle"), ()),
    "revoke": (lambda b: client(b, "revoke"), ()),
    "tenants": (lambda b: client(b, "tenants"), ()),
    "death": (lambda b: client(b, "death"), ()),
    "admin": (admin, ()),
}


def count(name):
    """{point: calls} of a whole life of a daemon that does this scenario."""
    folder = tempfile.mkdtemp(prefix="kvb-fault-")
    try:
        run, args = SCENARIOS[name]
        broker = Broker(PROGRAMS, args=TENANTS + args, env={"KVB_FAULT_COUNT": folder + "/count"})
        try:
            run(broker)
            broker.stop()
        finally:
            broker.kill()
        with open(folder + "/count") as file:
            lines = [line.split() for line in file]
    finally:
        shutil.rmtree(folder)
    return {point: int(calls) for point, calls in lines if point != "*"}


def refused(broker):
    """It did not start: that is an answer, if it says why and leaves nothing in the way."""
    broker.check_words()
    assert broker.code == 1, "exit status %s:\n%s" % (broker.code, broker.text()[-2000:])
    assert "kvbrokerd: " in broker.text(), "it does not say why it does not start"
    assert not os.path.exists(broker.sock), "it leaves its socket behind"
    again = Broker(PROGRAMS, where=broker.dir)
    assert again.code is None, "the next does not start:\n" + again.text()
    again.stop()


def one(name, point, k):
    run, args = SCENARIOS[name]
    spec = "%s:%d:%d" % (point, k, ERRNO.get(point, errno.ENOMEM))
    broker = Broker(PROGRAMS, args=TENANTS + args, env={"KVB_FAULT": spec})
    try:
        if broker.code is not None:
            refused(broker)
            return
        run(broker)
        broker.check_alive()
        try:
            client(broker, "cycle", "strict")
        except AssertionError:  # the fault had not come yet, and this was its client
            client(broker, "cycle", "strict")
        broker.check_empty()
        broker.stop()
    except Exception as error:
        raise AssertionError("KVB_FAULT=%s: %s\n%s" % (spec, error, broker.text()[-1500:])) from error
    finally:
        broker.kill()


def sweep(pool, name, point, first, last):
    runs = [pool.submit(one, name, point, k) for k in range(first, last + 1)]
    failed = [str(run.exception()) for run in runs if run.exception()]
    assert not failed, "%d of %d runs:\n%s" % (len(failed), len(runs), failed[0])
    return "%d runs" % len(runs)


# ---- controls ------------------------------------------------------------------------------------

def must_see(broker, what):
    import broker as checks
    patience, checks.WAIT_S = checks.WAIT_S, 1
    wait = checks.wait_until.__defaults__
    checks.wait_until.__defaults__ = (1,)
    try:
        broker.check_empty()
        broker.stop()
    except AssertionError:
        return
    finally:
        checks.WAIT_S = patience
        checks.wait_until.__defaults__ = wait
    raise AssertionError("the check does not see " + what)


def control_leaked_pages():
    """A client that never leaves is a charge that is never given back."""
    broker = Broker(PROGRAMS)
    leak = Client(PROGRAMS["survivor"], broker.sock, "default")
    try:
        must_see(broker, "leases and pages that are held for ever")
        leak.end()
        broker.check_empty()
        broker.stop()
    finally:
        leak.kill()
        broker.kill()


def control_leaked_fd():
    """A connection that says nothing costs the daemon a socket and a pidfd."""
    broker = Broker(PROGRAMS, args=TENANTS + ("--attach-deadline", "600000"))
    leak = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        leak.connect(broker.sock)
        must_see(broker, "fds that are left behind")
    finally:
        leak.close()
        broker.kill()


def control_crash():
    broker = Broker(PROGRAMS)
    try:
        broker.proc.send_signal(signal.SIGABRT)
        broker.proc.wait(WAIT_S)
        must_see(broker, "a daemon that has crashed")
    finally:
        broker.kill()


def out_of_fds():
    """The real thing: a hard limit so low that slabs, rings and connections run into it."""
    for nofile in (24, 30, 40, 56, 80, 140):
        broker = Broker(PROGRAMS, nofile=nofile)
        try:
            assert broker.code is None, broker.text()
            client(broker, "wide")
            client(broker, "tenants")
            if nofile >= 40:
                client(broker, "cycle", "strict")
            broker.check_empty()
            broker.stop()
        except AssertionError as error:
            raise AssertionError("%d files: %s\n%s" % (nofile, error, broker.text()[-1500:])) from error
        finally:
            broker.kill()


def main():
    jobs = []
    start = count("start")
    for name in SCENARIOS:
        counts = start if name == "start" else count(name)
        for point, calls in sorted(counts.items()):
            first = 1 if name.startswith("start") else start.get(point, 0) + 1
            if name == "start-epoll" and point not in ("epoll", "loop-add"):
                continue
            last = min(calls, first + UNCOUNTED.get(point, calls) - 1)
            if last >= first:
                jobs.append((name, point, first, last))
    print("1..%d" % (len(jobs) + 4), flush=True)
    report(1, "fault_056_control_leaked_pages_are_seen", control_leaked_pages)
    report(2, "fault_056_control_leaked_fds_are_seen", control_leaked_fd)
    report(3, "fault_056_control_a_crash_is_seen", control_crash)
    report(4, "fault_011_out_of_files", out_of_fds)
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        for n, (name, point, first, last) in enumerate(jobs, 5):
            report(n, "fault_056_%s_%s" % (name, point.replace("-", "_")),
                   lambda: sweep(pool, name, point, first, last))


main()
