# SPDX-License-Identifier: Apache-2.0
"""Completions awaited in an event loop: no thread, no blocked loop.

    async with kvbroker.aio.connect(socket) as conn:
        space = conn.sync.space(65536)
        pages = await conn.load(space, ns, keys)

A Connection here wraps one of kvbroker (`sync`), of which it takes the completions; the calls of
that one that return at once, or nearly, are made on it directly. Everything runs in the thread of
the loop. An operation whose task is cancelled is not undone in the broker: what it brings is given
back when it comes. Of entries that were sent with submit() of that one, take the completions there,
and have no Connection here.
"""

import asyncio
import errno
from array import array
from typing import Any, Dict, Optional, Tuple

from . import _core
from .errors import BrokerGoneError, BusyError, ClosedError, make_error

_GRANT_WAITS = 100
_GRANT_WAIT_S = 0.002

Completion = Tuple[int, int, int, int, int, Optional[memoryview]]


class Connection:
    """Awaitable operations of a kvbroker.Connection, in the running event loop."""

    def __init__(self, sync: _core.Connection):
        self.sync = sync
        self._loop = asyncio.get_running_loop()
        # By token. A future that was cancelled stays until what it waited for has come.
        self._waiting: Dict[int, Tuple["asyncio.Future[Completion]", _core.Space, int]] = {}
        self._room: "asyncio.Event" = asyncio.Event()
        self._fd = sync.fileno()
        self._loop.add_reader(self._fd, self._ready)

    async def __aenter__(self) -> "Connection":
        return self

    async def __aexit__(self, *exc: Any) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection; what waits is cancelled."""
        self.detach()
        self.sync.close()

    def detach(self) -> None:
        """Leaves the loop, and the connection open. What waits is cancelled, and what it brings later
        is held until the connection ends."""
        self._forget_loop()
        for future, _, _ in self._waiting.values():
            if not self._loop.is_closed():
                future.cancel()
        self._waiting.clear()

    def _forget_loop(self) -> None:
        if self._fd >= 0 and not self._loop.is_closed():
            self._loop.remove_reader(self._fd)
        self._fd = -1

    # ---- completions ------------------------------------------------------------------------

    def _ready(self) -> None:
        try:
            completions = self.sync.completions()
        except BusyError:
            return  # another thread is in a call; the descriptor stays readable
        except OSError as error:
            self._forget_loop()
            for future, _, _ in self._waiting.values():
                if not future.done():
                    future.set_exception(error)
            self._waiting.clear()
            self._room.set()
            return
        for completion in completions:
            if completion[0] not in self._waiting:
                continue  # of another loop, or of the connection's own submit()
            future, space, op = self._waiting.pop(completion[0])
            if not future.done():
                future.set_result(completion)
            elif completion[5]:
                _give_back(space, op, completion[5])
        if completions:
            self._room.set()

    async def submit(self, space: _core.Space, op: int, operands: Any = None, **fields: Any) -> Completion:
        """One entry (Space.submit()) and its completion: (token, res, status, flags, aux, results).

        Waits for room when there is none. A res below 0 is returned, not raised.
        """
        while True:
            try:
                token = space.submit(op, operands, **fields)
                break
            except BusyError as error:
                if error.errno != errno.EAGAIN:
                    raise
                self._room.clear()
                self._ready()
                await self._room.wait()
        future: "asyncio.Future[Completion]" = self._loop.create_future()
        self._waiting[token] = (future, space, op)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                _give_back(space, op, future.result()[5])
            raise

    # ---- operations -------------------------------------------------------------------------

    def _fit(self, bytes_each: int) -> int:
        """Operands that one entry carries, half of the room at most."""
        return max(1, min(65536, self.sync.operand_bytes // 2 // bytes_each))

    async def _run(self, space: _core.Space, op: int, data: memoryview, bytes_each: int,
                   **fields: Any) -> Tuple[int, bytes]:
        """A batch in as many entries as it takes: how many were done, and the results."""
        n, done, waits = len(data) // bytes_each, 0, 0
        results = bytearray()
        try:
            while done < n:
                count = min(n - done, self._fit(bytes_each))
                if op == _core.OP_ALLOC:
                    completion = await self.submit(space, op, count=count, **fields)
                else:
                    piece = data[done * bytes_each:(done + count) * bytes_each]
                    completion = await self.submit(space, op, piece, **fields)
                _, res, status, flags, _, pages = completion
                if res < 0 and not done:
                    raise make_error(-res, "%s of operand %d" % (errno.errorcode.get(-res, "error"), done))
                done += max(res, 0)
                results += pages or b""
                if res == count:
                    continue
                if res < 0 or status or waits == _GRANT_WAITS:
                    break
                if flags & _core.CQE_GRANT_PENDING:
                    self.sync.poll()
                    await asyncio.sleep(_GRANT_WAIT_S)
                elif not flags & _core.CQE_AGAIN:
                    break
                waits += 1
        except asyncio.CancelledError:
            _give_back(space, op, memoryview(results).cast("Q"))
            raise
        return done, bytes(results)

    async def alloc(self, space: _core.Space, n: int) -> memoryview:
        """As Space.alloc()."""
        _, pages = await self._run(space, _core.OP_ALLOC, memoryview(bytes(8 * n)), 8)
        return memoryview(pages).cast("Q")

    async def lookup(self, space: _core.Space, ns: _core.Namespace, hashes: Any, *,
                     salt: int = 0) -> memoryview:
        """As Space.lookup(): the leading run on the device, leased."""
        _, pages = await self._run(space, _core.OP_LOOKUP, _bytes(hashes), 16, ns=ns, salt=salt)
        return memoryview(pages).cast("Q")

    async def load(self, space: _core.Space, ns: _core.Namespace, hashes: Any, *, salt: int = 0,
                   timeout_s: float = 0) -> memoryview:
        """As Space.load(): the leading run in any tier, brought up and leased. timeout_s: 0 = 5 s."""
        _, pages = await self._run(space, _core.OP_LOAD, _bytes(hashes), 16, ns=ns, salt=salt,
                                   arg=int(timeout_s * 1e9))
        return memoryview(pages).cast("Q")

    async def prefetch(self, space: _core.Space, ns: _core.Namespace, hashes: Any, *,
                       salt: int = 0) -> int:
        """As Space.prefetch()."""
        done, _ = await self._run(space, _core.OP_PREFETCH, _bytes(hashes), 16, ns=ns, salt=salt)
        return done

    async def store(self, space: _core.Space, pages: Any) -> int:
        """As Space.store(): how many have a copy below."""
        done, _ = await self._run(space, _core.OP_STORE, _bytes(pages), 8)
        return done if space.tiers >> _core.TIER_HOST else 0

    async def seal(self, space: _core.Space, ns: _core.Namespace, pages: Any, hashes: Any, *,
                   depth: int = 0, epoch: Optional[int] = None, salt: int = 0, fence: int = -1,
                   value: int = 0) -> memoryview:
        """As Space.seal(); with a fence, once its word has reached value."""
        seals = memoryview(_core.pack_seals(pages, hashes, depth))
        _, sealed = await self._run(space, _core.OP_SEAL, seals, 32, ns=ns, salt=salt, fence=fence,
                                    value=value, arg=ns.epoch if epoch is None else epoch)
        return memoryview(sealed).cast("Q")

    async def grow(self, space: _core.Space, pages: int, timeout_s: float = 0) -> int:
        """As Space.grow()."""
        slabs = min(-(-pages // space.pages_per_slab), space.slots)
        if not slabs:
            return 0
        res = (await self.submit(space, _core.OP_SPACE_GROW, count=slabs, arg=int(timeout_s * 1e9)))[1]
        if res < 0:
            raise make_error(-res, "cannot grow by %d slabs (broker-ctl tenant show)" % slabs)
        return res * space.pages_per_slab


def _give_back(space: _core.Space, op: int, pages: Optional[memoryview]) -> None:
    """What a cancelled operation brought. Of a broker that is gone there is nothing to give back."""
    held = array("Q", [page for page in pages or () if page >> 32])
    try:
        if held and op == _core.OP_ALLOC:
            space.free(held)
        elif held and op in (_core.OP_LOAD, _core.OP_LOOKUP, _core.OP_SEAL):
            space.release(held)
    except (BrokerGoneError, ClosedError):
        pass


def _bytes(operands: Any) -> memoryview:
    view = memoryview(operands)
    return view.cast("B") if view.c_contiguous else memoryview(view.tobytes())


def connect(*args: Any, **kwargs: Any) -> Connection:
    """A connection (arguments as kvbroker.Connection) in the running event loop."""
    sync = _core.Connection(*args, **kwargs)
    try:
        return Connection(sync)
    except BaseException:
        sync.close()
        raise


__all__ = ["Connection", "connect"]
