# SPDX-License-Identifier: Apache-2.0
"""What the scheduler's half and the worker's half tell each other, once a step each way.

Keys and block numbers travel, names of pages never: each half leases for itself what it relies on.
The scheduler's lease keeps a page from eviction until the worker says that a load is over; the
worker's own lease is what it reads under, and that it could give it back afterwards proves that the
page was the same all the while.
"""

from dataclasses import dataclass, field
from typing import Dict, List


@dataclass
class Load:
    """The broker's pages under `keys` go to blocks `blocks` of the KV tensors."""

    serial: int
    request: str
    digest: bytes
    keys: bytes  # 16 a block
    blocks: List[int]
    wait: bool   # within this step, before the model runs; else beside it


@dataclass
class Store:
    """Blocks `blocks`, which are complete when this step is over, go under `keys`."""

    serial: int
    digest: bytes
    epoch: int
    keys: bytes
    depth: int   # of the first block in its chain
    blocks: List[int]


@dataclass
class Step:
    """Scheduler to worker."""

    loads: List[Load] = field(default_factory=list)
    stores: List[Store] = field(default_factory=list)
    first: List[int] = field(default_factory=list) # stores to finish before anything is written
    seen: List[int] = field(default_factory=list)  # failed loads that the scheduler has dealt with
    idle: bool = False  # no model runs in this step


@dataclass
class Report:
    """Worker to scheduler; of several workers, their sum."""

    loaded: Dict[int, int] = field(default_factory=dict)  # serial: workers that are done with it
    stored: Dict[int, int] = field(default_factory=dict)
    there: Dict[int, int] = field(default_factory=dict)   # of a store: its first blocks that all have sealed
    failed: Dict[int, str] = field(default_factory=dict)  # loads that did not all come: whose

    def __bool__(self) -> bool:
        return bool(self.loaded or self.stored or self.failed)

    def add(self, other: "Report") -> "Report":
        for mine, theirs in ((self.loaded, other.loaded), (self.stored, other.stored)):
            for serial, workers in theirs.items():
                mine[serial] = mine.get(serial, 0) + workers
        for serial, blocks in other.there.items():
            self.there[serial] = min(blocks, self.there.get(serial, blocks))
        self.failed.update(other.failed)
        return self
