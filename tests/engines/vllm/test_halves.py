#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The connector's two halves against a real broker, with an engine that is played here: what vLLM
rarely does, and what it does when things go wrong.

usage: test_halves.py kvbrokerd=PATH broker-ctl=PATH
"""

import os
import socket
import sys
import time
import types

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, ".."), os.path.join(HERE, "..", "..", "fault")]

import kvbroker  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from broker import wait_until  # noqa: E402
from harness import case, equal, main, raises  # noqa: E402
from kvbroker.vllm import identity, notices, settings, tensors  # noqa: E402
from kvbroker.vllm.events import Ledger, Removed, Stored  # noqa: E402
from kvbroker.vllm.scheduler import SchedulerHalf  # noqa: E402
from kvbroker.vllm.settings import Settings  # noqa: E402
from kvbroker.vllm.weights import parse_rule  # noqa: E402
from kvbroker.vllm.wire import Report  # noqa: E402
from kvbroker.vllm.worker import WorkerHalf  # noqa: E402

SIZE, LAYERS, LAYER_BYTES, BLOCKS = 4, 3, 4096, 64
FILES = {"model.safetensors": "blake2b:0"}
names = iter(range(1 << 30))


def digest_of(weights):
    return kvbroker.identity_digest(test="halves", weights=weights)


DIGEST = digest_of(FILES)


class Request:
    def __init__(self, tokens, **more):
        self.request_id = "r%d" % next(names)
        self.prompt_token_ids = list(tokens)
        self.all_token_ids = list(tokens)
        self.num_computed_tokens = 0
        self.prompt_embeds = self.lora_request = self.cache_salt = None
        self.mm_features = []
        self.__dict__.update(more)

    @property
    def num_tokens(self):
        return len(self.all_token_ids)

    @property
    def block_hashes(self):
        """What vLLM calls its blocks, which is not what they are called in the broker."""
        keys = kvbroker.chain_hashes(self.all_token_ids, SIZE)
        return [b"vllm" + keys[i:i + 16] for i in range(0, len(keys), 16)]


class Engine:
    """Both halves, KV memory, and a model that computes what tokens and weights decide."""

    def __init__(self, daemon, ranks=1, digest=DIGEST, async_bytes=1 << 40, ledger=None, rule="drop"):
        self.settings = Settings(daemon.sock, None, "host:0", None, async_bytes, SIZE, LAYERS * LAYER_BYTES, BLOCKS,
                                 ranks, ranks if ranks > 1 else 0, parse_rule(rule))
        self.scheduler = SchedulerHalf(self.settings, digest, ledger)
        self.scheduler.digest_of, self.scheduler.pool = digest_of, self
        self.name, self.weights, self.evicted = "test %d %d" % (os.getpid(), next(names)), b"\0", set()
        self.scheduler.notices = notices.Listener(self.name)
        self.workers, self.kv = [], []
        for rank in range(ranks):
            kv = [np.zeros((BLOCKS, LAYER_BYTES), np.uint8) for _ in range(LAYERS)]
            worker = WorkerHalf(self.settings, rank)
            worker.register(kv)
            self.workers.append(worker)
            self.kv.append(kv)

    def bytes_of(self, request, block, layer, rank):
        key = kvbroker.chain_hashes(request.all_token_ids[:(block + 1) * SIZE], SIZE)[-16:]
        key += bytes([layer, rank]) + self.weights
        return np.frombuffer(key * (LAYER_BYTES // len(key) + 1), np.uint8)[:LAYER_BYTES]

    def evict_blocks(self, blocks):
        """As vLLM's BlockPool."""
        self.evicted |= blocks

    def new_weights(self, byte, what):
        """As engine_worker.Worker does it."""
        notices.tell(self.name, begin=True)
        if self.settings.on_new_weights.kind == "drop":
            for worker in self.workers:
                worker.void_loads()
        self.weights = bytes([byte])
        notices.tell(self.name, weights=what)

    def holds(self, request, blocks, upto):
        return all((kv[layer][blocks[b]] == self.bytes_of(request, b, layer, rank)).all()
                   for rank, kv in enumerate(self.kv) for b in range(upto) for layer in range(LAYERS))

    def compute(self, request, blocks, first, upto):
        for rank, kv in enumerate(self.kv):
            for b in range(first, upto):
                for layer in range(LAYERS):
                    kv[layer][blocks[b]] = self.bytes_of(request, b, layer, rank)

    def step(self, scheduled=(), blocks=None, between=None):
        """One step: what the workers reported in it, (bad blocks, received)."""
        step = self.scheduler.step({r.request_id: n for r, n in scheduled},
                                   lambda name: blocks[name])
        bad, received = set(), set()
        if between:
            between()
        for worker in self.workers:
            worker.prepare(step)
            worker.start(step)
        for r, n in scheduled:
            self.compute(r, blocks[r.request_id], r.num_computed_tokens // SIZE, (r.num_computed_tokens + n) // SIZE)
        for worker in self.workers:
            worker.end(step)
            received |= worker.take_received()
            bad |= worker.take_bad_blocks()
            report = worker.take_report()
            if report:
                self.scheduler.reported(report)
        for r, n in scheduled:
            r.num_computed_tokens += n
        return bad, received

    def settle(self):
        wait_until(lambda: self.step() and not self.storing(), "the workers do not report")

    def storing(self):
        return self.scheduler._storing

    def run(self, request, blocks, between=None):
        """A request from arrival to end: tokens that came from the broker."""
        self.scheduler.arrived(request)
        found, beside = self.scheduler.match(request, 0)
        assert not beside
        self.scheduler.allocated(request, blocks, found)
        request.num_computed_tokens = found
        self.step([(request, request.num_tokens - found)], {request.request_id: blocks}, between)
        self.scheduler.finished(request, blocks)
        self.settle()
        return found

    def close(self):
        self.scheduler.close()
        for worker in self.workers:
            worker.close()


def shuffled(n, seed=1):
    return np.random.default_rng(seed).permutation(BLOCKS)[:n].tolist()


@case("what one engine stores another loads, into whatever blocks; the last token is left to compute")
def shared(daemon):
    a, b = Engine(daemon), Engine(daemon)
    tokens = range(10 * SIZE)
    equal(a.run(Request(tokens), shuffled(10)), 0)
    request, blocks = Request(tokens), shuffled(10, 2)
    equal(b.run(request, blocks), 10 * SIZE - 1)
    assert b.holds(request, blocks, 10)
    other = Request([5] + list(tokens)[1:])
    equal(b.run(other, shuffled(10, 3)), 0)
    longer = Request(list(tokens) + [1, 2])
    equal(b.run(longer, shuffled(11, 4)), 10 * SIZE)
    a.close()
    b.close()


@case("blocks that are written again while they are stored: the store is finished first, or not begun")
def again(daemon):
    a = Engine(daemon)
    request, blocks = Request(range(6 * SIZE + 1)), shuffled(7)
    a.scheduler.arrived(request)
    equal(a.scheduler.match(request, 0), (0, False))
    a.compute(request, blocks, 0, 6)
    step = a.scheduler.step({request.request_id: request.num_tokens}, lambda name: blocks)
    equal([(s.blocks, step.first) for s in step.stores], [(blocks[:6], [])])
    a.workers[0].end(step)
    request.num_computed_tokens = request.num_tokens
    a.scheduler.finished(request, blocks)
    other, end = Request(range(50, 50 + 2 * SIZE)), Request(range(90, 90 + 2 * SIZE))
    for r in (other, end):
        a.scheduler.arrived(r)
        a.scheduler.match(r, 0)
    step2 = a.scheduler.step({other.request_id: 2 * SIZE}, lambda name: blocks[4:6])
    equal(step2.first, [step.stores[0].serial])
    a.workers[0].prepare(step2)
    report = a.workers[0].take_report()
    equal(report.stored, {step.stores[0].serial: 1})
    a.scheduler.reported(report)
    a.compute(other, blocks[4:6], 0, 2)
    a.workers[0].end(step2)
    found = Request(range(6 * SIZE + 1))
    equal(a.run(found, blocks3 := shuffled(7, 3)), 6 * SIZE)
    assert a.holds(found, blocks3, 6)
    # A tail whose blocks go to somebody else in the very next step.
    end.num_computed_tokens = end.num_tokens
    end.all_token_ids.append(1)
    a.scheduler.finished(end, blocks[:2])
    other.all_token_ids.append(2)
    other.num_computed_tokens = 2 * SIZE
    stores = a.scheduler.step({other.request_id: 1}, lambda name: [blocks[4], blocks[5], blocks[0]]).stores
    equal(stores, [])
    a.close()


@case("blocks of answers are stored when they are full, the last one at the end")
def answers(daemon):
    a = Engine(daemon)
    request, blocks = Request(range(SIZE + 2)), shuffled(4)
    a.scheduler.arrived(request)
    a.scheduler.match(request, 0)
    a.step([(request, SIZE + 2)], {request.request_id: blocks})
    for token in range(90, 90 + 2 * SIZE):
        request.all_token_ids.append(token)
        a.step([(request, 1)], {request.request_id: blocks})
    a.scheduler.finished(request, blocks)
    a.settle()
    again = Request(request.all_token_ids)
    equal(a.scheduler.match(again, 0)[0], 3 * SIZE)
    a.close()


@case("a load that does not come is reported and computed, nothing from it is stored, and it is not tried again")
def failed(daemon):
    a, b = Engine(daemon), Engine(daemon)
    tokens = list(range(6 * SIZE + 1))
    a.run(Request(tokens), shuffled(7))
    request, blocks = Request(tokens + list(range(50, 50 + 3 * SIZE))), shuffled(10, 2)
    b.scheduler.arrived(request)
    found, _ = b.scheduler.match(request, 0)
    equal(found, 6 * SIZE)
    b.scheduler.allocated(request, blocks, found)
    request.num_computed_tokens = found

    def bump():
        with kvbroker.Connection(daemon.sock) as conn:
            conn.namespace(DIGEST, admin=True).bump()

    bad, _ = b.step([(request, request.num_tokens - found)], {request.request_id: blocks}, bump)
    equal(bad, set(blocks[:6]))
    equal(b.storing(), {})
    request.num_computed_tokens = 0
    equal(b.scheduler.match(request, 0), (0, False))
    b.step([(request, request.num_tokens)], {request.request_id: blocks})
    b.scheduler.finished(request, blocks)
    b.settle()
    # It was computed under the epoch that its lookup told, which has passed: it is stored by none.
    equal(b.scheduler.match(Request(tokens), 0)[0], 0)
    equal(b.run(Request(tokens), shuffled(7)), 0)
    equal(b.scheduler.match(Request(tokens), 0)[0], 6 * SIZE)
    a.close()
    b.close()


@case("loads that others would wait for go on beside steps, and are received")
def beside(daemon):
    a = Engine(daemon, async_bytes=1)
    tokens = range(9 * SIZE + 1)
    a.run(Request(tokens), shuffled(10))
    alone = Request(tokens)
    a.scheduler.arrived(alone)
    equal(a.scheduler.match(alone, 0), (9 * SIZE, False))
    another = Request([3])
    a.scheduler.arrived(another)
    equal(a.scheduler.match(alone, 0), (9 * SIZE, True))
    blocks = shuffled(10, 5)
    a.scheduler.allocated(alone, blocks, 9 * SIZE)
    got = set()
    wait_until(lambda: got.update(a.step()[1]) or got, "it is not received")
    equal(got, {alone.request_id})
    assert a.holds(alone, blocks, 9)
    a.scheduler.allocated(alone, blocks, 0)
    for r in (alone, another):
        a.scheduler.finished(r, blocks)
    a.settle()
    a.close()


@case("reset: an engine leaves the namespace of its files, and again what it had of its own")
def reset(daemon):
    a, b = Engine(daemon), Engine(daemon)
    tokens = range(5 * SIZE + 1)
    a.run(Request(tokens), shuffled(6))
    for _ in range(2):
        assert a.scheduler.reset()
        equal(a.run(Request(tokens), shuffled(6)), 0)
        equal(a.run(Request(tokens), shuffled(6)), 5 * SIZE)
    equal(b.run(Request(tokens), shuffled(6)), 5 * SIZE)
    running = Request(range(100, 100 + 3 * SIZE))
    a.scheduler.arrived(running)
    a.scheduler.match(running, 0)
    running.num_computed_tokens = SIZE
    assert a.scheduler.reset()
    equal(a.scheduler.step({running.request_id: 2 * SIZE}, lambda name: shuffled(3)).stores, [])
    a.close()
    b.close()


TOKENS = range(5 * SIZE + 1)


def found(engine, tokens=TOKENS, seed=1):
    """Blocks that come from the broker, and are what the engine's weights would have computed."""
    request, blocks = Request(tokens), shuffled(len(tokens) // SIZE + 1, seed)
    n = engine.run(request, blocks) // SIZE
    assert engine.holds(request, blocks, len(tokens) // SIZE), "blocks of other weights"
    return n


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
        for _ in range(2):
            wait_until(lambda: a.scheduler._link.session and a.workers[0]._link.session, "no connection")
            n = found(a)
            if n == 0:
                wait_until(lambda: a.scheduler._link.session and a.workers[0]._link.session, "no connection")
                found(a)
        equal(found(a), 5)
    a.close()


@case("sleep with its weights: an engine comes back to what it shared; else a reset is for good")
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
    listener.close()
    assert "did not hear" in str(raises(RuntimeError, notices.tell, "test heard %d" % os.getpid(), begin=True))
    for bad in ("", "keep", "keep:0", "keep:9", "keep:x", "drop:1", "drain:", "Drop"):
        assert repr(bad) in str(raises(ValueError, parse_rule, bad))


@case("two ranks: a block is found when both have it")
def ranks(daemon):
    a = Engine(daemon, ranks=2)
    tokens = range(4 * SIZE + 1)
    step = None
    request, blocks = Request(tokens), shuffled(5)
    a.scheduler.arrived(request)
    a.scheduler.match(request, 0)
    a.compute(request, blocks, 0, 4)
    step = a.scheduler.step({request.request_id: request.num_tokens}, lambda name: blocks)
    a.workers[0].end(step)
    report = wait_until(a.workers[0].take_report, "no report")
    a.scheduler.reported(report)
    equal(sorted(a.storing()), sorted(blocks[:4]))
    equal(a.scheduler.match(Request(tokens), 0)[0], 0)
    a.workers[1].end(step)
    a.settle()
    a.scheduler.finished(request, blocks)
    equal(a.run(Request(tokens), blocks2 := shuffled(5, 7)), 4 * SIZE)
    assert a.holds(Request(tokens), blocks2, 4)
    a.close()


@case("two engines with three times what there is room for: what is found is right", size="8M", args=())
def pressure(daemon):
    engines = [Engine(daemon), Engine(daemon)]
    draw = np.random.default_rng(3)
    found = asked = 0
    for n in range(120):
        engine = engines[n % 2]
        request = Request([int(draw.zipf(1.3)) % 40] + list(range(50 * SIZE)))
        blocks = draw.permutation(BLOCKS)[:51].tolist()
        hit = engine.run(request, blocks)
        assert engine.holds(request, blocks, 50), "request %d" % n
        found, asked = found + hit // SIZE, asked + 50
    assert 0 < found < asked, (found, asked)
    device = daemon.json("gpu", "list")["devices"][0]
    assert device["granted_bytes"] <= 8 << 20, device
    for engine in engines:
        engine.close()
    return "%d of %d blocks found" % (found, asked)


@case("found pages of a request of high priority outlive others, those of low priority go first", size="8M", args=())
def priority(daemon):
    a = Engine(daemon)

    def survives(n, **params):
        tokens = [n] * (10 * SIZE + 1)
        a.run(Request(tokens), shuffled(11))
        equal(a.run(Request(tokens, kv_transfer_params=params or None), shuffled(11)), 10 * SIZE)
        for i in range(13):
            a.run(Request([1000 * n + i] * (50 * SIZE)), shuffled(50))
        return a.run(Request(tokens), shuffled(11)) // SIZE

    survives(1) # until memory is full
    equal([survives(2), survives(3, kvbroker_priority="high"), survives(4)], [0, 10, 0])
    equal(survives(5, kvbroker_priority="unheard of"), 0)
    tokens, other = [7] * (10 * SIZE + 1), [8] * (10 * SIZE + 1)
    for t, params in ((other, None), (tokens, {"kvbroker_priority": "low"})):
        a.run(Request(t), shuffled(11))
        a.run(Request(t, kv_transfer_params=params), shuffled(11))
    a.run(Request([9] * (15 * SIZE)), shuffled(15))
    equal([a.run(Request(t), shuffled(11)) // SIZE for t in (tokens, other)], [0, 10])
    a.close()


def told(engine):
    """Events as (first, upto) and, of what was removed, vLLM's hashes."""
    return [(e.first, e.upto) if isinstance(e, Stored) else e.hashes for e in engine.scheduler.take_events()]


@case("events: what is stored, found and missed is told once, by vLLM's hashes", size="8M", args=())
def events(daemon):
    a, b = Engine(daemon, ledger=Ledger()), Engine(daemon, ledger=Ledger())
    first, longer = Request(range(6 * SIZE + 1)), Request(range(9 * SIZE + 1))
    a.run(first, shuffled(7))
    equal((told(a), told(a)), ([(0, 6)], []))
    b.run(longer, shuffled(10))
    equal(told(b), [(0, 6), (6, 9)])
    a.run(Request(range(9 * SIZE + 1)), shuffled(10))
    equal(told(a), [(6, 9)])
    a.run(Request(range(9 * SIZE + 1)), shuffled(10))
    equal(told(a), [])
    for i in range(16): # more than there is room for
        b.run(Request([100 + i] * (50 * SIZE)), shuffled(50))
    told(b)
    a.run(Request(range(9 * SIZE + 1)), shuffled(10))
    equal(told(a), [longer.block_hashes, (0, 9)])
    assert a.scheduler.reset()
    equal([set(h) for h in told(a)], [set(longer.block_hashes)])
    a.run(first, shuffled(7))
    equal(told(a), [(0, 6)])
    daemon.proc.kill()
    daemon.proc.wait()
    wait_until(lambda: a.scheduler._link.session is None, "the broker's end is not seen")
    a.run(Request(range(9 * SIZE + 1)), shuffled(10))
    equal([set(h) for h in told(a)], [set(first.block_hashes)])
    a.close()
    b.close()


@case("events: a block is told when all workers have it, and no more than are remembered")
def events_of_ranks(daemon):
    a = Engine(daemon, ranks=2, ledger=Ledger())
    request, blocks = Request(range(4 * SIZE + 1)), shuffled(5)
    a.scheduler.arrived(request)
    a.scheduler.match(request, 0)
    a.compute(request, blocks, 0, 4)
    step = a.scheduler.step({request.request_id: request.num_tokens}, lambda name: blocks)
    a.workers[0].end(step)
    a.scheduler.reported(wait_until(a.workers[0].take_report, "no report"))
    equal(told(a), [])
    a.workers[1].end(step)
    a.scheduler.reported(wait_until(a.workers[1].take_report, "no report"))
    equal(told(a), [(0, 4)])
    equal(Report(stored={1: 1}, there={1: 3}).add(Report(stored={1: 1}, there={1: 2})).there, {1: 2})
    a.close()
    ledger = Ledger(most=4)
    ledger.storing(1, request, kvbroker.chain_hashes(request.all_token_ids, SIZE), 0)
    ledger.stored(1, 3)
    other = Request(range(50, 50 + 3 * SIZE))
    ledger.there(other, kvbroker.chain_hashes(other.all_token_ids, SIZE), 0)
    equal(ledger.take(), [Stored(request, 0, 3), Stored(other, 0, 3), Removed(request.block_hashes[:2])])


@case("the broker's end is a miss and a load that fails; a new one is found")
def gone(daemon):
    a = Engine(daemon)
    tokens = range(5 * SIZE + 1)
    a.run(Request(tokens), shuffled(6))
    request, blocks = Request(tokens), shuffled(6, 2)
    a.scheduler.arrived(request)
    found, _ = a.scheduler.match(request, 0)
    a.scheduler.allocated(request, blocks, found)
    daemon.proc.kill()
    daemon.proc.wait()
    bad, _ = a.step()
    equal(bad, set(blocks[:5]))
    begin = time.monotonic()
    equal(a.run(Request(tokens), shuffled(6)), 0)
    assert time.monotonic() - begin < 1, "an engine waits for a broker that is gone"
    a.scheduler.finished(request, blocks)
    a.close()


@case("requests that tokens do not describe are not cached; a salt is a prefix of its own")
def usable(daemon):
    a = Engine(daemon)
    tokens = range(3 * SIZE + 1)
    a.run(Request(tokens), shuffled(4))
    for more in ({"mm_features": [1]}, {"prompt_embeds": 1}, {"resumable": True}):
        equal(a.run(Request(tokens, **more), shuffled(4)), 0)
    equal(a.run(Request(tokens, cache_salt="s"), shuffled(4)), 0)
    equal(a.run(Request(tokens, cache_salt="s"), shuffled(4)), 3 * SIZE)
    equal(a.run(Request(tokens, cache_salt="t"), shuffled(4)), 0)
    equal(a.run(Request(tokens), shuffled(4)), 3 * SIZE)
    a.close()


@case("adapters and weights are what they contain, not what they are called")
def contents(daemon):
    os.environ["XDG_CACHE_HOME"] = daemon.dir
    a = Engine(daemon)
    folders = [os.path.join(daemon.dir, name) for name in ("x", "y", "z")]
    for folder, data in zip(folders, (b"1" * 99, b"1" * 99, b"2" * 99)):
        os.mkdir(folder)
        for name, text in (("adapter_model.safetensors", data), ("adapter_config.json", b"{}")):
            with open(os.path.join(folder, name), "wb") as f:
                f.write(text)
    x, y, z = [types.SimpleNamespace(lora_name="same", lora_int_id=i, lora_path=folder)
               for i, folder in enumerate(folders, 1)]
    tokens = range(3 * SIZE + 1)
    equal(a.run(Request(tokens, lora_request=x), shuffled(4)), 0)
    equal(a.run(Request(tokens, lora_request=y), shuffled(4)), 3 * SIZE)
    equal(a.run(Request(tokens, lora_request=z), shuffled(4)), 0)
    equal(a.run(Request(tokens), shuffled(4)), 0)
    nowhere = types.SimpleNamespace(lora_name="same", lora_int_id=9, lora_path="/nowhere")
    equal(a.run(Request(tokens, lora_request=nowhere), shuffled(4)), 0)
    equal(a.run(Request(tokens, lora_request=nowhere), shuffled(4)), 0)
    before = identity.files_digest(folders[0], ("*.safetensors",))
    equal(identity.files_digest(folders[0], ("*.safetensors",)), before)
    with open(os.path.join(folders[0], "adapter_model.safetensors"), "r+b") as f:
        f.write(b"3")
    assert identity.files_digest(folders[0], ("*.safetensors",)) != before
    a.close()


@case("KV tensors of any order of strides are rows of blocks; what is none is refused")
def rows(daemon):
    raw = torch.zeros(100 + 2 * 8 * 4 * 6 * 10, dtype=torch.int8)[100:]
    layers = raw.view(torch.bfloat16).view(2, 8, 4, 6, 5) if raw.data_ptr() % 2 == 0 else None
    assert layers is not None
    turned = {"a": layers[0].permute(0, 2, 1, 3), "b": layers[1].permute(0, 3, 2, 1), "c": layers[0]}
    found = tensors.all_rows(turned, ["a", "b", "c"], 8)
    equal([r.shape for r in found], [(8, 240), (8, 240)])
    found[1][3] = 7
    assert (layers[1][3].contiguous().view(torch.uint8) == 7).all() and not layers[1][2].any() and not layers[0].any()
    halves = tensors.rows_of("halves", layers[0].reshape(16, 2, 6, 5), 8)
    equal(halves.shape, (8, 240))
    packed = raw.view(torch.bfloat16).view(8, 2, 4, 6, 5)
    equal(tensors.rows_of("packed", packed[:, 1], 8).strides, (480, 1))
    for bad in (layers[0].permute(1, 0, 2, 3), layers[0][:, :, :3], packed[:, 1].reshape(8, 4, 6, 5)[:7]):
        raises(ValueError, tensors.rows_of, "bad", bad, 8)


@case("what cannot be served is refused at the start, and why is said")
def refused(daemon):
    def config(*kinds):
        groups = [types.SimpleNamespace(layer_names=["l0"], kv_cache_spec=type(k, (), {"block_size": 16,
                                                                                      "page_size_bytes": 4096})())
                  for k in kinds]
        return types.SimpleNamespace(kv_cache_groups=groups, num_blocks=8)

    equal(settings.read({}, config("FullAttentionSpec"), 1).stride_bytes, 4096)
    for extra, kinds, why in (({}, ("FullAttentionSpec", "MambaSpec"), "hybrid"),
                              ({}, ("SlidingWindowSpec",), "SlidingWindowSpec"),
                              ({"sokcet": "x"}, ("FullAttentionSpec",), "sokcet"),
                              ({"device": "cuda:0"}, ("FullAttentionSpec",), "host:NODE")):
        error = raises(ValueError, settings.read, extra, config(*kinds), 1)
        assert why in str(error), error


if __name__ == "__main__":
    sys.exit(main())
