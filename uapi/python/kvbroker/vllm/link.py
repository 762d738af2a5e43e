# SPDX-License-Identifier: Apache-2.0
"""A connection to the broker that may end, and be there again.

An engine does not depend on its cache. So a connection that cannot be made, or is lost, is no error
here: `session` is None then, and the caller goes on without. A thread of the link's own connects
again, at growing intervals, and serves the connection while the engine is idle: it takes grants,
gives up slabs that are called back, and sees the broker go. The engine's loop never waits for any of
that.

A Session is one connection's life. What was leased, allocated or sealed in one means nothing in the
next, so whoever keeps pages keeps the session that they are of. A lost session is not closed: views
of its memory may be in use, and it ends with the last of them.

THREADS. `lock` is held for ring calls, a few microseconds, and to read `session`; never for copies.
Whoever copies says so (begin_copy(), end_copy()): slabs are given up only when nobody does.
"""

import errno
import logging
import threading
from typing import Dict, Optional

import kvbroker
from kvbroker import BrokerGoneError, TimedOutError

from .settings import Settings

log = logging.getLogger("vllm.kvbroker")

SERVE_S = 0.2       # how often an idle connection is served
RETRY_MAX_S = 10.0  # between attempts to connect, at most
NAMESPACES = 16     # that a connection may open


class SpentError(BrokerGoneError):
    """A session has opened all the namespaces that it may: the next one begins anew."""


class Session:
    """One connection, its space, and the namespaces opened in it."""

    def __init__(self, connection: kvbroker.Connection, space: kvbroker.Space) -> None:
        self.connection = connection
        self.space = space
        self._namespaces: Dict[bytes, kvbroker.Namespace] = {}

    def namespace(self, digest: bytes) -> kvbroker.Namespace:
        """The namespace of a digest, opened once a session. Its `latest` is the epoch to seal in."""
        ns = self._namespaces.get(digest)
        if ns is None:
            if len(self._namespaces) == NAMESPACES:
                raise SpentError(errno.ECONNRESET, "a new connection, as this one has opened %d namespaces" % NAMESPACES)
            ns = self._namespaces[digest] = self.connection.namespace(digest, admin=True)
        return ns


class Link:
    def __init__(self, settings: Settings, half: str, rank: int, timeout_s: float) -> None:
        self.lock = threading.Lock()
        self.session: Optional[Session] = None
        self._settings = settings
        self._half = half
        self._rank = rank
        self._timeout_s = timeout_s
        self._copies = 0
        self._told = ""
        self._wake = threading.Event()
        self._closed = False
        self._connect()
        self._thread = threading.Thread(target=self._serve, name="kvbroker-link", daemon=True)
        self._thread.start()

    # ---- for callers that hold the lock --------------------------------------------------------

    def broken(self, session: Session, error: BaseException) -> None:
        """A call of this session has failed; some failures end it."""
        if not isinstance(error, (BrokerGoneError, TimedOutError)):
            log.warning("kvbroker %s: %s", self._half, error)
        elif self.session is session:
            self.session = None
            self._wake.set()
            if isinstance(error, SpentError):
                log.info("kvbroker %s: %s", self._half, error)
            else:
                log.warning("kvbroker %s: the broker is gone; going on without it (%s)", self._half, error)

    def begin_copy(self) -> None:
        self._copies += 1

    def end_copy(self) -> None:
        self._copies -= 1

    # ---- the link's thread ---------------------------------------------------------------------

    def _serve(self) -> None:
        retry_s = SERVE_S
        while not self._closed:
            self._wake.wait(SERVE_S if self.session else retry_s)
            self._wake.clear()
            if self._closed:
                return
            if self.session is None:
                self._connect()
                retry_s = SERVE_S if self.session else min(2 * retry_s, RETRY_MAX_S)
                continue
            with self.lock:
                session = self.session
                if session is None:
                    continue
                try:
                    session.connection.poll()
                    if self._copies == 0 and session.connection.revocations():
                        session.connection.quiet_point()
                except (OSError, ValueError) as error:
                    self.broken(session, error)

    def _connect(self) -> None:
        s = self._settings
        connection = None
        try:
            connection = kvbroker.Connection(s.socket, s.tenant, "vllm-" + self._half,
                                             timeout_s=self._timeout_s)
            space = connection.space(s.stride_bytes, device=s.device, tag=s.tag, group=s.tag,
                                     ranks=s.ranks if s.tag else 0, rank=self._rank)
        except (OSError, ValueError) as error:
            if connection is not None:
                connection.close()
            if str(error) != self._told:
                log.warning("kvbroker %s: no cache for now: %s", self._half, error)
                self._told = str(error)
            return
        self._told = ""
        with self.lock:
            self.session = Session(connection, space)
        log.info("kvbroker %s: connected as client %d, pages of %d bytes on %s", self._half,
                 connection.client, s.stride_bytes, s.device)

    def close(self) -> None:
        """Ends the connection, when nothing looks at its memory any more."""
        self._closed = True
        self._wake.set()
        self._thread.join(self._timeout_s)
        with self.lock:
            session, self.session = self.session, None
            if session is not None:
                try:
                    session.connection.poll()
                    session.connection.close()
                except (BufferError, OSError) as error:
                    log.debug("kvbroker %s: left open: %s", self._half, error)
