# SPDX-License-Identifier: Apache-2.0
"""How keys are used: what comes back, how soon, and where chains part.

A tracker sees chain hashes and never text: a key stands for a block and all before it, so a node of
the tree of prompts is one key. It remembers a bounded number of them, the least recently seen go.
"""

import time
from array import array
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Callable, List, Optional

from .keys import HASH_BYTES, chain_hashes

_DECAY_S = 600.0  # after so long without use a count weighs half


@dataclass
class Pattern:
    """What is known of a chain, of its deepest block that was seen before.

    seen_blocks: blocks at the start that were seen before. frequency: how often the deepest of them
    was, decayed by half every 10 minutes. gap_s: seconds since it was seen last; None = never. depth:
    blocks of the chain. forks: how many chains go on differently behind it. score: importance, 0..1.
    """

    seen_blocks: int
    frequency: float
    gap_s: Optional[float]
    depth: int
    forks: int
    score: float


class _Node:
    __slots__ = ("count", "seen_s", "children")

    def __init__(self, now_s: float):
        self.count = 0.0
        self.seen_s = now_s
        self.children = 0


class PatternTracker:
    """Remembers up to max_keys keys; `analyze` asks and learns, `score` only asks.

    on_fork: called with the 16-byte key of a block behind which a second chain has begun: the place
    whose pages are worth keeping.
    """

    def __init__(self, max_keys: int = 65536, *, block_tokens: int = 16,
                 on_fork: Optional[Callable[[bytes], None]] = None,
                 clock: Callable[[], float] = time.monotonic):
        if max_keys < 1:
            raise ValueError("a tracker remembers 1 or more keys, not %d" % max_keys)
        self._max = max_keys
        self._block_tokens = block_tokens
        self._on_fork = on_fork
        self._clock = clock
        self._nodes: "OrderedDict[bytes, _Node]" = OrderedDict()

    def __len__(self) -> int:
        return len(self._nodes)

    def keys(self, prompt: Any) -> bytes:
        """Chain hashes of a prompt: text (by its characters), or tokens. 16 bytes a full block."""
        if isinstance(prompt, str):
            prompt = array("I", map(ord, prompt))
        return chain_hashes(prompt, self._block_tokens)

    def analyze(self, prompt: Any) -> Pattern:
        """What is known of a prompt (text or tokens) before it, and remembers that it was seen."""
        return self.analyze_keys(self.keys(prompt))

    def analyze_keys(self, keys: Any) -> Pattern:
        """As analyze(), of 16-byte keys in the order of their chain."""
        chain = _split(keys)
        pattern = self._describe(chain)
        self._learn(chain, pattern.seen_blocks)
        return pattern

    def score(self, keys: Any) -> float:
        """Importance of a chain, 0..1: how likely it is to be wanted again, by its use so far."""
        return self._describe(_split(keys)).score

    def _describe(self, chain: List[bytes]) -> Pattern:
        now_s = self._clock()
        seen = 0
        while seen < len(chain) and chain[seen] in self._nodes:
            seen += 1
        if not seen:
            return Pattern(0, 0.0, None, len(chain), 0, 0.0)
        node = self._nodes[chain[seen - 1]]
        gap_s = max(0.0, now_s - node.seen_s)
        frequency = node.count * 0.5 ** (gap_s / _DECAY_S)
        # What was seen once says little; what forks is shared; 1 - 1/(1 + x) keeps it below 1.
        weight = max(0.0, frequency - 0.5) + 0.5 * max(0, node.children - 1)
        return Pattern(seen, frequency, gap_s, len(chain), max(0, node.children - 1),
                       1.0 - 1.0 / (1.0 + weight))

    def _learn(self, chain: List[bytes], seen: int) -> None:
        now_s = self._clock()
        parent: Optional[_Node] = None
        for i, key in enumerate(chain):
            node = self._nodes.get(key)
            if node is None:
                node = self._nodes[key] = _Node(now_s)
                if parent is not None:
                    parent.children += 1
                    if parent.children == 2 and i == seen and self._on_fork:
                        self._on_fork(chain[i - 1])
            node.count = node.count * 0.5 ** (max(0.0, now_s - node.seen_s) / _DECAY_S) + 1.0
            node.seen_s = now_s
            parent = node
        # Deepest first, so that when room is made the heads of chains are there longest.
        for key in reversed(chain):
            if key in self._nodes:
                self._nodes.move_to_end(key)
        while len(self._nodes) > self._max:
            self._nodes.popitem(last=False)


def _split(keys: Any) -> List[bytes]:
    data = bytes(keys)
    if len(data) % HASH_BYTES:
        raise ValueError("keys have %d bytes each; %d is no multiple" % (HASH_BYTES, len(data)))
    return [data[i:i + HASH_BYTES] for i in range(0, len(data), HASH_BYTES)]
