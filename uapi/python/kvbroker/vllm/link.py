# SPDX-License-Identifier: Apache-2.0
"""A connection to the broker that may end, and be there again.

An engine does not depend on its cache. So a connection that cannot be made, or is lost, is no error
here: session() is None then, and the caller goes on without. It is tried again later, at growing
intervals, by whoever asks next; a broker that is gone refuses at once, and one that hangs costs
timeout_s a try.

A Session is one connection's life. What was leased, allocated or sealed in one means nothing in the
next, so whoever keeps pages keeps the session that they are of. A lost session is not closed: views
of its memory may be in use, and it ends with the last of them.

THREADS. The connection is for one thread at a time; `lock` is for the few microseconds of a call.
"""

import logging
import threading
import time
from typing import Dict, Optional

import kvbroker

from .settings import Settings

log = logging.getLogger("vllm.kvbroker")

RETRY_MIN_S = 0.5
RETRY_MAX_S = 15.0


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
            ns = self._namespaces[digest] = self.connection.namespace(digest, admin=True)
        return ns


class Link:
    def __init__(self, settings: Settings, half: str, rank: int, timeout_s: float) -> None:
        self.lock = threading.Lock()
        self._settings = settings
        self._half = half
        self._rank = rank
        self._timeout_s = timeout_s
        self._session: Optional[Session] = None
        self._retry_at = 0.0
        self._retry_s = RETRY_MIN_S
        self._told = ""

    def session(self) -> Optional[Session]:
        """The connection there is, or can be had now. With the lock held."""
        if self._session is None and time.monotonic() >= self._retry_at:
            self._connect()
        return self._session

    def lost(self, session: Session, error: BaseException) -> None:
        """A call of this session has failed in a way that ends it. With the lock held."""
        if self._session is not session:
            return
        self._session = None
        self._retry_at = time.monotonic() + RETRY_MIN_S
        self._retry_s = RETRY_MIN_S
        log.warning("kvbroker %s: the broker is gone (%s); going on without it", self._half, error)

    def _connect(self) -> None:
        s = self._settings
        connection = None
        try:
            connection = kvbroker.Connection(s.socket, s.tenant, "vllm-" + self._half,
                                             timeout_s=self._timeout_s)
            space = connection.space(s.stride_bytes, device=s.device, tag=s.tag,
                                     group=s.tag if s.ranks > 1 else 0,
                                     ranks=s.ranks if s.ranks > 1 else 0,
                                     rank=self._rank if s.ranks > 1 else 0)
            self._session = Session(connection, space)
        except (OSError, ValueError) as error:
            if connection is not None:
                connection.close()
            self._retry_at = time.monotonic() + self._retry_s
            self._retry_s = min(2 * self._retry_s, RETRY_MAX_S)
            if str(error) != self._told:
                log.warning("kvbroker %s: no cache for now: %s", self._half, error)
                self._told = str(error)
            return
        self._told = ""
        self._retry_s = RETRY_MIN_S
        log.info("kvbroker %s: connected as client %d, pages of %d bytes in %s", self._half,
                 connection.client, s.stride_bytes, s.device)

    def close(self) -> None:
        """Ends the connection, when nothing looks at its memory any more."""
        with self.lock:
            session, self._session = self._session, None
            self._retry_at = float("inf")
            if session is not None:
                try:
                    session.connection.close()
                except (BufferError, OSError) as error:
                    log.debug("kvbroker %s: left open: %s", self._half, error)
