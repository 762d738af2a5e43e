#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kill -9 of a client at every labelled point of its life.

One daemon, one survivor in the same space. After each death everything of the dead is back, the
tables are sound, the daemon has the fds it had before, and the survivor finds its bytes as it wrote
them. Then the same with the survivor busy and other clients dying beside.

usage: test_kill.py kvbrokerd=PATH broker-ctl=PATH kill_client=PATH survivor=PATH
"""

import signal
import subprocess

from broker import WAIT_S, Broker, Client, parse_programs, report, wait_until

PROGRAMS = parse_programs()


def points():
    return subprocess.run([PROGRAMS["kill_client"], "--points"], capture_output=True, text=True,
                          check=True).stdout.split()


def die(broker, point):
    p = subprocess.run([PROGRAMS["kill_client"], broker.sock, point], capture_output=True, text=True,
                       timeout=WAIT_S, check=False)
    assert p.returncode == -signal.SIGKILL, "it did not die at %s: %d %s" % (point, p.returncode, p.stderr)


class World:
    def __init__(self, busy):
        # Slabs that the dead have made stay with the space, which the survivor keeps alive.
        self.broker = Broker(PROGRAMS, size="256M")
        self.survivor = Client(PROGRAMS["survivor"], self.broker.sock, "default", *(["busy"] if busy else []))
        self.survivor.check()
        self.broker.check_at_rest(clients=1)
        self.fds = self.broker.count_fds()

    def check(self):
        self.broker.check_at_rest(clients=1)
        self.survivor.check()

    def end(self):
        try:
            self.survivor.end()
            self.broker.check_empty()
            self.broker.stop()
        finally:
            self.survivor.kill()
            self.broker.kill()


def fault_059_death_at(world, point):
    die(world.broker, point)
    world.check()
    # Slabs that the dead had made stay with the space: one fd each, as granted.
    slabs = world.broker.json("status")["devices"][0]["slabs"]
    wait_until(lambda: world.broker.count_fds() <= world.fds + slabs,
               lambda: "fds are left behind: " + world.broker.fd_list())


def fault_059_death_under_load(world, names):
    """All points, four at a time, while the survivor works."""
    killed = 0
    for i in range(0, len(names), 4):
        batch = [subprocess.Popen([PROGRAMS["kill_client"], world.broker.sock, point],
                                  stderr=subprocess.PIPE, text=True) for point in names[i:i + 4]]
        for p in batch:
            _, err = p.communicate(timeout=WAIT_S)
            # A run of pages may end at a slab of another; such a client has ended itself.
            assert p.returncode in (-signal.SIGKILL, 1), (p.returncode, err)
            assert p.returncode != 1 or "kill_client: " in err, err
            killed += p.returncode == -signal.SIGKILL
    world.check()
    assert killed > len(names) / 2, "only %d of %d died where they should" % (killed, len(names))
    return "%d killed" % killed


def main():
    names = points()
    print("1..%d" % (len(names) + 3), flush=True)
    quiet = World(busy=False)
    for n, point in enumerate(names, 1):
        report(n, "fault_059_death_at_" + point, lambda p=point: fault_059_death_at(quiet, p))
    report(len(names) + 1, "fault_056_all_is_zero_when_the_last_has_gone", quiet.end)
    busy = World(busy=True)
    report(len(names) + 2, "fault_059_death_under_load", lambda: fault_059_death_under_load(busy, names))
    report(len(names) + 3, "fault_056_all_is_zero_after_load", busy.end)


main()
