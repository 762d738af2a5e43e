#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Completions in an event loop: awaited by a descriptor, cancelled, many at once, and the end.

usage: test_aio.py kvbrokerd=PATH broker-ctl=PATH
"""

import asyncio
import random
import select
import signal
import sys
import time

import kvbroker
import kvbroker.aio
from harness import below_ready, PAGE_BYTES, case, chain, equal, main, namespace, publish, raises
from kvbroker import _core


def in_loop(function):
    """A case that runs in a loop of its own."""
    return lambda daemon: asyncio.run(asyncio.wait_for(function(daemon), 60))


@case("each operation gives what its waiting twin gives")
@in_loop
async def operations(daemon):
    async with kvbroker.aio.connect(daemon.sock) as conn:
        space, ns = conn.sync.space(PAGE_BYTES), namespace(conn.sync)
        equal(await conn.grow(space, 64) % space.pages_per_slab, 0)
        equal(await conn.grow(space, 0), 0)
        pages = await conn.alloc(space, 8)
        equal((len(pages), pages.format), (8, "Q"))
        sealed = await conn.seal(space, ns, pages, chain(8))
        equal(list(sealed), list(pages))
        space.release(sealed)
        for call in (conn.lookup, conn.load):
            found = await call(space, ns, chain(8) + chain(1, 5))
            equal(list(found), list(pages))
            space.release(found)
        equal(await conn.prefetch(space, ns, chain(8)), 0)
        found = space.lookup(ns, chain(8))
        equal(await conn.store(space, found), 0)
        space.release(found)
        equal(len(await conn.load(space, ns, b"")), 0)
        try:
            await conn.seal(space, ns, await conn.alloc(space, 1), chain(1, 7), epoch=99)
            raise AssertionError("sealed under an epoch that never was")
        except kvbroker.StaleEpochError:
            pass
        assert await conn.grow(space, 1 << 40) > 0, "all there is"
        try:
            await conn.grow(space, 1)
            raise AssertionError("grew beyond all there is")
        except kvbroker.NoMemoryError:
            pass


@case("batches larger than an entry, and more tasks than entries")
@in_loop
async def many(daemon):
    async with kvbroker.aio.connect(daemon.sock, sq_entries=8, cq_entries=8, operand_bytes=8192) as conn:
        space, ns = conn.sync.space(PAGE_BYTES), namespace(conn.sync)
        await conn.grow(space, 2000)
        pages = await conn.alloc(space, 2000)
        equal(len(set(pages)), 2000)
        space.release(await conn.seal(space, ns, pages, chain(2000)))
        found = await conn.load(space, ns, chain(2000))
        equal(list(found), list(pages))
        space.release(found)
        runs = await asyncio.gather(*(conn.load(space, ns, chain(2000)[:16 * (i + 1)]) for i in range(64)))
        equal([len(run) for run in runs], list(range(1, 65)))
        for run in runs:
            space.release(run)


@case("the loop runs while an operation waits, and a cancelled one gives back what it brings")
@in_loop
async def cancel(daemon):
    async with kvbroker.aio.connect(daemon.sock) as conn:
        space, ns = conn.sync.space(PAGE_BYTES), namespace(conn.sync)
        await conn.grow(space, 16)
        publish(space, ns, chain(4))
        for op in (lambda: conn.load(space, ns, chain(4)), lambda: conn.alloc(space, 3),
                   lambda: conn.lookup(space, ns, chain(4))):
            daemon.proc.send_signal(signal.SIGSTOP)
            try:
                await asyncio.sleep(0.02)
                task = asyncio.ensure_future(op())
                began = time.monotonic()
                for _ in range(20):
                    await asyncio.sleep(0.001)
                assert time.monotonic() - began < 5 and not task.done()
                task.cancel()
                result = (await asyncio.gather(task, return_exceptions=True))[0]
                assert isinstance(result, asyncio.CancelledError), result
            finally:
                daemon.proc.send_signal(signal.SIGCONT)
            end = time.monotonic() + 10
            while conn._waiting:  # until the completion has come and been given back
                assert time.monotonic() < end, "nothing came for what was cancelled"
                await asyncio.sleep(0.005)
        space.close()  # nothing is held there


@case("a batch of many entries that is cancelled half way leaves nothing held")
@in_loop
async def cancel_pieces(daemon):
    chance = random.Random(7)
    async with kvbroker.aio.connect(daemon.sock, sq_entries=8, cq_entries=8, operand_bytes=8192) as conn:
        space, ns = conn.sync.space(PAGE_BYTES), namespace(conn.sync)
        await conn.grow(space, 4000)
        publish(space, ns, chain(2000))
        cut = 0
        for i in range(60):
            op = conn.load(space, ns, chain(2000)) if i % 2 else conn.alloc(space, 1000)
            task = asyncio.ensure_future(op)
            for _ in range(chance.randrange(12)):
                await asyncio.sleep(0)
            await asyncio.sleep(chance.random() * 0.002)
            task.cancel()
            result = (await asyncio.gather(task, return_exceptions=True))[0]
            if isinstance(result, asyncio.CancelledError):
                cut += 1
            elif i % 2:
                space.release(result)
            else:
                space.free(result)
        assert cut, "nothing was cancelled"
        while conn._waiting:
            await asyncio.sleep(0.005)
        space.close()  # EBUSY if anything is held
    return "%d of 60 cut" % cut


@case("a fence holds a seal back")
@in_loop
async def fence(daemon):
    async with kvbroker.aio.connect(daemon.sock) as conn:
        space, ns = conn.sync.space(PAGE_BYTES), namespace(conn.sync)
        await conn.grow(space, 4)
        word = conn.sync.fence_get()
        pages = await conn.alloc(space, 1)
        task = asyncio.ensure_future(conn.seal(space, ns, pages, chain(1), fence=word, value=1))
        await asyncio.sleep(0.05)
        equal((task.done(), len(space.lookup(ns, chain(1)))), (False, 0))
        conn.sync.fence_set(word, 1)
        space.release(await task)
        conn.sync.fence_put(word)


@case("loads from below are awaited", args=("--host-tier", "64M"), size="8M")
@in_loop
async def below(daemon):
    below_ready(daemon)
    async with kvbroker.aio.connect(daemon.sock) as conn:
        space, ns = conn.sync.space(65536), namespace(conn.sync)
        n = await conn.grow(space, 1 << 10)
        chains = [chain(16, seed) for seed in range(n // 16 * 2)]
        for seed, keys in enumerate(chains):
            publish(space, ns, keys, seed % 251 + 1)
        for seed in range(4):
            pages = await conn.load(space, ns, chains[seed])
            equal(len(pages), 16)
            for page in pages:
                equal(space.read(page, bytes=64), bytes([seed + 1]) * 64)
            equal(await conn.store(space, pages), 16)
            space.release(pages[::-1])


@case("the descriptor is quiet without anything in flight, and any selector takes it")
def descriptor(daemon):
    with kvbroker.Connection(daemon.sock) as conn:
        space = conn.space(PAGE_BYTES)
        space.grow(4)
        fd = conn.fileno()
        equal(fd, conn.fileno())
        conn.completions()
        equal(select.select([fd], [], [], 0.1)[0], [])
        for _ in range(100):
            token = space.submit(_core.OP_ALLOC, count=1)
            done = []
            while not done:
                equal(select.select([conn], [], [], 5)[0], [conn])
                done = conn.completions()
            equal((done[0][0], done[0][1]), (token, 1))
            space.free(done[0][5])
        equal(select.select([fd], [], [], 0.1)[0], [])


@case("the broker killed: what waits is told, and so is what comes after")
@in_loop
async def killed(daemon):
    conn = kvbroker.aio.connect(daemon.sock)
    space, ns = conn.sync.space(PAGE_BYTES), namespace(conn.sync)
    daemon.proc.send_signal(signal.SIGSTOP)
    await asyncio.sleep(0.02)
    tasks = [asyncio.ensure_future(conn.load(space, ns, chain(4))) for _ in range(5)]
    await asyncio.sleep(0.02)
    daemon.proc.kill()
    began = time.monotonic()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(result, kvbroker.BrokerGoneError), result
    assert time.monotonic() - began < 5, "it took too long to hear of it"
    try:
        await conn.alloc(space, 1)
        raise AssertionError("a call on a dead connection came back")
    except kvbroker.BrokerGoneError:
        pass
    conn.close()


@case("one connection in one loop after another")
def loops(daemon):
    with kvbroker.Connection(daemon.sock) as sync:
        space = sync.space(PAGE_BYTES)

        async def use():
            conn = kvbroker.aio.Connection(sync)
            await conn.grow(space, 1)
            space.free(await conn.alloc(space, 1))
            conn.detach()

        for _ in range(3):
            asyncio.run(use())
        raises(RuntimeError, kvbroker.aio.Connection, sync)  # no loop runs


if __name__ == "__main__":
    sys.exit(main())
