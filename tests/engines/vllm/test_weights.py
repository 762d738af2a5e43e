#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Weights that change while an engine runs: what may be found then, what is stored, and who is told.

usage: test_weights.py kvbrokerd=PATH broker-ctl=PATH

The engine is played (played.py). Its bytes depend on its weights, so whatever is found of others shows.
"""

import os
import socket
import sys
import types

from played import BLOCKS, DIGEST, FILES, SIZE, TOKENS, Engine, Request, found, shuffled

import kvbroker
from broker import wait_until
from harness import case, equal, main, raises
from kvbroker.vllm import notices
from kvbroker.vllm.weights import parse_rule


@case("new weights: what earlier ones have computed is found no more; engines told the same meet")
def weights(daemon):
    a, b, c = Engine(daemon), Engine(daemon), Engine(daemon)
    equal([found(a), found(a), found(b)], [0, 5, 5])
    a.new_weights(1, {"named": "step 1"})
    equal([found(a), found(a), found(b)], [0, 5, 5])
    equal(a.evicted, set(range(BLOCKS)))
    b.new_weights(1, {"named": "step 1"})
    equal(found(b), 5)
    for engine in (a, b):
        engine.new_weights(2, None)
    equal([found(a), found(a), found(b), found(b)], [0, 5, 0, 5])
    a.new_weights(0, FILES)
    equal([found(a), found(c)], [5, 5])
    # The wrong hit, forced: it must show.
    b.scheduler.versions.now = DIGEST
    raises(AssertionError, found, b)
    for engine in (a, b, c):
        engine.close()


@case("weights that are being changed: nothing is found, nothing stored, and what runs on is stored no more")
def changing(daemon):
    a = Engine(daemon)
    equal([found(a), found(a)], [0, 5])
    running, waiting = Request(range(50, 50 + 4 * SIZE)), Request(TOKENS)
    blocks = {running.request_id: shuffled(4)}
    a.scheduler.arrived(running)
    equal(a.scheduler.match(running, 0), (0, False))
    a.step([(running, 2 * SIZE)], blocks)
    equal(a.scheduler.match(waiting, 0)[0], 5 * SIZE)
    a.settle()
    notices.tell(a.name, begin=True)
    equal(a.scheduler.match(waiting, 0), (0, False))
    equal(found(a, range(20, 20 + 3 * SIZE)), 0)
    notices.tell(a.name, weights={"named": "x"})
    a.step()
    equal(a.evicted, set(range(BLOCKS)))
    a.evicted = set()
    a.step([(running, 2 * SIZE)], blocks)
    equal(a.evicted, set(blocks[running.request_id]))
    a.scheduler.finished(running, blocks[running.request_id])
    a.settle()
    equal([found(a, range(50, 50 + 4 * SIZE)), found(a, range(20, 20 + 3 * SIZE)), found(a)], [0, 0, 0])
    # The same weights again: what was computed meanwhile may be of halves of them.
    again = Request(range(70, 70 + 4 * SIZE))
    blocks = {again.request_id: shuffled(4)}
    a.scheduler.arrived(again)
    a.scheduler.match(again, 0)
    a.step([(again, 2 * SIZE)], blocks)
    notices.tell(a.name, begin=True)
    a.step([(again, SIZE)], blocks)
    notices.tell(a.name, weights={"named": "x"})
    a.step([(again, SIZE)], blocks)
    a.scheduler.finished(again, blocks[again.request_id])
    a.settle()
    equal(found(a, range(70, 70 + 4 * SIZE)), 2)
    # Who came and went meanwhile, as when a change has failed: its blocks are in the engine's own cache, too.
    notices.tell(a.name, begin=True)
    brief, paused = Request(range(90, 90 + 2 * SIZE)), Request(range(30, 30 + 2 * SIZE))
    blocks = {brief.request_id: shuffled(2, 2), paused.request_id: shuffled(2, 3)}
    for request in (brief, paused):
        a.scheduler.arrived(request)
        a.scheduler.match(request, 0)
    a.evicted = set()
    a.step([(brief, 2 * SIZE)], blocks)
    a.scheduler.finished(brief, blocks[brief.request_id])
    a.step([(paused, 2 * SIZE)], blocks)
    paused.num_computed_tokens = 0 # preempted
    notices.tell(a.name, weights={"named": "x"})
    a.step()
    assert a.evicted >= {*blocks[brief.request_id], *blocks[paused.request_id]}
    a.close()


def load_beside(a, tokens, between):
    """A load that goes on beside steps, while `between` happens: (bad blocks, its blocks, request)."""
    request, other, blocks = Request(tokens), Request([3]), shuffled(len(tokens) // SIZE + 1, 5)
    for r in (request, other):
        a.scheduler.arrived(r)
    n, beside = a.scheduler.match(request, 0)
    assert n and beside
    a.scheduler.allocated(request, blocks, n)
    request.num_computed_tokens = n
    step = a.scheduler.step({}, None)
    a.workers[0].prepare(step)
    a.workers[0].start(step)
    between()
    bad, received = set(), set()

    def over():
        b, r = a.step()
        bad.update(b)
        received.update(r)
        return received

    wait_until(over, "the load does not end")
    equal(received, {request.request_id})
    a.scheduler.finished(other, [])
    return bad, blocks, request


@case("loads under way when weights change: by drop they fail, done or not; by drain they end as they began")
def under_way(daemon):
    for rule, done in (("drop", False), ("drop", True), ("drain", False), ("drain", True)):
        a = Engine(daemon, async_bytes=1, rule=rule)
        a.new_weights(7, None) # of its own: seen to be dropped
        found(a)
        old = a.scheduler.versions.now

        def epoch(old=old):
            with kvbroker.Connection(daemon.sock) as conn:
                return conn.namespace(old).latest

        before = epoch()

        def change(a=a, done=done, rule=rule):
            if done:
                wait_until(lambda: not a.workers[0]._loading, "the load does not end")
            a.new_weights(8, None)
            a.scheduler._hear()
            equal(epoch(), before + (rule == "drop"))

        bad, blocks, request = load_beside(a, TOKENS, change)
        equal(bad, set(blocks[:5]) if rule == "drop" else set())
        a.scheduler.finished(request, blocks)
        a.settle()
        equal(epoch(), before + 1)
        equal([found(a), found(a)], [0, 5])
        a.close()


@case("by rule keep what N versions before have computed is found, counted apart, and nothing stored behind it")
def keep(daemon):
    a = Engine(daemon, rule="keep:1")
    equal([found(a), found(a)], [0, 5])
    a.new_weights(1, {"named": "1"})
    request, blocks = Request(range(7 * SIZE)), shuffled(7)
    a.workers[0].take_figures()
    equal(a.run(request, blocks), 5 * SIZE)
    assert "stored_blocks" not in a.workers[0].take_figures()
    a.weights = b"\0"
    assert a.holds(request, blocks, 5)
    a.weights = b"\1"
    equal(a.scheduler.take_figures()["older_blocks"], 5)
    equal(a.run(Request(range(7 * SIZE)), shuffled(7)), 5 * SIZE) # its last two were stored by no one
    pure = range(60, 60 + 3 * SIZE + 1)
    equal([found(a, pure), found(a, pure, 2)], [0, 3])
    # The engine's own cache is kept as well: what it had of a prompt may be of the version before.
    local, blocks = Request(range(80, 80 + 3 * SIZE)), shuffled(3)
    equal(a.evicted, set())
    a.scheduler.arrived(local)
    equal(a.scheduler.match(local, SIZE), (0, False))
    local.num_computed_tokens = SIZE
    a.step([(local, 2 * SIZE)], {local.request_id: blocks})
    a.scheduler.finished(local, blocks)
    a.settle()
    equal(found(a, range(80, 80 + 3 * SIZE)), 0)
    a.new_weights(2, {"named": "2"})
    equal([found(a), found(a)], [0, 5])
    equal(a.evicted, set(range(BLOCKS)))
    equal(a.run(Request(pure), shuffled(4)), 3 * SIZE)
    a.close()


@case("versions without end: a connection opens so many, and the next one goes on")
def many_versions(daemon):
    a = Engine(daemon)
    for i in range(40):
        a.new_weights(i, {"named": "step %d" % i} if i % 2 else None)
        # A half whose connection has no room for this version has a new one soon.
        wait_until(lambda: found(a) == 5, "version %d is not stored, or not found" % i)
    a.close()


@case("a reset is for good, until the engine is told that its weights are what they were")
def sleep(daemon):
    a, b = Engine(daemon), Engine(daemon)
    equal([found(a), found(b)], [0, 5])
    assert a.scheduler.reset()
    equal(a.evicted, set(range(BLOCKS)))
    equal(found(a), 0)
    assert a.scheduler.reset()
    notices.tell(a.name, kept=True)
    equal(found(a), 0)
    assert b.scheduler.reset()
    notices.tell(b.name, kept=True)
    equal(found(b), 5)
    b.new_weights(1, None)
    notices.tell(b.name, kept=True)
    equal(found(b), 0)
    a.close()
    b.close()


@case("notices: what is no notice is not taken, and whom nobody hears is told so")
def heard(daemon):
    listener = notices.Listener("test heard %d" % os.getpid())
    notices.tell("test heard %d" % os.getpid(), begin=True)
    equal((listener.take(), listener.take()), ([{"begin": True}], []))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        for junk in (b"", b"[1]", b"{", b"\xff" * 70000):
            end.sendto(junk, "\0kvbroker-vllm-test heard %d" % os.getpid())
    notices.tell("test heard %d" % os.getpid(), weights=None)
    equal(listener.take(), [{"weights": None}])
    assert "leave it out" in str(raises(ValueError, notices.Listener, "test heard %d" % os.getpid()))
    listener.close()
    assert "did not hear" in str(raises(RuntimeError, notices.tell, "test heard %d" % os.getpid(), begin=True))
    for bad in ("", "keep", "keep:0", "keep:9", "keep:x", "drop:1", "drain:", "Drop"):
        assert repr(bad) in str(raises(ValueError, parse_rule, bad))


@case("vLLM's worker: says that weights change before they do, and what they are when they did")
def worker_class(daemon):
    from unittest import mock

    from kvbroker.vllm import engine_worker
    from kvbroker.vllm.engine_worker import CPUWorker, Worker

    calls = []

    def does(name, fails=False):
        def base(*args, **kwargs):
            calls.append("vllm " + name)
            if fails:
                raise OSError("no such weights")
        return mock.patch.object(CPUWorker, name, base)

    told = types.SimpleNamespace(weights_change=lambda: calls.append("change"),
                                 weights_are=lambda what: calls.append(what),
                                 weights_kept=lambda: calls.append("kept"))
    worker = Worker.__new__(Worker)
    worker.vllm_config = types.SimpleNamespace(load_config=None, model_config=types.SimpleNamespace(
        model="m", revision="r", seed=0))
    files = {"m": FILES, "x": {"x": "1"}}
    names = ("reload_weights", "start_weight_update", "start_draft_weight_update", "finish_weight_update")

    def after(call, *args, **kwargs):
        calls.clear()
        getattr(worker, call)(*args, **kwargs)
        return list(calls)

    with mock.patch.object(engine_worker, "weights_of", lambda config: dict(files[config.model_config.model])):
        for connector in (told, None):
            with mock.patch.object(engine_worker, "_connector", lambda c=connector: c):
                patches = [does(name) for name in names]
                for patch in patches:
                    patch.start()
                heard = [after("reload_weights"), after("reload_weights", weights_path="x"),
                         after("reload_weights", None, "x"), after("reload_weights", iter(())), after("start_weight_update"),
                         after("start_draft_weight_update"), after("finish_weight_update")]
                for patch in patches:
                    patch.stop()
                if connector:
                    reloads = [["change", "vllm reload_weights", what] for what in (FILES, files["x"], files["x"], None)]
                    equal(heard, reloads + [
                        ["change", "vllm start_weight_update"],
                        ["change", "vllm start_draft_weight_update"], ["vllm finish_weight_update", None]])
                    equal(after("kvbroker_same_weights"), ["kept"])
                    equal(after("kvbroker_new_weights", "step 1"), ["change", {"named": "step 1"}])
                    equal(after("kvbroker_new_weights"), ["change", None])
                    # Somebody writes the files while they are read.
                    with mock.patch.object(CPUWorker, "reload_weights", lambda *args: files.update(m={"y": "2"})):
                        equal(after("reload_weights"), ["change", None])
                    with does("reload_weights", fails=True):
                        raises(OSError, after, "reload_weights")
                    equal(calls, ["change", "vllm reload_weights"])
                else:
                    assert all(len(h) == 1 for h in heard), heard
                    for call in ("kvbroker_new_weights", "kvbroker_same_weights"):
                        raises(RuntimeError, after, call)


if __name__ == "__main__":
    sys.exit(main())
