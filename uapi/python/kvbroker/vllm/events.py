# SPDX-License-Identifier: Apache-2.0
"""What this engine knows the broker to have, told as vLLM's KV events: for routers that send a request
to where its beginning is.

An event says what this engine has seen: BlockStored when its own store is done in all workers, or when a
lookup finds what others have stored; BlockRemoved when a lookup misses what was told, when caches are
reset, and when the broker is gone. The broker evicts without a word, so a removal is told at the next
lookup that would have needed the block, and with it all that follows in that chain: a block whose
parent is gone is of no use.

Blocks go by vLLM's own hashes, those of its events about the engine's memory, and by the medium "CPU".
A ledger remembers what it has told, up to MOST blocks; of more, the oldest are told as removed.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Union

from kvbroker.keys import HASH_BYTES

MOST = 1 << 20
MEDIUM = "CPU"


@dataclass
class Stored:
    """Blocks first..upto of a request are in the broker."""

    request: Any
    first: int
    upto: int


@dataclass
class Removed:
    """Blocks of these hashes are there no more."""

    hashes: List[Any] # vLLM's BlockHash


class Ledger:
    """Keys of blocks that were told as stored, with vLLM's hashes of them, and what is to be told."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._told: "OrderedDict[bytes, Any]" = OrderedDict()
        self._storing: Dict[int, Any] = {}  # serial of a store: its request, keys, first block
        self._events: List[Union[Stored, Removed]] = []

    def storing(self, serial: int, request: Any, keys: bytes, first: int) -> None:
        """Blocks from `first` on were given to be stored."""
        self._storing[serial] = (request, keys, first)

    def stored(self, serial: int, blocks: int) -> None:
        """That store is over, and so many of its blocks, from its first, are in the broker."""
        request, keys, first = self._storing.pop(serial, (None, b"", 0))
        if request is not None:
            self.there(request, keys[:blocks * HASH_BYTES], first)

    def there(self, request: Any, keys: bytes, first: int) -> None:
        """The broker has blocks of a request from `first` on, under these keys."""
        hashes = request.block_hashes
        new: Optional[Stored] = None
        for at in range(0, len(keys), HASH_BYTES):
            block, key = first + at // HASH_BYTES, keys[at:at + HASH_BYTES]
            if block >= len(hashes):
                break
            if key in self._told:
                self._told.move_to_end(key)
                new = None
                continue
            self._told[key] = hashes[block]
            if new is None:
                new = Stored(request, block, block)
                self._events.append(new)
            new.upto = block + 1
        over = len(self._told) - self._most
        if over > 0:
            self._events.append(Removed([self._told.popitem(last=False)[1] for _ in range(over)]))

    def gone(self, keys: bytes) -> None:
        """The broker was asked for a chain and did not have this part of it."""
        hashes = [self._told.pop(keys[i:i + HASH_BYTES], None) for i in range(0, len(keys), HASH_BYTES)]
        removed = [h for h in hashes if h is not None]
        if removed:
            self._events.append(Removed(removed))

    def clear(self) -> None:
        """Nothing that was told is found any more, nor what is being stored."""
        if self._told:
            self._events.append(Removed(list(self._told.values())))
        self._told.clear()
        self._storing.clear()

    def take(self) -> List[Union[Stored, Removed]]:
        """What is to be told since the last time, in order."""
        events, self._events = self._events, []
        return events


def to_vllm(event: Union[Stored, Removed], size: int, kind: str) -> Any:
    """The event as vLLM publishes it. size: tokens of a block; kind: vLLM's name of the layers'."""
    from vllm.distributed.kv_events import BlockRemoved, BlockStored
    from vllm.v1.core import kv_cache_utils as utils

    if isinstance(event, Removed):
        return BlockRemoved(block_hashes=[utils.maybe_convert_block_hash(h) for h in event.hashes],
                            medium=MEDIUM, group_idx=0, locality="LOCAL")
    r = event.request
    blocks = range(event.first, event.upto)
    lora = r.lora_request
    return BlockStored(
        block_hashes=[utils.maybe_convert_block_hash(r.block_hashes[b]) for b in blocks],
        parent_block_hash=utils.maybe_convert_block_hash(r.block_hashes[event.first - 1]) if event.first else None,
        token_ids=list(r.all_token_ids[event.first * size:event.upto * size]),
        block_size=size,
        lora_id=lora.adapter_id if lora else None,
        lora_name=lora.name if lora else None,
        medium=MEDIUM,
        extra_keys=utils.to_event_extra_keys(
            [utils.generate_block_hash_extra_keys(r, b * size, (b + 1) * size, 0)[0] for b in blocks]),
        group_idx=0,
        kv_cache_spec_kind=kind,
        locality="LOCAL",
    )
