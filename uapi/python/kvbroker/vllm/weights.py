# SPDX-License-Identifier: Apache-2.0
"""Which weights an engine computes with, when they change while it runs, and what becomes of what earlier
ones have computed.

A version of the weights is a namespace: a digest of what they are and of all else that blocks depend on.
Weights read from files are what the files hold, and others that somebody has named are what the name
says, so engines that were given the same find each other's blocks again. What nobody can say has a
digest of its own that no other engine knows.

The rule, `on_new_weights` of the settings, says what may still be read:

    drop     nothing of earlier weights, and loads under way are failed, so that they are computed
    drain    nothing of earlier weights, but loads under way end as they began
    keep:N   also what the N versions before have computed, when they have more of a prompt than the
             version of now. What is computed behind such blocks belongs to no version, and is not stored

A version that only this engine knew is bumped in the broker when it can be read no more, and its memory
is the first to go. Versions that have a name may be in use elsewhere, and go as they age.
"""

import os
from dataclasses import dataclass
from hashlib import blake2b
from typing import List, Optional, Set, Tuple


@dataclass(frozen=True)
class Rule:
    kind: str     # "drop", "drain", "keep"
    lag: int = 0  # versions before the one of now that may be read


def parse_rule(text: str) -> Rule:
    """ValueError: it is none."""
    kind, _, lag = str(text).partition(":")
    if text in ("drop", "drain"):
        return Rule(kind)
    if kind == "keep" and lag in list("12345678"):
        return Rule(kind, int(lag))
    raise ValueError("on_new_weights is drop, drain, or keep:N with N from 1 to 8, not %r" % (text,))


class Versions:
    """now: digest of what is computed now; None while weights are being changed. older: digests, newest
    first, of which may be read besides. behind: changes since the engine's own cache was emptied."""

    def __init__(self, digest: bytes, rule: Rule) -> None:
        self.rule = rule
        self.now: Optional[bytes] = digest
        self.older: List[bytes] = []
        self.behind = 0
        self._last = digest
        self._own: Set[bytes] = set()
        self._before_reset: Optional[Tuple[bytes, bool]] = None

    def readable(self) -> List[bytes]:
        """Digests to look in, the best first."""
        return [self.now, *self.older] if self.now else []

    def unknown(self) -> bytes:
        """A digest for weights of which nobody knows what they are."""
        digest = blake2b(self._last + os.urandom(16), digest_size=32).digest()
        self._own.add(digest)
        return digest

    def begin(self) -> None:
        """Weights are being changed: what is computed from now on is of no version."""
        self.now = None
        self._before_reset = None

    def change(self, digest: bytes) -> List[bytes]:
        """Weights are what the digest says: versions that nobody can read any more."""
        if digest != self._last:
            self.older = [d for d in [self._last, *self.older] if d != digest][:self.rule.lag]
            self.behind += 1
        self.now = self._last = digest
        return self._unreadable()

    def reset(self) -> List[bytes]:
        """All that was computed is to be dropped, whatever the rule: as change()."""
        self._before_reset = (self._last, self._last in self._own)
        self.older, self.behind = [], 0
        self.now = self._last = self.unknown()
        return self._unreadable()

    def as_before_reset(self) -> List[bytes]:
        """The last reset was for a sleep, or for nothing: weights are what they were. As change()."""
        if self._before_reset is not None:
            (digest, own), self._before_reset = self._before_reset, None
            self.now = self._last = digest
            if own:
                self._own.add(digest)
        return self._unreadable()

    def _unreadable(self) -> List[bytes]:
        gone = [d for d in self._own if d != self._last and d not in self.older]
        self._own.difference_update(gone)
        return gone
