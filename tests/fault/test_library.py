#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Failing system calls in the client library, beside a daemon that must not care.

usage: test_library.py kvbrokerd=PATH broker-ctl=PATH lib_sweep=PATH
"""

import subprocess

from broker import Broker, parse_programs, report

PROGRAMS = parse_programs()


def daemon_unharmed(broker):
    broker.check_empty()
    broker.stop()


def main():
    broker = Broker(PROGRAMS, size="256M")
    try:
        p = subprocess.run([PROGRAMS["lib_sweep"], broker.sock], capture_output=True, text=True,
                           timeout=240, check=False)
        lines = p.stdout.splitlines()
        cases = sum(" - " in line and "ok " in line for line in lines)
        print("1..%d" % (int(lines[0].split("..")[1]) + 2))
        print("\n".join(lines[1:]))
        print("%sok %d - fault_056_library_ends_clean" % ("" if p.returncode == 0 else "not ", cases + 1))
        for line in p.stderr.splitlines():
            print("# " + line)
        report(cases + 2, "fault_056_library_leaves_the_daemon_unharmed", lambda: daemon_unharmed(broker))
    finally:
        broker.kill()


main()
