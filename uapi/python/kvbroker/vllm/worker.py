# SPDX-License-Identifier: Apache-2.0
"""The worker's half: copies between the engine's blocks and the broker's pages.

Loads that the step waits for run in the caller's thread, before the model does. All else runs in two
threads of its own, one for loads and one for stores, so that a load never waits for stores. They
share one connection; its lock is held for ring calls, never for copies.

A LOAD leases its pages, copies them, and gives the leases back. A page that was not there, or whose
lease is gone when it is given back, is a block that has not come: it is reported, and computed.

A STORE waits in a queue while the model goes on. Whatever is queued goes together: one lookup says
what the broker has already, one allocation makes room for the rest, one seal publishes it. What finds
no room is dropped: it will be computed and offered again.

MEMORY of the space grows as blocks come, until the broker says that there is no more; from then on
it evicts.
"""

import logging
import os
import queue
import threading
import time
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

import kvbroker
import numpy as np
from kvbroker import KvbError, NoMemoryError, QuotaError, StaleEpochError
from kvbroker._core import OP_LOAD
from kvbroker.keys import HASH_BYTES

from .figures import Figures
from .link import Link, Session
from .settings import Settings, refuse
from .tensors import Copier
from .wire import Load, Report, Step, Store

log = logging.getLogger("vllm.kvbroker")

CALL_TIMEOUT_S = 5.0
FETCH_S = 5.0          # for pages of lower tiers
FETCH_POLL_S = 0.0005
BATCH_BYTES = 64 << 20 # of stores that go together
GROW_AGAIN_S = 5.0     # after the broker had no more memory
IDLE_WAIT_S = 0.002    # in a step that has no model to run


class WorkerHalf:
    def __init__(self, settings: Settings, rank: int) -> None:
        self.settings = settings
        self.figures = Figures()
        self._link = Link(settings, "worker", rank, CALL_TIMEOUT_S)
        self._copier: Optional[Copier] = None
        self._session: Optional[Session] = None
        self._pages: Any = None
        self._room = 0
        self._grow_at = 0.0
        # What is over, for the scheduler.
        self._over = threading.Condition()
        self._report = Report()
        self._received: Set[str] = set()
        self._bad_blocks: Set[int] = set()
        self._unseen: Set[int] = set()
        self._loading = 0                # loads that go on beside steps
        self._round = 0                  # of void_loads()
        self._come: List[Load] = []      # loads beside steps that are over, and not yet told
        self._storing: Set[int] = set()  # serials of stores that are not over
        self._loads: "queue.Queue[Optional[Tuple[Load, int]]]" = queue.Queue()
        self._stores: "queue.Queue[Optional[Store]]" = queue.Queue()
        self._threads: List[threading.Thread] = []

    # ---- the step ------------------------------------------------------------------------------

    def register(self, rows: List[Any]) -> None:
        """The engine's KV memory, as rows of bytes of tensors.all_rows()."""
        copier = Copier(rows)
        if copier.block_bytes != self.settings.block_bytes:
            refuse("blocks have %d bytes in memory and %d by configuration"
                   % (copier.block_bytes, self.settings.block_bytes))
        self._copier = copier
        for name, target in (("load", self._load_thread), ("store", self._store_thread)):
            thread = threading.Thread(target=target, name="kvbroker-" + name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def prepare(self, step: Step) -> None:
        """Before anything is written: stores of blocks that will be. Their copies are of memory, and
        their calls end by CALL_TIMEOUT_S."""
        if step.first:
            with self._over:
                self._over.wait_for(lambda: not self._storing.intersection(step.first))

    def start(self, step: Step) -> None:
        """Loads: before the model runs, when it needs one of them."""
        self._unseen.difference_update(step.seen)
        for load in step.loads:
            if load.wait:
                self._load(load, self._round)
            else:
                with self._over:
                    self._loading += 1
                self._loads.put((load, self._round))

    def end(self, step: Step) -> None:
        """After the model ran: its blocks are complete."""
        for store in step.stores:
            if self._unseen:
                # Computed, it may be, from blocks that did not come.
                with self._over:
                    self._report.stored[store.serial] = 1
                    self._report.there[store.serial] = 0
            else:
                with self._over:
                    self._storing.add(store.serial)
                self._stores.put(store)
        if step.idle:
            with self._over:
                if self._loading and not self._received:
                    self._over.wait(IDLE_WAIT_S)

    def take_received(self) -> Set[str]:
        with self._over:
            received, self._received = self._received, set()
            self._come = []
        return received

    def take_bad_blocks(self) -> Set[int]:
        with self._over:
            bad, self._bad_blocks = self._bad_blocks, set()
        return bad

    def take_report(self) -> Optional[Report]:
        with self._over:
            report, self._report = self._report, Report()
        return report if report else None

    def take_figures(self) -> Any:
        with self._over:
            return self.figures.take()

    def close(self) -> None:
        for q in (self._loads, self._stores):
            q.put(None)
        for thread in self._threads:
            thread.join(CALL_TIMEOUT_S)
        self._pages = self._session = None
        self._link.close()

    # ---- the connection ------------------------------------------------------------------------

    def _current(self) -> Optional[Session]:
        """The session, its memory at hand. With the lock held."""
        session = self._link.session
        if session is not self._session:
            self._session = session
            self._pages = Copier.pages_of(session.space) if session else None
            self._room, self._grow_at = 0, 0.0
        return session

    def _copy(self, copy: Any, pages: Any, names: Any, blocks: Sequence[int]) -> None:
        """Without the lock; begin_copy() was called with it."""
        try:
            copy(pages, (np.asarray(names) & 0xffffffff).tolist(), blocks)
        finally:
            with self._link.lock:
                self._link.end_copy()

    # ---- loads ---------------------------------------------------------------------------------

    def void_loads(self) -> None:
        """Loads under way have failed, whatever they bring: it was computed by other weights."""
        with self._over:
            self._round += 1
            for load in self._come:
                self._fail(load, load.blocks)

    def _load(self, load: Load, round_: int) -> None:
        came = 0
        begin = time.monotonic()
        try:
            came = self._load_pages(load)
        except Exception:
            log.exception("kvbroker worker: a load failed")
        with self._over:
            if round_ != self._round:
                came = 0
            self.figures.add(loaded_blocks=came, load_seconds=time.monotonic() - begin)
            self._report.loaded[load.serial] = 1
            if came < len(load.blocks):
                self._fail(load, load.blocks[came:])
            if not load.wait:
                self._received.add(load.request)
                self._come.append(load)
                self._loading -= 1
            self._over.notify_all()

    def _fail(self, load: Load, missing: List[int]) -> None:
        self.figures.add(failed_loads=1)
        self._report.failed[load.serial] = load.request
        self._bad_blocks.update(missing)
        self._unseen.add(load.serial)

    def _load_pages(self, load: Load) -> int:
        """How many of the blocks, from the first, hold what they should."""
        assert self._copier is not None
        if not load.wait:
            self._fetch(load)
        with self._link.lock:
            session = self._current()
            if session is None:
                return 0
            try:
                leases = session.space.lookup(session.namespace(load.digest), load.keys)
            except (OSError, ValueError) as error:
                self._link.broken(session, error)
                return 0
            pages = self._pages
            self._link.begin_copy()
        self._copy(self._copier.load, pages, leases, load.blocks[:len(leases)])
        with self._link.lock:
            try:
                session.space.release(leases[::-1])
            except KvbError as error:
                # Which leases are gone is not known: none of the copies is trusted.
                self._link.broken(session, error)
                return 0
        return len(leases)

    def _fetch(self, load: Load) -> None:
        """Brings what is in lower tiers up. What does not come is missed by the lookup that follows."""
        token = None
        until = time.monotonic() + FETCH_S
        while True:
            with self._link.lock:
                session = self._link.session
                if session is None or not session.space.tiers & ~(1 << kvbroker.TIER_DEVICE):
                    return
                try:
                    if token is None:
                        token = session.space.submit(OP_LOAD, load.keys, ns=session.namespace(load.digest),
                                                     arg=int(FETCH_S * 1e9))
                    for done, res, _, _, _, pages in session.connection.completions():
                        if res > 0:
                            session.space.release(pages)
                        if done == token:
                            return
                except (OSError, ValueError) as error:
                    self._link.broken(session, error)
                    return
            if time.monotonic() > until:
                return
            time.sleep(FETCH_POLL_S)

    def _load_thread(self) -> None:
        _be_anywhere(0)
        while True:
            task = self._loads.get()
            if task is None:
                return
            self._load(*task)

    # ---- stores --------------------------------------------------------------------------------

    def _store_thread(self) -> None:
        _be_anywhere(10)
        most = max(1, BATCH_BYTES // self.settings.block_bytes)
        while True:
            store = self._stores.get()
            batch: List[Store] = []
            blocks = 0
            while store is not None:
                batch.append(store)
                blocks += len(store.blocks)
                if blocks >= most or self._stores.empty():
                    break
                store = self._stores.get()
            if batch:
                self._store(batch)
            if store is None:
                return

    def _store(self, batch: List[Store]) -> None:
        begin = time.monotonic()
        stored = known = 0
        there: Dict[int, int] = {}
        try:
            by_epoch: Dict[Any, List[Store]] = {}
            for store in batch:
                by_epoch.setdefault((store.digest, store.epoch), []).append(store)
            for (digest, epoch), stores in by_epoch.items():
                s, k = self._store_blocks(digest, epoch, stores, there)
                stored += s
                known += k
        except Exception:
            log.exception("kvbroker worker: a store failed")
        total = sum(len(store.blocks) for store in batch)
        with self._over:
            self.figures.add(stored_blocks=stored, known_blocks=known,
                             refused_blocks=total - stored - known,
                             store_seconds=time.monotonic() - begin)
            for store in batch:
                self._report.stored[store.serial] = 1
                self._report.there[store.serial] = there.get(store.serial, 0)
                self._storing.discard(store.serial)
            self._over.notify_all()

    def _store_blocks(self, digest: bytes, epoch: int, stores: List[Store], there: Dict[int, int]) -> Any:
        """Stores of one namespace and epoch: (stored, known). there: how many blocks of each, from its
        first, the broker has then."""
        keys = b"".join(store.keys for store in stores)
        blocks = [b for store in stores for b in store.blocks]
        depths = [store.depth + i for store in stores for i in range(len(store.blocks))]
        with self._link.lock:
            session = self._current()
            if session is None:
                return 0, 0
            space = session.space
            try:
                ns = session.namespace(digest)
                found = np.array(space.lookup(ns, keys, all=True))
                has = found != 0
                new = np.flatnonzero(~has)
                space.release(found[has])
                self._make_room(session, len(new))
                pages = np.array(space.alloc(len(new)))
                self._room -= len(pages)
                new = new[:len(pages)]
            except (OSError, ValueError) as error:
                self._link.broken(session, error)
                return 0, 0
            memory = self._pages
            self._link.begin_copy()
        assert self._copier is not None
        self._copy(self._copier.store, memory, pages, [blocks[i] for i in new])
        sealed = 0
        with self._link.lock:
            try:
                while sealed < len(new):
                    sealed += self._seal(session, ns, epoch, keys, depths, new[sealed:], pages[sealed:])
            except StaleEpochError:
                log.debug("kvbroker worker: computed before a bump of the epoch, and dropped")
            except (OSError, ValueError) as error:
                self._link.broken(session, error)
            if self._link.session is session and sealed < len(new):
                self._free(session, pages[sealed:])
        known = int(np.count_nonzero(has))
        has[new[:sealed]] = True
        at = 0
        for store in stores:
            gaps = np.flatnonzero(~has[at:at + len(store.blocks)])
            there[store.serial] = int(gaps[0]) if len(gaps) else len(store.blocks)
            at += len(store.blocks)
        return sealed, known

    def _seal(self, session: Session, ns: Any, epoch: int, keys: bytes, depths: List[int], new: Any,
              pages: Any) -> int:
        """Seals the first run of blocks of one chain, and gives the leases back. How many."""
        n = 1
        while n < len(new) and new[n] == new[0] + n and depths[new[n]] == depths[new[0]] + n:
            n += 1
        at = int(new[0]) * HASH_BYTES
        leases = np.array(session.space.seal(ns, pages[:n], keys[at:at + n * HASH_BYTES],
                                             depth=depths[new[0]], epoch=epoch))
        session.space.release(leases[::-1].copy())
        others = pages[:len(leases)][leases != pages[:len(leases)]]
        if len(others): # somebody else was first
            session.space.free(others)
        return len(leases)

    def _free(self, session: Session, pages: Any) -> None:
        try:
            session.space.free(pages)
        except KvbError as error:
            self._link.broken(session, error)

    def _make_room(self, session: Session, pages: int) -> None:
        """Takes memory as it is needed, while there is any. With the lock held."""
        if self._room >= pages or time.monotonic() < self._grow_at:
            return
        try:
            self._room += session.space.grow(pages)
        except (NoMemoryError, QuotaError):
            self._room = 0
            self._grow_at = time.monotonic() + GROW_AGAIN_S


def _be_anywhere(nice: int) -> None:
    """The thread is not bound to the core of the one that made it, and yields to the model's."""
    try:
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
    except OSError as error:
        log.debug("kvbroker worker: %s", error)
