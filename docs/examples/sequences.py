#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# %% [markdown]
# # Sequences in a cache that several processes share
#
#     kvbrokerd --socket /tmp/b.sock --state-dir /tmp/b --device host:0=64M &
#     pip install build/kvbroker-*.whl
#     KVBROKER_SOCKET=/tmp/b.sock python docs/examples/sequences.py
#
# The cells below run one after the other, as a script or in a notebook that reads `# %%`.

# %% What the cached bytes depend on. Caches that say the same share pages, others never do.
import asyncio
import random
import sys

from kvbroker.cache import BasicKVCache, CacheConfig, IntermediateKVCache
from kvbroker.patterns import PatternTracker

PAGE = 65536
config = CacheConfig(max_size=64 * PAGE, page_bytes=PAGE,
                     identity={"example": "sequences", "weights": "none", "kv_dtype": "bytes"})


def kv_state(seed: int, pages: int) -> bytes:
    """Stands in for the KV of a sequence: any contiguous buffer will do, a numpy array as well."""
    return random.Random(seed).randbytes(pages * PAGE)


# %% A conversation: its state grows, and only what is new is stored.
async def conversation() -> None:
    with BasicKVCache(config) as cache:
        state = b""
        for turn in range(4):
            state += kv_state(turn, 4)
            managed = await cache.manage("chat-17", state)
            print("turn %d: %d pages, %d were there" % (turn, managed.pages, managed.reused_pages))
        assert await cache.get("chat-17") == state

        # Another process of the same identity is handed the keys, 16 bytes a page.
        with BasicKVCache(config) as other:
            other.adopt("from next door", *cache.keys("chat-17"))
            assert await other.get("from next door") == state
        print("the other cache read the same %d bytes" % len(state))


asyncio.run(conversation())


# %% Which sequences stay when there is no room for all: the last ones, or the ones that are used.
async def crowd(cache: BasicKVCache) -> str:
    for _ in range(5):
        await cache.manage("system prompt", kv_state(100, 8))
        await cache.get("system prompt")
    for i in range(30):
        await cache.manage("visitor %d" % i, kv_state(200 + i, 4))
    return "kept" if "system prompt" in cache else "gone"


for kind in (BasicKVCache, IntermediateKVCache):
    with kind(config) as cache:
        print("%-20s the system prompt is %s; %r" % (
            kind.__name__, asyncio.run(crowd(cache)), cache.metrics.collect_metrics()))

# %% Patterns: prompts that begin alike part somewhere, and that place is worth keeping.
forks = []
tracker = PatternTracker(on_fork=forks.append)
for question in ("What is a page of memory?", "What is a slab of memory?", "Who owns all the memory?"):
    pattern = tracker.analyze("You answer questions, briefly and kindly. Question: " + question)
print("%d blocks of the last prompt were seen before; chains part behind %s" % (
    pattern.seen_blocks, [key.hex() for key in forks]))
sys.exit(0 if pattern.seen_blocks and len(forks) == 1 else 1)
