# SPDX-License-Identifier: Apache-2.0
"""Caches of sequences over the broker: bytes in, bytes out, pages underneath.

    cache = BasicKVCache(CacheConfig(max_size=1 << 30, identity={"weights": digest}))
    await cache.manage("chat-17", kv_state)      # any buffer
    state = await cache.get("chat-17")           # bytes, or None

A state is cut into pages, and a page is published under a key of its content and all before it: what
two sequences, or two processes, have in common is there once. A sequence's name is this process's
own; another process is given keys(), and adopts them.

The cache holds no leases between calls. The broker may therefore evict pages, or write them down,
and get() finds them, brings them up, or says None. max_size bounds what this cache asks the broker to
keep; the tenant's budget stands above it.
"""

import asyncio
from array import array
from collections import OrderedDict
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Dict, Mapping, Optional, Union

from . import _core
from .aio import Connection as AioConnection
from .errors import BusyError, NoMemoryError, QuotaError
from .keys import HASH_BYTES, ROOT, identity_digest
from .patterns import Pattern, PatternTracker


@dataclass
class CacheConfig:
    """What a cache is made with.

    max_size: bytes that it keeps at most. identity: what the bytes depend on, 32 bytes of
    kvbroker.identity_digest() or its fields; caches of other identities share nothing. page_bytes: a
    multiple of 64. device: 'host:NODE'. socket, tenant, name: as kvbroker.Connection. tracker: of
    IntermediateKVCache; None makes one.
    """

    max_size: int
    identity: Union[bytes, Mapping[str, Any]] = b""
    page_bytes: int = 65536
    device: str = "host:0"
    socket: Optional[str] = None
    tenant: Optional[str] = None
    name: Optional[str] = None
    tag: int = 0
    tracker: Optional[PatternTracker] = None

    def digest(self) -> bytes:
        """The identity as 32 bytes."""
        if isinstance(self.identity, Mapping):
            return identity_digest(**self.identity)
        if len(self.identity) != 32:
            raise ValueError("CacheConfig.identity: say what the cached bytes depend on, as fields or "
                             "as 32 bytes of identity_digest()")
        return bytes(self.identity)


@dataclass
class Managed:
    """What manage() did: bytes kept (all, unless memory was short), pages they lie in, and how many
    of those were there already."""

    sequence_id: str
    bytes_kept: int
    pages: int
    reused_pages: int


@dataclass
class CacheMetrics:
    """Counters of one cache, from its start."""

    cache_hits: int = 0
    cache_misses: int = 0
    hit_bytes: int = 0
    stored_pages: int = 0
    reused_pages: int = 0
    evictions: int = 0
    learning_progress: Optional[float] = None
    _cache: Optional["BasicKVCache"] = field(default=None, repr=False)

    def report_progress(self, progress: float) -> None:
        """What a learner says of itself; handed on as it is."""
        self.learning_progress = progress

    def collect_metrics(self) -> Dict[str, Any]:
        """All of them by name; sizes in bytes."""
        asked = self.cache_hits + self.cache_misses
        out: Dict[str, Any] = {name: getattr(self, name) for name in (
            "cache_hits", "cache_misses", "hit_bytes", "stored_pages", "reused_pages", "evictions",
            "learning_progress")}
        out["hit_ratio"] = self.cache_hits / asked if asked else 0.0
        if self._cache is not None:
            out["sequences"] = len(self._cache)
            out["size_bytes"] = self._cache.size_bytes
            out["max_size_bytes"] = self._cache.config.max_size
        return out


@dataclass
class _Sequence:
    keys: bytes
    length: int


class BasicKVCache:
    """Keeps the sequences that were used last, up to max_size bytes.

    For one event loop at a time, and not for several threads. A context manager.
    """

    def __init__(self, config: CacheConfig):
        if config.max_size < config.page_bytes:
            raise ValueError("max_size %d is less than a page of %d bytes"
                             % (config.max_size, config.page_bytes))
        self.config = config
        self._conn = _core.Connection(config.socket, config.tenant, config.name)
        try:
            self._space = self._conn.space(config.page_bytes, device=config.device, tag=config.tag)
            self._ns = self._conn.namespace(config.digest())
        except BaseException:
            self._conn.close()
            raise
        self._aio: Optional[AioConnection] = None
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._lock: Optional[asyncio.Lock] = None
        self._sequences: "OrderedDict[str, _Sequence]" = OrderedDict()
        self._uses: Dict[bytes, int] = {}  # sequences of this cache that have the page under a key
        self.metrics = CacheMetrics(_cache=self)

    def __enter__(self) -> "BasicKVCache":
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection. What was published stays with the broker, for others."""
        if self._aio is not None:
            self._aio.detach()
            self._aio = None
        self._conn.close()

    def __len__(self) -> int:
        return len(self._sequences)

    def __contains__(self, sequence_id: str) -> bool:
        return sequence_id in self._sequences

    @property
    def size_bytes(self) -> int:
        """Of the pages that sequences here have, each page once."""
        return len(self._uses) * self.config.page_bytes

    def keys(self, sequence_id: str) -> "tuple[bytes, int]":
        """Keys (16 bytes a page) and length in bytes of a sequence, for adopt() elsewhere. KeyError."""
        sequence = self._sequences[sequence_id]
        return sequence.keys, sequence.length

    def adopt(self, sequence_id: str, keys: bytes, length: int) -> None:
        """Names a sequence whose pages another cache of the same identity has published."""
        if len(keys) != HASH_BYTES * -(-length // self.config.page_bytes):
            raise ValueError("%d bytes of keys for %d bytes of state" % (len(keys), length))
        self._forget(sequence_id)
        self._remember(sequence_id, keys, length)
        self._make_room(sequence_id)

    async def manage(self, sequence_id: str, kv_state: Any) -> Managed:
        """Keeps a sequence's state (any contiguous buffer) under its name, in place of an older one.

        Makes room first: sequences go, as _victim() says, until max_size holds. When the broker has
        no memory the beginning of the state is kept, and Managed says how much.
        """
        data = memoryview(kv_state).cast("B")
        keys = self._page_keys(data)
        async with self._in_loop() as conn:
            self._forget(sequence_id)
            if self._would_exceed_limit(keys):
                self._make_room(sequence_id, keys)
            kept, reused = await self._publish(conn, data, keys[:self._limit(keys)])
            self._remember(sequence_id, keys[:HASH_BYTES * kept],
                           min(len(data), kept * self.config.page_bytes))
            self._used(sequence_id)
            self.metrics.stored_pages += kept - reused
            self.metrics.reused_pages += reused
            return Managed(sequence_id, self._sequences[sequence_id].length, kept, reused)

    async def get(self, sequence_id: str) -> Optional[bytes]:
        """A copy of what is kept of a sequence; None when it is not known, or not all there any more."""
        sequence = self._sequences.get(sequence_id)
        if sequence is None:
            self.metrics.cache_misses += 1
            return None
        async with self._in_loop() as conn:
            pages = await conn.load(self._space, self._ns, sequence.keys)
            try:
                if len(pages) * HASH_BYTES < len(sequence.keys):
                    self._forget(sequence_id)
                    self.metrics.cache_misses += 1
                    return None
                out = bytearray(sequence.length)
                for i, page in enumerate(pages):
                    at = i * self.config.page_bytes
                    n = min(self.config.page_bytes, sequence.length - at)
                    with self._space.page(page) as view:
                        out[at:at + n] = view[:n]
            finally:
                self._let_go(sequence_id, pages)
            self.metrics.cache_hits += 1
            self.metrics.hit_bytes += len(out)
            self._used(sequence_id)
            return bytes(out)

    def drop(self, sequence_id: str) -> None:
        """Forgets a sequence. Its pages go when the broker needs the memory."""
        self._forget(sequence_id)

    # ---- policy: what other caches do otherwise ----------------------------------------------

    def _victim(self) -> str:
        """The sequence to go next."""
        return next(iter(self._sequences))

    def _used(self, sequence_id: str) -> None:
        if sequence_id in self._sequences:
            self._sequences.move_to_end(sequence_id)

    def _let_go(self, sequence_id: str, pages: memoryview) -> None:
        """Leases of a sequence that was read end."""
        self._release(pages)

    # ---- pages --------------------------------------------------------------------------------

    def _release(self, pages: memoryview) -> None:
        """The tail first, so that the head of a chain is kept longest."""
        if pages:
            self._space.release(pages[::-1])

    def _in_loop(self) -> "_InLoop":
        return _InLoop(self)

    def _page_keys(self, data: memoryview) -> bytes:
        step, parent, out = self.config.page_bytes, ROOT, []
        for at in range(0, len(data), step):
            content = blake2b(data[at:at + step], digest_size=32, person=b"kvbroker page").digest()
            parent = blake2b(parent + content, digest_size=HASH_BYTES).digest()
            out.append(parent)
        return b"".join(out)

    def _new_pages(self, keys: bytes) -> int:
        wanted = {keys[i:i + HASH_BYTES] for i in range(0, len(keys), HASH_BYTES)}
        return sum(key not in self._uses for key in wanted)

    def _would_exceed_limit(self, keys: bytes) -> bool:
        return self.size_bytes + self._new_pages(keys) * self.config.page_bytes > self.config.max_size

    def _limit(self, keys: bytes) -> int:
        """Bytes of keys that fit when everything else has gone."""
        return min(len(keys), self.config.max_size // self.config.page_bytes * HASH_BYTES)

    def _make_room(self, keep: str, keys: bytes = b"") -> None:
        while self._would_exceed_limit(keys) and any(name != keep for name in self._sequences):
            victim = self._victim()
            if victim == keep:
                self._sequences.move_to_end(keep)
                continue
            self._forget(victim)
            self.metrics.evictions += 1

    def _remember(self, sequence_id: str, keys: bytes, length: int) -> None:
        self._sequences[sequence_id] = _Sequence(keys, length)
        for i in range(0, len(keys), HASH_BYTES):
            key = keys[i:i + HASH_BYTES]
            self._uses[key] = self._uses.get(key, 0) + 1

    def _forget(self, sequence_id: str) -> None:
        sequence = self._sequences.pop(sequence_id, None)
        for i in range(0, len(sequence.keys) if sequence else 0, HASH_BYTES):
            key = sequence.keys[i:i + HASH_BYTES]  # type: ignore[union-attr]
            self._uses[key] -= 1
            if not self._uses[key]:
                del self._uses[key]

    async def _publish(self, conn: AioConnection, data: memoryview, keys: bytes) -> "tuple[int, int]":
        """Pages kept, from the start, and how many of them were there."""
        have = await conn.load(self._space, self._ns, keys)
        sealed = memoryview(b"").cast("Q")
        try:
            pages = await self._alloc(conn, len(keys) // HASH_BYTES - len(have))
            self._fill(pages, data, len(have))
            rest = keys[HASH_BYTES * len(have):HASH_BYTES * (len(have) + len(pages))]
            sealed = await conn.seal(self._space, self._ns, pages, rest, depth=len(have))
            # A key that was there since has a page of its own; what was not sealed is ours, too.
            spare = [page for i, page in enumerate(pages) if i >= len(sealed) or sealed[i] != page]
            if spare:
                self._space.free(array("Q", spare))
        finally:
            self._release(sealed)
            self._release(have)
        return len(have) + len(sealed), len(have)

    def _fill(self, pages: memoryview, data: memoryview, first: int) -> None:
        step = self.config.page_bytes
        for i, page in enumerate(pages):
            piece = data[(first + i) * step:(first + i + 1) * step]
            with self._space.page(page) as view:
                view[:len(piece)] = piece

    async def _alloc(self, conn: AioConnection, n: int) -> memoryview:
        pages = await conn.alloc(self._space, n)
        if len(pages) == n:
            return pages
        try:
            await conn.grow(self._space, n - len(pages))
        except (NoMemoryError, QuotaError, BusyError):
            return pages
        more = await conn.alloc(self._space, n - len(pages))
        return memoryview(bytes(pages) + bytes(more)).cast("Q")


class IntermediateKVCache(BasicKVCache):
    """Keeps what is used often and shared, rather than what was used last.

    A PatternTracker scores each sequence by how its keys are used; the lowest goes first. Pages of
    high score are let go with a hint that has the broker pass them over once, those of low score
    with one that has it take them first.
    """

    LOW, HIGH = 0.2, 0.6  # scores at which hints are given

    def __init__(self, config: CacheConfig):
        self.tracker = config.tracker or PatternTracker()
        super().__init__(config)

    async def manage(self, sequence_id: str, kv_state: Any) -> Managed:
        managed = await super().manage(sequence_id, kv_state)
        self.tracker.analyze_keys(self._sequences[sequence_id].keys)
        return managed

    def importance(self, sequence_id: str) -> float:
        """Score of a sequence, 0..1. KeyError."""
        return self.tracker.score(self._sequences[sequence_id].keys)

    def analyze(self, sequence_id: str) -> Pattern:
        """What is known of a sequence, counting this as a use. KeyError."""
        return self.tracker.analyze_keys(self._sequences[sequence_id].keys)

    def _victim(self) -> str:
        return min(self._sequences, key=self.importance)  # of equals, the least recently used

    def _let_go(self, sequence_id: str, pages: memoryview) -> None:
        if pages and sequence_id in self._sequences:
            score = self.tracker.analyze_keys(self._sequences[sequence_id].keys).score
            if score >= self.HIGH:
                self._space.hint(pages, _core.PRIORITY_HIGH)
            elif score < self.LOW:
                self._space.hint(pages, _core.PRIORITY_LOW)
        super()._let_go(sequence_id, pages)


class _InLoop:
    """One operation of a cache at a time, in the loop that runs now."""

    def __init__(self, cache: BasicKVCache):
        self._cache = cache

    async def __aenter__(self) -> AioConnection:
        cache = self._cache
        loop = asyncio.get_running_loop()
        if cache._aio is None or cache._loop is not loop:
            if cache._aio is not None:
                cache._aio.detach()
            cache._aio, cache._loop, cache._lock = AioConnection(cache._conn), loop, asyncio.Lock()
        assert cache._lock is not None
        await cache._lock.acquire()
        return cache._aio

    async def __aexit__(self, *exc: Any) -> None:
        assert self._cache._lock is not None
        self._cache._lock.release()


__all__ = ["BasicKVCache", "CacheConfig", "CacheMetrics", "IntermediateKVCache", "Managed"]
