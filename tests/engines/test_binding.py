#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The Python binding: contents, buffers, errors, lifetimes, threads, forks, and the broker's end.

usage: test_binding.py kvbrokerd=PATH broker-ctl=PATH
"""

import errno
import gc
import os
import signal
import sys
import threading
import time
import tracemalloc
from array import array

import broker
import kvbroker
from harness import below_ready, PAGE_BYTES, case, chain, equal, main, namespace, publish, raises
from kvbroker import _core


@case("what one process writes another reads, under its key and no other")
def contents(daemon):
    with kvbroker.Connection(daemon.sock) as a, kvbroker.Connection(daemon.sock) as b:
        spaces = [conn.space(PAGE_BYTES, regions=3, tag=5) for conn in (a, b)]
        assert spaces[0].grow(1) >= 1
        keys = chain(4)
        pages = spaces[0].alloc(4)
        for i, page in enumerate(pages):
            for region in range(3):
                with spaces[0].page(page, region) as view:
                    equal((view.format, len(view), view.readonly), ("B", PAGE_BYTES, False))
                    view[:] = bytes([16 * i + region]) * PAGE_BYTES
        sealed = spaces[0].seal(namespace(a), pages, keys)
        equal(list(sealed), list(pages))
        found = spaces[1].lookup(namespace(b), keys + chain(1, seed=9))
        equal([p & 0xffffffff for p in found], [p & 0xffffffff for p in pages])
        for i, page in enumerate(found):
            for region in range(3):
                want = bytes([16 * i + region]) * PAGE_BYTES
                equal(bytes(spaces[1].page(page, region)), want)
                equal(spaces[1].read(page, region), want)
                at = (page & 0xffffffff) * PAGE_BYTES
                with spaces[1].region(region) as whole:
                    equal(bytes(whole[at:at + PAGE_BYTES]), want)
        equal(len(spaces[1].lookup(namespace(b, "another"), keys)), 0)
        equal(len(spaces[1].lookup(namespace(b), keys, salt=1)), 0)
        every = spaces[1].lookup(namespace(b), chain(1, seed=9) + keys[:16], all=True)
        equal((every[0], every[1]), (0, found[0]))
        spaces[1].release(every[1:])
        spaces[1].release(found[::-1])
        spaces[0].release(sealed)


@case("a key that exists keeps its page, and ours stays ours")
def first_wins(daemon):
    with kvbroker.Connection(daemon.sock) as conn:
        space, ns = conn.space(PAGE_BYTES), namespace(conn)
        space.grow(1)
        first, second = space.alloc(1), space.alloc(1)
        one = space.seal(ns, first, chain(1))
        two = space.seal(ns, second, chain(1))
        equal((one[0], two[0]), (first[0], first[0]))
        space.free(second)
        space.release(one)
        space.release(two)
        assert isinstance(raises(kvbroker.NotFoundError, space.release, one), LookupError)


@case("pages travel in any buffer of 64-bit integers, keys in any of bytes, and in nothing else")
def buffers(daemon):
    with kvbroker.Connection(daemon.sock) as conn:
        space, ns = conn.space(PAGE_BYTES), namespace(conn)
        space.grow(8)
        pages = space.alloc(8)
        equal((pages.format, pages.itemsize, pages.shape), ("Q", 8, (8,)))
        space.free(array("Q", pages[:2]))
        space.free(memoryview(array("q", pages[2:4].tolist())))
        space.free(pages[4:][::-2])
        rest = memoryview(bytes(pages[4:6])).cast("Q")[::2]
        space.free(rest)
        raises(kvbroker.NotFoundError, space.free, rest)
        space.free(pages[6:7])
        for bad in ([1, 2], 7, bytes(16), array("I", [1, 2]), array("d", [1.0]), "text"):
            raises(TypeError, space.free, bad)
        raises(TypeError, space.lookup, ns, "text")
        raises(ValueError, space.lookup, ns, bytes(17))
        raises(TypeError, space.lookup, "ns", bytes(16))
        raises(ValueError, space.seal, ns, array("Q", [1]), bytes(32))
        raises(OverflowError, space.alloc, -1)
        for empty in (space.lookup(ns, b""), space.alloc(0), space.load(ns, bytearray())):
            equal(len(empty), 0)
        space.free(array("Q"))
        equal(space.lookup_tiers(ns, b"")[1], 0)


@case("numpy sees pages and results where they are")
def numpy_views(daemon):
    try:
        import numpy
    except ImportError:
        return "no numpy here"
    with kvbroker.Connection(daemon.sock) as conn:
        space = conn.space(PAGE_BYTES)
        space.grow(4)
        names = numpy.asarray(space.alloc(4))
        equal((names.dtype, names.shape), (numpy.dtype("uint64"), (4,)))
        region = numpy.frombuffer(space.region(), numpy.uint8).reshape(-1, PAGE_BYTES)
        page = int(names[2]) & 0xffffffff
        region[page] = 77
        equal(space.read(page), bytes([77]) * PAGE_BYTES)
        raises(BufferError, conn.close)
        space.free(names[::-1])
        del region
    return "with numpy"


@case("each kind of trouble has its class, its errno and the library's words",
      args=(*broker.TENANTS, "--tenant", "foreign,uid=65533"))
def errors(daemon):
    error = raises(kvbroker.NoBrokerError, kvbroker.Connection, daemon.dir + "/nobody")
    equal((error.errno, isinstance(error, ConnectionRefusedError)), (errno.ENOENT, True))
    assert "start kvbrokerd" in error.strerror, error
    raises(kvbroker.NotFoundError, kvbroker.Connection, daemon.sock, tenant="nobody-knows")
    assert isinstance(raises(kvbroker.DeniedError, kvbroker.Connection, daemon.sock, tenant="foreign"),
                      PermissionError)
    raises(kvbroker.InvalidError, kvbroker.Connection, daemon.sock, sq_entries=3)
    raises(ValueError, kvbroker.Connection, daemon.sock, timeout_s=-1)
    raises(TypeError, kvbroker.Connection, daemon.sock, bogus=1)
    with kvbroker.Connection(daemon.sock) as conn:
        raises(kvbroker.InvalidError, conn.space, 100)
        for device in ("host", "gpu:0", "host:x", "host:-1", "host:99999999999", ""):
            raises(ValueError, conn.space, PAGE_BYTES, device=device)
        equal(raises(kvbroker.KvbError, conn.space, PAGE_BYTES, device="host:77").errno, errno.ENODEV)
        raises(ValueError, conn.namespace, b"short")
        space, ns = conn.space(PAGE_BYTES), namespace(conn)
        raises(kvbroker.DeniedError, ns.bump)
        raises(kvbroker.NotFoundError, space.page, 0)
        assert space.grow(1 << 40) > 0, "all there is"
        assert isinstance(raises(kvbroker.NoMemoryError, space.grow, 1), MemoryError)
        pages = space.alloc(3)
        bad = array("Q", [pages[0], pages[1], 12345, pages[2]])
        error = raises(kvbroker.NotFoundError, space.free, bad)
        equal(error.done, 2)
        assert "operand" in str(error), error
        space.free(pages[2:])
        raises(IndexError, space.page, 1 << 31)
        raises(IndexError, space.page, 0, 1)
        raises(IndexError, space.address, 0, 7)
        raises(ValueError, space.read, 0, 0, PAGE_BYTES + 1)
        raises(kvbroker.InvalidError, space.write, 0, bytes(PAGE_BYTES + 1))
        with kvbroker.Connection(daemon.sock) as other:
            raises(ValueError, space.lookup, namespace(other), bytes(16))


@case("an epoch that has passed: nothing is found, nothing is sealed under it")
def epochs(daemon):
    with kvbroker.Connection(daemon.sock) as conn:
        space, ns, admin = conn.space(PAGE_BYTES), namespace(conn), namespace(conn, admin=True)
        space.grow(4)
        publish(space, ns, chain(1))
        pages = space.alloc(1)
        before = ns.epoch
        equal(admin.bump(), before + 1)
        equal((admin.epoch, ns.epoch, len(space.lookup(ns, chain(1))), ns.latest),
              (before + 1, before, 0, before + 1))
        raises(kvbroker.StaleEpochError, space.seal, ns, pages, chain(1))
        space.release(space.seal(ns, pages, chain(1), epoch=before + 1))


@case("pins, hints and the magazine")
def pins(daemon):
    with kvbroker.Connection(daemon.sock) as conn:
        space, ns = conn.space(PAGE_BYTES), namespace(conn)
        space.grow(16)
        publish(space, ns, chain(8))
        pages = space.lookup(ns, chain(8))
        space.pin(pages)
        space.hint(pages, kvbroker.PRIORITY_LOW, 60)
        raises(kvbroker.InvalidError, space.hint, pages, 99)
        space.release(pages)
        room = space.alloc(1 << 16)
        space.free(room)
        again = space.lookup(ns, chain(8))
        equal(list(again), list(pages))
        space.unpin(again)
        space.release(again)
        raises(kvbroker.NotFoundError, space.unpin, pages[:1])
        raises(kvbroker.NotFoundError, space.hint, pages)
        page = space.page_get()
        assert page, "an empty magazine"
        space.write(page, b"abc")
        equal(space.read(page, bytes=3), b"abc")
        space.page_put(page)


@case("lower tiers: written down, asked for, brought up", args=("--host-tier", "64M"), size="8M")
def tiers(daemon):
    below_ready(daemon)
    with kvbroker.Connection(daemon.sock) as conn:
        space, ns = conn.space(65536), namespace(conn)
        assert space.tiers >> kvbroker.TIER_HOST & 1, space.tiers
        n = space.grow(1 << 10)
        keys = [chain(16, seed) for seed in range(n // 16 * 2)]
        for seed, key in enumerate(keys):
            publish(space, ns, key, seed % 251 + 1)
        run, on_device = space.lookup_tiers(ns, keys[0])
        equal(len(run), 16)
        space.release(run[:on_device])
        assert all(entry == kvbroker.TIER_HOST for entry in run[on_device:]), run.tolist()
        assert on_device < 16, "nothing went down"
        pages = space.load(ns, keys[0])
        equal(len(pages), 16)
        for page in pages:
            equal(space.read(page), bytes([1]) * 65536)
        equal(space.store(pages), 16)
        space.release(pages[::-1])

        def is_below(key):
            """All of it, and not on the device: while the arena was small, some went without a copy."""
            found, here = space.lookup_tiers(ns, key)
            space.release(found[:here])
            return len(found) == 16 and here < 16
        key = next(key for key in keys[1:] if is_below(key))
        # It does not wait for room to be made.
        broker.wait_until(lambda: space.prefetch(ns, key) == 16, "it is never on its way")


@case("without a lower tier LOAD is LOOKUP and STORE writes nothing")
def nothing_below(daemon):
    with kvbroker.Connection(daemon.sock) as conn:
        space, ns = conn.space(PAGE_BYTES), namespace(conn)
        equal(space.tiers, 1 << kvbroker.TIER_DEVICE)
        space.grow(4)
        publish(space, ns, chain(4))
        pages = space.load(ns, chain(4) + chain(1, 3))
        equal((len(pages), space.store(pages), space.prefetch(ns, chain(4))), (4, 0, 0))
        space.release(pages)


@case("ranks: a key is found when all have sealed it")
def ranks(daemon):
    with kvbroker.Connection(daemon.sock) as conn:
        raises(kvbroker.InvalidError, conn.space, PAGE_BYTES, group=1, ranks=2, rank=2)
        ns = namespace(conn)
        spaces = [conn.space(PAGE_BYTES, group=1, ranks=2, rank=rank) for rank in (0, 1)]
        for space in spaces:
            space.grow(1)
        publish(spaces[0], ns, chain(2))
        equal([len(space.lookup(ns, chain(2))) for space in spaces], [0, 0])
        publish(spaces[1], ns, chain(2))
        for space in spaces:
            found = space.lookup(ns, chain(2))
            equal(len(found), 2)
            space.release(found)


@case("memory that is called back: told once, given back, unmapped at the quiet point")
def revocation(daemon):
    with kvbroker.Connection(daemon.sock) as conn:
        space = conn.space(PAGE_BYTES)
        n = space.grow(1 << 20)
        pages = space.alloc(n)
        slabs = space.slabs
        began = time.monotonic()
        equal(space.shrink(1, 20.0), space.pages_per_slab)
        told = []
        while not told:
            assert time.monotonic() < began + 10, "nothing is called back"
            conn.poll()
            told = conn.revocations()
        (handle, first, count, deadline), = told
        equal((handle, count, conn.revocations()), (space.handle, space.pages_per_slab, []))
        assert began < deadline < began + 40, (began, deadline)
        equal(conn.quiet_point(), 0)
        inside = array("Q", [p for p in pages if first <= (p & 0xffffffff) < first + count])
        outside = array("Q", [p for p in pages if not first <= (p & 0xffffffff) < first + count])
        space.free(inside)
        equal((conn.quiet_point(), space.slabs), (1, slabs - 1))
        raises(kvbroker.NotFoundError, space.page, first)
        space.free(outside)


@case("memory stays while it is looked at; what is closed is refused")
def lifetimes(daemon):
    conn = kvbroker.Connection(daemon.sock)
    space = conn.space(PAGE_BYTES)
    space.grow(1)
    pages = space.alloc(1)
    view = space.page(pages[0])
    part = view[10:20]
    view.release()
    assert "1 view" in str(raises(BufferError, conn.close))
    raises(BufferError, space.close)
    part[:] = bytes(10)
    part.release()
    equal(raises(kvbroker.BusyError, space.close).errno, errno.EBUSY)
    space.free(pages)
    space.close()
    space.close()
    equal((space.closed, conn.closed), (True, False))
    raises(kvbroker.ClosedError, space.alloc, 1)
    raises(kvbroker.ClosedError, space.region)
    other = conn.space(PAGE_BYTES)
    view = other.region()
    del other, space
    raises(BufferError, conn.close)
    del view
    gc.collect()
    ns = namespace(conn)
    conn.close()
    conn.close()
    for call in (conn.nop, conn.poll, conn.quiet_point, conn.completions, conn.fileno, conn.fence_get,
                 ns.bump, lambda: conn.space(64), lambda: namespace(conn), lambda: conn.client):
        raises(kvbroker.ClosedError, call)
    for kind in (kvbroker.Space, kvbroker.Namespace):
        raises(TypeError, kind)
    raises(kvbroker.ClosedError, kvbroker.Connection.__new__(kvbroker.Connection).nop)
    kvbroker.Connection(daemon.sock).space(PAGE_BYTES).grow(1)  # nobody keeps it: it ends
    with kvbroker.Connection(daemon.sock) as again:
        raises(RuntimeError, again.__init__, daemon.sock)


@case("ten thousand calls leave nothing behind")
def leaks(daemon):
    with kvbroker.Connection(daemon.sock) as conn:
        space, ns = conn.space(PAGE_BYTES), namespace(conn)
        space.grow(64)
        keys, bad = chain(8), array("Q", [99])

        def once():
            pages = space.alloc(8)
            with space.page(pages[0]) as view:
                view[0] = 1
            sealed = space.seal(ns, pages, keys)
            space.release(space.lookup(ns, keys))
            spare = array("Q", [p for p, s in zip(pages, sealed) if p != s])
            space.free(spare)
            space.release(sealed)
            token = space.submit(_core.OP_LOOKUP, keys, ns=ns)
            done = []
            while not done:
                done = conn.completions()
            equal(done[0][:2], (token, 8))
            space.release(done[0][5])
            for call in (lambda: space.free(bad), lambda: space.free([1]), lambda: space.page(1 << 31),
                         lambda: space.lookup(ns, b"x"), lambda: conn.namespace(b"")):
                raises(Exception, call)

        watched = (space, conn, ns, keys, bad, None, kvbroker.Space)
        for _ in range(50):
            once()
        gc.collect()
        counts = [sys.getrefcount(thing) for thing in watched[:5]]
        tracemalloc.start()
        once()
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(1000):  # ten calls and more each
            once()
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        equal([sys.getrefcount(thing) for thing in watched[:5]], counts)
        assert after - before < 4000, "%d bytes more" % (after - before)
        for _ in range(200):
            raises(kvbroker.NoBrokerError, kvbroker.Connection, "/nowhere")
            kvbroker.Connection(daemon.sock).close()


def stopped(daemon, seconds, during):
    """Stops the daemon, and lets another thread of this process start it again."""
    seen = []

    def other():
        time.sleep(seconds)
        try:
            seen.append(during())
        finally:
            daemon.proc.send_signal(signal.SIGCONT)

    daemon.proc.send_signal(signal.SIGSTOP)
    time.sleep(0.05)
    thread = threading.Thread(target=other)
    thread.start()
    return thread, seen


@case("other threads run while one waits; a second one in the connection is refused")
def threads(daemon):
    with kvbroker.Connection(daemon.sock) as conn:
        space, ns = conn.space(PAGE_BYTES), namespace(conn)
        calls = (conn.nop, lambda: space.grow(4), lambda: space.free(space.alloc(2)),
                 lambda: space.load(ns, chain(4)), lambda: namespace(conn, "two"),
                 lambda: space.lookup(ns, chain(4)), lambda: conn.space(64))
        for call in calls:
            thread, seen = stopped(daemon, 0.15, lambda: raises(kvbroker.BusyError, conn.nop))
            began = time.monotonic()
            call()
            assert time.monotonic() - began > 0.1, "it did not wait"
            thread.join()
            equal([error.errno for error in seen], [errno.EBUSY])
        conn.nop()


def is_ours(fd):
    """Whether a descriptor is what a connection has: a socket, a timer, an epoll."""
    try:
        what = os.readlink("/proc/self/fd/" + fd)
    except OSError:  # of the listing itself
        return False
    return "socket:" in what or "[timerfd]" in what or "[eventpoll]" in what


@case("a fork: the child is refused, its copy of the socket is closed, the parent goes on")
def fork(daemon):
    with kvbroker.Connection(daemon.sock) as conn:
        space = conn.space(PAGE_BYTES)
        space.grow(4)
        pages = space.alloc(2)
        conn.fileno()
        equal(sum(map(is_ours, os.listdir("/proc/self/fd"))), 3)
        child = os.fork()
        if not child:
            code = 1
            try:
                left = sum(map(is_ours, os.listdir("/proc/self/fd")))
                for call in (conn.nop, lambda: space.alloc(1), lambda: space.page(pages[0]), conn.fileno):
                    assert "process that forked" in str(raises(kvbroker.ClosedError, call))
                conn.close()
                equal(left, 0)
                with kvbroker.Connection(daemon.sock) as own:
                    own.space(PAGE_BYTES).free(own.space(PAGE_BYTES, tag=1).alloc(0))
                del conn, space
                gc.collect()
                code = 0
            finally:
                os._exit(code)
        equal(os.waitpid(child, 0)[1], 0)
        space.free(pages)
        conn.nop()


@case("the broker killed: every call raises, none hangs, memory is there to the end")
def killed(daemon):
    conn = kvbroker.Connection(daemon.sock)
    space, ns = conn.space(PAGE_BYTES), namespace(conn)
    space.grow(4)
    pages = space.alloc(1)
    view = space.page(pages[0])
    view[:4] = b"live"
    fence = conn.fence_get()
    token = space.submit(_core.OP_LOAD, chain(2), ns=ns, fence=fence, value=1)
    assert token
    daemon.proc.send_signal(signal.SIGSTOP)
    killer = threading.Timer(0.2, daemon.proc.kill)
    killer.start()
    began = time.monotonic()
    raises(kvbroker.BrokerGoneError, conn.nop)
    killer.join()
    calls = (conn.nop, conn.poll, conn.quiet_point, lambda: space.alloc(1), lambda: space.grow(1),
             lambda: space.free(pages), lambda: space.lookup(ns, chain(1)), lambda: space.load(ns, chain(1)),
             lambda: conn.space(64), lambda: namespace(conn), ns.bump,
             lambda: space.submit(_core.OP_ALLOC, count=1))
    for call in calls:
        error = raises(kvbroker.BrokerGoneError, call)
        assert isinstance(error, ConnectionResetError) and error.strerror, error
    equal(space.page_get(), 0)
    equal((conn.fence_watch(0.0), conn.fence_value(fence)), (False, 1))
    while True:  # what had come before is given out, then the end is told
        try:
            if not conn.completions():
                raise AssertionError("nothing came, and no error")
        except kvbroker.BrokerGoneError:
            break
    equal(bytes(view[:4]), b"live")
    assert time.monotonic() - began < 5, "it took too long"
    view.release()
    raises(kvbroker.BrokerGoneError, space.close)
    conn.close()


@case("fences: an entry waits for its word, and a word can be watched")
def fences(daemon):
    with kvbroker.Connection(daemon.sock) as conn:
        space, ns = conn.space(PAGE_BYTES), namespace(conn)
        space.grow(4)
        pages = space.alloc(1)
        fence = conn.fence_get()
        equal((conn.fence_value(fence), conn.fence_failed(fence)), (0, False))
        seals = _core.pack_seals(pages, chain(1), 0)
        token = space.submit(_core.OP_SEAL, seals, ns=ns, arg=ns.epoch, fence=fence, value=3)
        time.sleep(0.05)
        equal((conn.completions(), len(space.lookup(ns, chain(1)))), ([], 0))
        conn.fence_set(fence, 3)
        done = []
        while not done:
            done = conn.completions()
        equal((done[0][0], done[0][1], list(done[0][5])), (token, 1, list(pages)))
        space.release(pages)
        conn.fence_put(fence)
        equal(conn.fence_watch(0.01), True)
        raises(ValueError, conn.fence_value, _core.FENCES)
        raises(kvbroker.KvbError, space.fence_stream_write, 0, fence, 4)
        raises(kvbroker.KvbError, space.fence_stream_wait, 0, fence, 4)
        for wrong in (dict(op=99), dict(op=_core.OP_FREE), dict(op=_core.OP_NOP, operands=b"x" * 8),
                      dict(op=_core.OP_ALLOC, count=1 << 17), dict(op=_core.OP_LOOKUP, operands=b"x"),
                      dict(op=_core.OP_NOP, fence=64), dict(op=_core.OP_ALLOC, count=60000)):
            raises(ValueError, space.submit, **wrong)
        raises(TypeError, space.submit, _core.OP_LOOKUP, bytes(16), ns=5)


@case("entries in flight have room, and say so when it is used up")
def room(daemon):
    with kvbroker.Connection(daemon.sock, sq_entries=4, cq_entries=4) as conn:
        space = conn.space(PAGE_BYTES)
        equal(conn.entries, 4)
        tokens = [space.submit(_core.OP_NOP) for _ in range(4)]
        equal(raises(kvbroker.BusyError, space.submit, _core.OP_NOP).errno, errno.EAGAIN)
        done = []
        while len(done) < 4:
            done += conn.completions()
        equal(sorted(item[0] for item in done), sorted(tokens))
        equal(len(set(tokens)), 4)
        n = conn.operand_bytes // 8
        fence = conn.fence_get()
        space.grow(1)
        pages = space.alloc(1)
        space.submit(_core.OP_FREE, bytes(pages), fence=fence, value=1)
        raises(kvbroker.BusyError, space.submit, _core.OP_ALLOC, count=n)
        conn.fence_set(fence, 1)
        while not conn.completions():
            pass
        conn.fence_put(fence)


@case("keys: the same tokens, the same hashes; another anything, others")
def keys(daemon):
    tokens = list(range(100))
    one = kvbroker.chain_hashes(tokens, 16)
    equal(len(one), 6 * 16)
    equal(kvbroker.chain_hashes(array("I", tokens), 16), one)
    equal(kvbroker.chain_hashes(memoryview(array("I", tokens + tokens))[:100], 16), one)
    equal(kvbroker.chain_hashes(memoryview(array("I", [t for t in tokens for _ in (0, 1)]))[::2], 16), one)
    equal(kvbroker.chain_hashes(tokens[48:], 16, parent=one[32:48]), one[48:])
    changed = kvbroker.chain_hashes(tokens[:20] + [0] + tokens[21:], 16)
    equal((changed[:16] == one[:16], changed[16:32] == one[16:32], changed[80:] == one[80:]),
          (True, False, False))
    for other in (kvbroker.chain_hashes(tokens, 16, extra=b"x"), kvbroker.chain_hashes(tokens, 17)):
        assert other[:16] != one[:16]
    raises(ValueError, kvbroker.chain_hashes, tokens, 0)
    raises(ValueError, kvbroker.chain_hashes, tokens, 16, parent=b"x")
    raises(TypeError, kvbroker.chain_hashes, array("Q", tokens), 16)
    raises(OverflowError, kvbroker.chain_hashes, [-1] * 16, 16)
    digest = kvbroker.identity_digest
    equal((len(digest(a=1, b="x")), digest(a=1, b="x")), (32, digest(b="x", a=1)))
    different = [digest(a=1), digest(a=True), digest(a="1"), digest(a=1.0), digest(a=None), digest(a=b"1"),
                 digest(a=[1]), digest(a=[[1]]), digest(a={"b": 1}), digest(b=1), digest(a=["x", "y"]),
                 digest(a=["xy"]), digest(a=["xy", ""])]
    equal(len(set(different)), len(different))
    raises(ValueError, digest)
    raises(TypeError, digest, a=object())


if __name__ == "__main__":
    sys.exit(main())
