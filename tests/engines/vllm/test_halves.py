#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The connector's two halves against a real broker, with an engine that is played (played.py): what vLLM
rarely does, and what it does when things go wrong.

usage: test_halves.py kvbrokerd=PATH broker-ctl=PATH
"""

import os
import sys
import time
import types

from played import BLOCKS, DIGEST, SIZE, Engine, Request, shuffled

import kvbroker
import numpy as np
import torch
from broker import wait_until
from harness import case, equal, main, raises
from kvbroker.vllm import identity, settings, tensors
from kvbroker.vllm.events import Ledger, Removed, Stored
from kvbroker.vllm.wire import Report


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
