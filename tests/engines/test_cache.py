#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Caches of sequences and what decides in them, over a real daemon.

usage: test_cache.py kvbrokerd=PATH broker-ctl=PATH
"""

import asyncio
import random
import sys

from harness import PAGE_BYTES, case, equal, main, raises
from kvbroker.cache import BasicKVCache, CacheConfig, IntermediateKVCache
from kvbroker.keys import chain_hashes
from kvbroker.patterns import PatternTracker


def config(daemon, pages, **more):
    more.setdefault("identity", {"test": "cache"})
    return CacheConfig(max_size=pages * PAGE_BYTES, page_bytes=PAGE_BYTES, socket=daemon.sock, **more)


def state(seed, pages, tail=0):
    return random.Random(seed).randbytes(pages * PAGE_BYTES + tail)


@case("what is managed comes back, byte for byte, in any length")
def round_trip(daemon):
    async def run(cache):
        for i, length in enumerate((0, 1, PAGE_BYTES - 1, PAGE_BYTES, PAGE_BYTES + 1, 10 * PAGE_BYTES)):
            data = state(i, 0, length)
            managed = await cache.manage("s%d" % i, data)
            equal((managed.bytes_kept, managed.pages), (length, -(-length // PAGE_BYTES)))
            equal(await cache.get("s%d" % i), data)
        equal(await cache.get("nobody"), None)
        longer = state(9, 3)
        await cache.manage("s1", bytearray(longer))
        equal(await cache.get("s1"), longer)
        cache.drop("s1")
        equal((await cache.get("s1"), "s1" in cache, "s2" in cache), (None, False, True))
        raises(KeyError, cache.keys, "s1")

    with BasicKVCache(config(daemon, 100)) as cache:
        asyncio.run(run(cache))
        metrics = cache.metrics.collect_metrics()
        equal((metrics["cache_hits"], metrics["cache_misses"], metrics["evictions"]), (7, 2, 0))
        equal(metrics["hit_ratio"], 7 / 9)
        cache.metrics.report_progress(0.5)
        equal(cache.metrics.collect_metrics()["learning_progress"], 0.5)


@case("what is common is there once, in one cache and between two")
def sharing(daemon):
    head, one, two = state(1, 8), state(2, 2), state(3, 2)

    async def run(a, b):
        equal((await a.manage("x", head + one)).reused_pages, 0)
        equal((await a.manage("y", head + two)).reused_pages, 8)
        equal((len(a), a.size_bytes), (2, 12 * PAGE_BYTES))
        equal((await b.manage("mine", head)).reused_pages, 8)
        b.adopt("theirs", *a.keys("x"))
        equal(await b.get("theirs"), head + one)
        raises(ValueError, b.adopt, "wrong", b"x" * 16, 1 << 30)

    async def stranger(c):
        equal((await c.manage("x", head)).reused_pages, 0)

    with BasicKVCache(config(daemon, 50)) as a, BasicKVCache(config(daemon, 50)) as b:
        asyncio.run(run(a, b))
        with BasicKVCache(config(daemon, 50, identity={"test": "another"})) as c:
            asyncio.run(stranger(c))
    raises(ValueError, BasicKVCache, config(daemon, 50, identity=b""))
    raises(ValueError, BasicKVCache, config(daemon, 0))


@case("the least recently used go, and the limit holds")
def lru(daemon):
    async def run(cache):
        for i in range(4):
            await cache.manage("s%d" % i, state(i, 2))
        assert await cache.get("s0")
        await cache.manage("s4", state(4, 2))
        equal([("s%d" % i) in cache for i in range(5)], [True, False, True, True, True])
        equal((cache.metrics.evictions, cache.size_bytes), (1, 8 * PAGE_BYTES))
        big = await cache.manage("big", state(5, 12))
        equal((big.pages, big.bytes_kept, len(cache)), (8, 8 * PAGE_BYTES, 1))
        equal(await cache.get("big"), state(5, 12)[:8 * PAGE_BYTES])
        for i in range(50):
            await cache.manage("t%d" % (i % 7), state(i, i % 5, i))
            assert cache.size_bytes <= 8 * PAGE_BYTES, cache.size_bytes

    with BasicKVCache(config(daemon, 8)) as cache:
        asyncio.run(run(cache))


@case("what the broker evicted is a miss, and can be managed again", size="8M", args=())
def evicted(daemon):
    async def run(cache):
        await cache.manage("old", state(1, 16))
        for i in range(300):
            managed = await cache.manage("s%d" % i, state(1000 + i, 16))
            equal(managed.pages, 16)
        equal(await cache.get("old"), None)
        assert "old" not in cache
        await cache.manage("old", state(1, 16))
        equal(await cache.get("old"), state(1, 16))

    with BasicKVCache(config(daemon, 1 << 20)) as cache:
        asyncio.run(run(cache))


@case("tasks of one loop share a cache, and loops one after another")
def concurrent(daemon):
    async def one(cache, i):
        data = state(i % 5, 3, i % 5)
        for _ in range(5):
            await cache.manage("s%d" % i, data)
            equal(await cache.get("s%d" % i), data)

    async def run(cache):
        await asyncio.gather(*(one(cache, i) for i in range(20)))

    with BasicKVCache(config(daemon, 100)) as cache:
        asyncio.run(run(cache))
        asyncio.run(run(cache))
        equal(len(cache), 20)


@case("what is used often stays where the least recently used would go")
def importance(daemon):
    async def run(cache):
        for _ in range(6):
            await cache.manage("hot", state(0, 2))
            assert await cache.get("hot")
        for i in range(1, 12):
            await cache.manage("cold%d" % i, state(i, 2))
        return "hot" in cache

    with BasicKVCache(config(daemon, 8)) as cache:
        equal(asyncio.run(run(cache)), False)
    with IntermediateKVCache(config(daemon, 8)) as cache:
        equal(asyncio.run(run(cache)), True)
        assert cache.importance("hot") > cache.importance("cold11")
        assert cache.analyze("hot").frequency > 5
        assert cache.size_bytes <= 8 * PAGE_BYTES


@case("patterns: what comes back, how soon, and where chains part")
def patterns(daemon):
    now = [0.0]
    forks = []
    tracker = PatternTracker(100, block_tokens=4, on_fork=forks.append, clock=lambda: now[0])
    first = tracker.analyze(list(range(16)))
    equal((first.seen_blocks, first.gap_s, first.depth, first.score), (0, None, 4, 0.0))
    now[0] = 10.0
    again = tracker.analyze(list(range(16)))
    equal((again.seen_blocks, again.gap_s, again.forks), (4, 10.0, 0))
    equal(forks, [])
    branch = list(range(8)) + [99] * 8
    tracker.analyze(branch)
    equal(forks, [chain_hashes(branch, 4)[16:32]])
    tracker.analyze(list(range(8)) + [98] * 8)
    equal(len(forks), 1)
    equal(tracker.analyze(list(range(8))).forks, 2)
    score = tracker.score(chain_hashes(list(range(16)), 4))
    assert 0 < score < 1
    now[0] += 3600
    assert tracker.score(chain_hashes(list(range(16)), 4)) < score
    for i in range(200):
        tracker.analyze([i] * 16)
    equal(len(tracker), 100)
    equal(tracker.analyze("a text of some length").depth, 5)
    equal(tracker.analyze("a text of some length").seen_blocks, 5)
    equal(tracker.analyze("").depth, 0)
    raises(ValueError, tracker.score, b"x")
    raises(ValueError, PatternTracker, 0)


if __name__ == "__main__":
    sys.exit(main())
