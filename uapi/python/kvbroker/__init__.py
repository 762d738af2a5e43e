# SPDX-License-Identifier: Apache-2.0
"""kvbroker: KV-cache memory that engine processes share, from Python.

    import kvbroker

    with kvbroker.Connection(socket) as conn:
        space = conn.space(65536, device="host:0")      # pages of 64 KiB
        space.grow(1024)
        ns = conn.namespace(digest)                      # 32 bytes: what the cached bytes depend on
        keys = kvbroker.chain_hashes(tokens, 16)         # bytes, 16 a block
        have = space.lookup(ns, keys)                    # pages, leased: memoryview of uint64
        new = space.alloc(len(keys) // 16 - len(have))
        for page in new:
            fill(space.page(page))                       # memoryview of the page's bytes
        sealed = space.seal(ns, new, keys[16 * len(have):], depth=len(have))
        space.release(sealed[::-1])

Batches cross into C as buffers and out of it as memoryviews: numpy.asarray() and torch.frombuffer()
take them without a copy, and neither is needed. A connection is for one thread at a time; a second
one is refused. A call that waits is not interrupted by a signal: Python sees it when the call is over,
so give grow() a time that you can wait. kvbroker.aio awaits completions in an event loop; kvbroker.cache has caches that are
simpler to use; kvbroker.errors says what can be raised.
"""

from .errors import (BrokerGoneError, BusyError, ClosedError, DeniedError, InvalidError, KvbError,
                     NoBrokerError, NoMemoryError, NotFoundError, QuotaError, StaleEpochError,
                     TimedOutError)
from ._core import (PRIORITY_HIGH, PRIORITY_LOW, PRIORITY_NORMAL, TIER_DEVICE, TIER_HOST, TIER_NONE,
                    TIER_STORE, Connection, Namespace, Space)
from ._core import VERSION as __version__
from .keys import chain_hashes, identity_digest

__all__ = [
    "BrokerGoneError", "BusyError", "ClosedError", "Connection", "DeniedError", "InvalidError",
    "KvbError", "Namespace", "NoBrokerError", "NoMemoryError", "NotFoundError", "PRIORITY_HIGH",
    "PRIORITY_LOW", "PRIORITY_NORMAL", "QuotaError", "Space", "StaleEpochError", "TIER_DEVICE",
    "TIER_HOST", "TIER_NONE", "TIER_STORE", "TimedOutError", "chain_hashes", "identity_digest",
]
