# SPDX-License-Identifier: Apache-2.0
"""KV tensors as rows of bytes: a row is what one block has in one tensor.

Addresses come from the tensors' own strides. A tensor whose first dimension is the block, or counts
equal parts of it, and whose block is one dense run of bytes, has a row a block; what lies within the
block, and in which order, does not matter to a copy of whole blocks. Layers that share memory have
one row in common.

Rows are numpy arrays over the tensor's own memory: copies between them and the broker's pages are
memcpy, without the interpreter's lock.
"""

from typing import Any, Dict, List, Sequence

import numpy as np

from .settings import refuse


def _dense_bytes(tensor: Any, first: int) -> int:
    """Bytes of the dimensions from `first` on, when those are one dense run; else -1."""
    item = tensor.element_size()
    expected = 1
    dims = sorted(zip(tensor.stride()[first:], tensor.shape[first:]))
    for stride, size in dims:
        if size == 1:
            continue
        if stride != expected:
            return -1
        expected *= size
    return int(expected * item)


def rows_of(name: str, tensor: Any, blocks: int) -> Any:
    """An array (blocks, bytes) of uint8 over the tensor's memory. ValueError: it cannot be seen so."""
    import torch

    if tensor.device.type != "cpu":
        refuse("the KV cache of %s is on %s; this data path copies in the CPU's memory" % (name, tensor.device))
    if tensor.shape[0] % blocks:
        refuse("the KV cache of %s has shape %s, which does not begin with its %d blocks"
               % (name, tuple(tensor.shape), blocks))
    parts = tensor.shape[0] // blocks
    bytes_ = _dense_bytes(tensor, 1)
    stride = tensor.stride(0) * tensor.element_size()
    if bytes_ < 0 or (parts > 1 and stride != bytes_):
        refuse("a block of %s is not one run of bytes: shape %s, strides %s"
               % (name, tuple(tensor.shape), tensor.stride()))
    storage = tensor.untyped_storage()
    flat = torch.empty(0, dtype=torch.uint8).set_(storage, 0, (storage.nbytes(),), (1,)).numpy()
    start = tensor.data_ptr() - storage.data_ptr()
    return np.lib.stride_tricks.as_strided(flat[start:], (blocks, parts * bytes_), (parts * stride, 1))


def all_rows(tensors: Dict[str, Any], order: Sequence[str], blocks: int) -> List[Any]:
    """Rows of all layers in the order given, those that share memory once."""
    rows, seen = [], set()
    for name in order:
        tensor = tensors[name]
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            rows.append(rows_of(name, tensor, blocks))
    return rows


def runs(a: Sequence[int], b: Sequence[int]) -> List[Any]:
    """Pieces (start in a, start in b, length) in which both go up by one: one copy each."""
    pieces: List[Any] = []
    for x, y in zip(a, b):
        if pieces and x == pieces[-1][0] + pieces[-1][2] and y == pieces[-1][1] + pieces[-1][2]:
            pieces[-1][2] += 1
        else:
            pieces.append([x, y, 1])
    return pieces


class Copier:
    """Copies between blocks of the engine and pages of a session."""

    def __init__(self, rows: List[Any]) -> None:
        self._rows = rows
        self.block_bytes = sum(r.shape[1] for r in rows)

    @staticmethod
    def pages_of(space: Any) -> Any:
        """All page ids of a space as an array (pages, bytes). Only what is leased or held may be
        touched: the rest may not be mapped."""
        return np.frombuffer(space.region(), np.uint8).reshape(-1, space.stride)

    def load(self, pages: Any, ids: Sequence[int], blocks: Sequence[int]) -> None:
        for page, block, n in runs(ids, blocks):
            at = 0
            for row in self._rows:
                row[block:block + n] = pages[page:page + n, at:at + row.shape[1]]
                at += row.shape[1]

    def store(self, pages: Any, ids: Sequence[int], blocks: Sequence[int]) -> None:
        for page, block, n in runs(ids, blocks):
            at = 0
            for row in self._rows:
                pages[page:page + n, at:at + row.shape[1]] = row[block:block + n]
                at += row.shape[1]
