# SPDX-License-Identifier: Apache-2.0
"""Cases of a file in TAP, each with a daemon of its own on host memory."""

import functools
import os
import signal
import sys

import broker
import kvbroker

# A sanitizer's runtime is for this interpreter and not for the daemon.
os.environ.pop("LD_PRELOAD", None)

PROGRAMS = broker.parse_programs()
PAGE_BYTES = 4096
_cases = []


def case(name, **options):
    """A function of a daemon; options are broker.Broker's."""
    def add(function):
        _cases.append((name, function, options))
        return function
    return add


def _run(function, options):
    daemon = broker.Broker(PROGRAMS, **options)
    try:
        said = function(daemon)
        if daemon.proc.poll() is None:
            daemon.check_at_rest()
            daemon.stop()
        return said
    finally:
        daemon.kill()


def main():
    signal.alarm(170)  # a call that hangs is a failure and not a wait
    print("1..%d" % len(_cases), flush=True)
    for n, (name, function, options) in enumerate(_cases, 1):
        broker.report(n, name, functools.partial(_run, function, options))
    return 0


def below_ready(daemon):
    """Until the host tier takes pages; before, the broker works as without one."""
    broker.wait_until(lambda: "its tier is ready" in daemon.text(), lambda: "never ready:\n" + daemon.text())


def raises(kind, function, *args, **kwargs):
    """The exception, which must be of that kind."""
    try:
        function(*args, **kwargs)
    except kind as error:
        return error
    except Exception as error:
        raise AssertionError("%s, and not %s: %s" % (type(error).__name__, kind.__name__, error)) from error
    raise AssertionError("no %s" % kind.__name__)


def equal(a, b):
    assert a == b, "%r is not %r" % (a, b)


def namespace(conn, name="test", **more):
    return conn.namespace(kvbroker.identity_digest(test=name), **more)


def chain(n, seed=0):
    """Keys of a chain of n blocks."""
    return kvbroker.chain_hashes([seed] + [7] * (n * 4 - 1), 4)


def publish(space, ns, keys, byte=1):
    """Fills, seals and releases pages under keys."""
    pages = space.alloc(len(keys) // 16)
    equal(len(pages), len(keys) // 16)
    for page in pages:
        with space.page(page) as view:
            view[:] = bytes([byte]) * len(view)
    space.release(space.seal(ns, pages, keys)[::-1])


if __name__ == "__main__":
    sys.exit("this is no test")
