# SPDX-License-Identifier: Apache-2.0
"""The scheduler's half: which blocks are in the broker, which are loaded, which are stored.

It runs in the engine's loop, so it does little there: a request's blocks are hashed when it arrives,
one ring call finds them when it is scheduled, and that answer is kept until the request starts.

A REQUEST. arrived(): its keys. match(): the leading run that the broker has, leased. allocated():
what of it is loaded; its leases live until the workers report that load done. step(): blocks that
are complete after the step, and not in the broker as far as is known, are given to the workers to
store. finished(): what was complete and not yet given. What was found for a request whose kv_transfer_params have
"kvbroker_priority": "high" (or "low") is given back with a hint that it be kept longest (or go first).

A BLOCK THAT IS BEING STORED is read after its request may have lost it: freed, preempted, reset.
Nothing is held for that. A step that writes such a block again says so, and the workers finish the
store first; that is rare, as blocks that were freed last are given out last.

EPOCHS. What is sealed is sealed in the epoch that the lookup of its request told, so what was
computed before a bump is never found after it.

WEIGHTS. A worker may say that weights change, and what they are then (notices.py); reset() is called when
prefix caches are to be dropped: weights were changed in place, or will be, or it sleeps, and from
then on nobody but this engine knows what they are. What that means is decided in weights.py. Requests
that have computed anything before are not stored any more, unless they begin anew, and the engine's
own cache forgets what it may not keep. What is computed while they change is of no version, and is
forgotten at once.

FAILED LOADS. From the report of one on, the workers drop stores until they are told that the
scheduler has seen it: the blocks may have been computed from what did not come.
"""

import logging
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

from kvbroker import PRIORITY_HIGH, PRIORITY_LOW, KvbError, chain_hashes
from kvbroker.keys import HASH_BYTES

from . import identity
from .events import Ledger
from .link import Link, Session
from .settings import Settings
from .weights import Versions
from .figures import Figures
from .wire import Load, Report, Step, Store

log = logging.getLogger("vllm.kvbroker")

PRIORITIES = {"high": PRIORITY_HIGH, "low": PRIORITY_LOW}
CALL_TIMEOUT_S = 1.0  # longer than any honest answer, short for a broker that hangs


class _Request:
    __slots__ = ("request", "usable", "loadable", "keys", "hashed", "extra", "epoch", "run", "below",
                 "beside", "leases", "session", "local", "given", "priority", "digest", "mixed", "stale")

    def __init__(self, request: Any) -> None:
        self.request = request
        self.usable = True
        self.loadable = True # until a load of it has failed: then it is computed
        self.keys = b""
        self.hashed = 0      # blocks that have keys
        self.extra = b""
        self.digest = b""    # of the version that was looked up
        self.epoch: Optional[int] = None
        self.mixed = False   # begins with what earlier weights may have computed, in the engine itself
        self.stale = False   # has computed with them itself
        self.run = -1        # blocks at the start that the broker has; -1: not looked up
        self.below = False   # some of them in a lower tier
        self.beside = False  # whether its load goes on beside other steps
        self.leases: Any = None
        self.session: Optional[Session] = None
        self.local = 0       # blocks at the start that the engine itself has
        self.given = 0       # blocks at the start that are stored, or given to be
        wanted = getattr(request, "kv_transfer_params", None) or {}
        self.priority = PRIORITIES.get(str(wanted.get("kvbroker_priority")))


class SchedulerHalf:
    def __init__(self, settings: Settings, digest: bytes, ledger: Optional[Ledger] = None) -> None:
        """ledger: told what the broker has, when somebody wants to know. notices, pool and digest_of are set
        by who has them: what workers say of weights, the engine's own cache, and a namespace's digest
        by what weights are."""
        self.settings = settings
        self.figures = Figures()
        self.versions = Versions(digest, settings.on_new_weights)
        self.notices: Any = None
        self.pool: Any = None
        self.digest_of: Callable[[Any], bytes] = lambda weights: digest
        self._ledger = ledger
        self._told_of: Optional[Session] = None # what the ledger holds was true of
        self._there: Dict[int, int] = {}
        self._link = Link(settings, "scheduler", 0, CALL_TIMEOUT_S)
        self._requests: Dict[str, _Request] = {}
        self._adapters: Dict[str, Optional[str]] = {}
        self._serial = 0
        self._loads: List[Load] = []
        self._leases: Dict[int, Tuple[Optional[Session], Any, Optional[int]]] = {}
        self._loading: Dict[int, bytes] = {} # by load: the version that it is of
        self._draining: List[bytes] = []     # versions that are dropped when their last load is over
        self._tails: List[Store] = []       # of requests that have finished since the last step
        self._storing: Dict[int, int] = {}  # block: the last store of it that is not reported
        self._reports: Dict[int, int] = {}
        self._failed: List[int] = []

    # ---- requests ------------------------------------------------------------------------------

    def arrived(self, request: Any) -> None:
        self._hear()
        self._state(request)

    def _state(self, request: Any) -> _Request:
        s = self._requests.get(request.request_id)
        if s is None:
            s = self._requests[request.request_id] = _Request(request)
            s.usable = self._cacheable(s)
            if s.usable:
                self._hash(s, request.num_tokens // self.settings.block_tokens)
        return s

    def _cacheable(self, s: _Request) -> bool:
        """Whether tokens, adapter and salt are all that the request's KV depends on."""
        r = s.request
        if (r.prompt_token_ids is None or r.prompt_embeds is not None or r.mm_features
                or getattr(r, "resumable", False)):
            return False
        parts = []
        if r.lora_request is not None:
            adapter = self._adapter(r.lora_request)
            if adapter is None:
                return False
            parts.append("adapter " + adapter)
        if r.cache_salt:
            parts.append("salt " + r.cache_salt)
        s.extra = "\0".join(parts).encode()
        return True

    def _adapter(self, lora: Any) -> Optional[str]:
        """An adapter's content. Which files it was loaded from is known only the first time; one that
        is loaded again in place under its number is not used with the cache."""
        if getattr(lora, "load_inplace", False):
            return None
        key = "%d %s" % (lora.lora_int_id, lora.lora_path)
        if key not in self._adapters:
            self._adapters[key] = identity.adapter_digest(lora.lora_path)
            if self._adapters[key] is None:
                log.warning("kvbroker: adapter %s is no folder with weights that can be read: its "
                            "requests are not cached", lora.lora_name)
        return self._adapters[key]

    def _hash(self, s: _Request, blocks: int) -> None:
        size = self.settings.block_tokens
        if blocks <= s.hashed:
            return
        tokens = s.request.all_token_ids[s.hashed * size:blocks * size]
        if s.hashed:
            s.keys += chain_hashes(tokens, size, parent=s.keys[-HASH_BYTES:])
        else:
            s.keys = chain_hashes(tokens, size, extra=s.extra)
        s.hashed = blocks

    # ---- lookups -------------------------------------------------------------------------------

    def match(self, request: Any, computed: int) -> Tuple[int, bool]:
        """Tokens beyond `computed` that can be loaded, and whether that goes on beside other steps."""
        self._hear()
        s = self._state(request)
        size = self.settings.block_tokens
        s.local = computed // size
        s.mixed = computed > 0 and self.versions.behind > 0
        s.stale = False
        if not s.usable or not s.loadable:
            return 0, False
        if s.run < 0:
            self._look_up(s)
        if s.run <= s.local:
            return 0, False
        # A load that others would wait for goes on beside them; one that nobody waits for does not.
        size_bytes = (s.run - s.local) * self.settings.block_bytes
        s.beside = s.below or (size_bytes >= self.settings.async_bytes and len(self._requests) > 1)
        return min(s.run * size, request.num_tokens - 1) - computed, s.beside

    def _look_up(self, s: _Request) -> None:
        blocks = s.request.num_tokens // self.settings.block_tokens
        self._hash(s, blocks)
        with self._link.lock:
            session = self._link.session
            self._tell_session(session)
            if session is None or self.versions.now is None:
                return
            try:
                s.digest, run, device = self._find(session, s.keys[:blocks * HASH_BYTES])
                s.epoch = session.namespace(self.versions.now).latest
            except (OSError, ValueError) as error:
                self._link.broken(session, error)
                return
        s.session = session
        s.run = len(run)
        s.below = device < len(run)
        s.leases = run[:device]
        older = s.digest != self.versions.now
        self.figures.add(lookups=1, asked_blocks=blocks, found_blocks=s.run)
        if older:
            self.figures.add(older_blocks=s.run)
        if self._ledger:
            self._ledger.there(s.request, s.keys[:s.run * HASH_BYTES], 0)
            self._ledger.gone(s.keys[s.run * HASH_BYTES:blocks * HASH_BYTES])

    def _find(self, session: Session, keys: bytes) -> Tuple[bytes, Any, int]:
        """The version that has most of a chain, the newest of equals: its digest, the leading run, and how
        many pages of that are on the device, and leased. With the lock held."""
        assert self.versions.now is not None
        best: Tuple[bytes, Any, int] = (self.versions.now, b"", 0)
        for digest in self.versions.readable():
            if len(best[1]) * HASH_BYTES == len(keys):
                break
            run, device = session.space.lookup_tiers(session.namespace(digest), keys)
            more = len(run) > len(best[1])
            spare, n = (best[1], best[2]) if more else (run, device)
            if n:
                session.space.release(spare[:n][::-1])
            if more:
                best = (digest, run, device)
        return best

    def _tell_session(self, session: Optional[Session]) -> None:
        """What was true of one broker is not known of the next."""
        if self._ledger and session is not self._told_of:
            self._ledger.clear()
            self._told_of = session

    def _give_back(self, session: Optional[Session], leases: Any, priority: Optional[int] = None) -> None:
        """Leases, the head of the chain last: it is kept longest."""
        if session is None or leases is None or not len(leases):
            return
        with self._link.lock:
            if self._link.session is not session:
                return
            try:
                if priority is not None:
                    session.space.hint(leases, priority)
                session.space.release(leases[::-1])
            except KvbError as error:
                self._link.broken(session, error)

    # ---- loads ---------------------------------------------------------------------------------

    def allocated(self, request: Any, blocks: List[int], tokens: int) -> None:
        s = self._requests.get(request.request_id)
        if s is None or s.run < 0:
            return
        size = self.settings.block_tokens
        session, leases, run = s.session, s.leases, s.run
        s.leases, s.run = None, -1
        if tokens == 0:
            self._give_back(session, leases, s.priority)
            s.given = max(s.given, run)
            return
        end = s.local + (tokens + size - 1) // size
        self._serial += 1
        load = Load(self._serial, request.request_id, s.digest,
                    s.keys[s.local * HASH_BYTES:end * HASH_BYTES], list(blocks[s.local:end]),
                    wait=not s.beside)
        self._loads.append(load)
        self._leases[load.serial] = (session, leases, s.priority)
        self._loading[load.serial] = s.digest
        self._reports[load.serial] = 0
        s.given = max(s.given, end)

    # ---- stores --------------------------------------------------------------------------------

    def _store(self, s: _Request, blocks: List[int], upto: int, to: List[Store]) -> None:
        """Gives complete blocks given..upto to the workers."""
        if upto <= s.given or s.epoch is None or s.mixed or s.digest != self.versions.now:
            return
        self._hash(s, upto)
        self._serial += 1
        to.append(Store(self._serial, s.digest, s.epoch, s.keys[s.given * HASH_BYTES:upto * HASH_BYTES],
                        s.given, list(blocks[s.given:upto])))
        if self._ledger:
            self._ledger.storing(self._serial, s.request, to[-1].keys, s.given)
        s.given = upto

    def step(self, scheduled: Dict[str, int], block_ids: Callable[[str], List[int]]) -> Step:
        """What the workers are to do in this step. scheduled: tokens of each request; block_ids: a
        function, from a request's name to its blocks."""
        self._hear()
        size = self.settings.block_tokens
        stores: List[Store] = []
        written = {b for load in self._loads for b in load.blocks}
        for name, tokens in scheduled.items():
            s = self._requests.get(name)
            if s is None:
                continue
            r = s.request
            if s.stale or self.versions.now is None:
                self._forget_local(block_ids(name))
            upto = min(r.num_computed_tokens + tokens, r.num_tokens) // size
            if upto > s.given and s.usable:
                self._store(s, block_ids(name), upto, stores)
            if self._storing or self._tails:
                written.update(block_ids(name)[r.num_computed_tokens // size:
                                               -(-(r.num_computed_tokens + tokens) // size)])
        first = sorted({self._storing[b] for b in written if b in self._storing})
        for store in self._tails:
            if written.isdisjoint(store.blocks):
                stores.append(store)
            elif self._ledger:
                self._ledger.stored(store.serial, 0)
        for store in stores:
            self._reports[store.serial] = 0
            self._storing.update(dict.fromkeys(store.blocks, store.serial))
        step = Step(self._loads, stores, first, self._failed, idle=not scheduled)
        self._loads, self._tails, self._failed = [], [], []
        return step

    def finished(self, request: Any, blocks: List[int]) -> None:
        s = self._requests.pop(request.request_id, None)
        if s is None:
            return
        self._give_back(s.session, s.leases)
        if s.stale or self.versions.now is None:
            self._forget_local(blocks)
        if not s.usable:
            return
        # The token that was sampled last has no KV yet; steps in flight are no facts yet.
        known = min(request.num_computed_tokens - getattr(request, "num_in_flight_tokens", 0),
                    request.num_tokens - 1)
        self._store(s, blocks, min(known // self.settings.block_tokens, len(blocks)), self._tails)

    # ---- reports -------------------------------------------------------------------------------

    def reported(self, report: Report) -> None:
        for serial in self._over(report.loaded):
            self._give_back(*self._leases.pop(serial, (None, None, None)))
            self._loading.pop(serial, None)
        if self._draining:
            self._drained()
        for serial, blocks in report.there.items():
            self._there[serial] = min(blocks, self._there.get(serial, blocks))
        over = set(self._over(report.stored))
        for serial in over:
            blocks = self._there.pop(serial, 0)
            if self._ledger:
                self._ledger.stored(serial, blocks)
        if over:
            self._storing = {block: serial for block, serial in self._storing.items() if serial not in over}
        if not report.failed:
            return
        self._failed += report.failed
        for s in self._requests.values():
            s.given = min(s.given, s.request.num_computed_tokens // self.settings.block_tokens)
        for name in report.failed.values():
            if name in self._requests:
                self._requests[name].loadable = False

    def _over(self, reports: Dict[int, int]) -> List[int]:
        """Serials that all workers have reported."""
        over = []
        for serial, workers in reports.items():
            if serial not in self._reports:
                continue
            self._reports[serial] += workers
            if self._reports[serial] >= self.settings.ranks:
                del self._reports[serial]
                over.append(serial)
        return over

    def take_figures(self) -> Any:
        return self.figures.take()

    def take_events(self) -> Any:
        return self._ledger.take() if self._ledger else ()

    # ---- weights -------------------------------------------------------------------------------

    def _hear(self) -> None:
        """What workers have said of weights since, before anything is decided."""
        notices: List[Dict[str, Any]] = self.notices.take() if self.notices else []
        for notice in notices:
            if "begin" in notice:
                self.versions.begin()
                self._left([])
            elif "kept" in notice:
                self._left(self.versions.as_before_reset())
            else:
                self._new_weights(notice.get("weights"))

    def _new_weights(self, weights: Any) -> None:
        versions = self.versions
        gone = versions.change(versions.unknown() if weights is None else self.digest_of(weights))
        if versions.behind > versions.rule.lag:
            self._forget_local(range(self.settings.blocks))
            versions.behind = 0
        self._left(gone)
        log.info("kvbroker: this engine has new weights, %s", weights or "of which it is not known what they are")

    def reset(self) -> bool:
        self._hear()
        self._forget_local(range(self.settings.blocks)) # where requests run, vLLM has not
        self._left(self.versions.reset())
        log.info("kvbroker: caches were reset; what this engine computes from now on is its own")
        return True

    def _forget_local(self, blocks: Iterable[int]) -> None:
        """The engine's own cache, which knows no versions, finds these blocks no more."""
        if self.pool:
            self.pool.evict_blocks(set(blocks))

    def _left(self, gone: List[bytes]) -> None:
        """Requests go on in another version. gone: those that nobody can read any more."""
        for s in self._requests.values():
            self._give_back(s.session, s.leases)
            s.leases, s.session, s.run, s.given, s.epoch = None, None, -1, 0, None
            s.stale = s.stale or s.request.num_computed_tokens > 0
        if self._ledger:
            self._ledger.clear()
        self._draining += gone
        self._drained()

    def _drained(self) -> None:
        """Drops versions in the broker; by rule drain, only those that no load is of."""
        used = set(self._loading.values()) if self.versions.rule.kind == "drain" else ()
        gone = [digest for digest in self._draining if digest not in used]
        self._draining = [digest for digest in self._draining if digest in used]
        with self._link.lock:
            session = self._link.session
            if session is None:
                return
            for digest in gone:
                try:
                    session.namespace(digest).bump()
                except (OSError, ValueError) as error:
                    self._link.broken(session, error)
                    if self._link.session is not session:
                        return # else it has moved, and a store could not record it

    def close(self) -> None:
        if self.notices:
            self.notices.close()
        self._link.close()
