# SPDX-License-Identifier: Apache-2.0
"""Counters of one half, since they were last taken."""

from typing import Dict, Optional, Union

Number = Union[int, float]

# Each is a sum, so that those of several workers and several intervals can be added.
NAMES = {
    "lookups": "Requests whose blocks were looked up in the broker",
    "asked_blocks": "Blocks that were looked up",
    "found_blocks": "Blocks that the broker had",
    "older_blocks": "Of these, blocks that earlier weights have computed (on_new_weights keep)",
    "loaded_blocks": "Blocks copied from the broker to the engine",
    "load_seconds": "Time those copies took, of one worker each",
    "failed_loads": "Loads that did not all come, and were computed",
    "stored_blocks": "Blocks copied from the engine to the broker",
    "known_blocks": "Blocks to be stored that the broker had already",
    "refused_blocks": "Blocks to be stored for which there was no room, or no broker",
    "store_seconds": "Time storing took, of one worker each",
}


class Figures:
    def __init__(self) -> None:
        self._sums: Dict[str, Number] = {}

    def add(self, **sums: Number) -> None:
        """By one thread, or with the worker's lock held."""
        for name, n in sums.items():
            self._sums[name] = self._sums.get(name, 0) + n

    def take(self) -> Optional[Dict[str, Number]]:
        """What came since the last time; None when nothing did."""
        if not self._sums:
            return None
        sums, self._sums = self._sums, {}
        return sums
