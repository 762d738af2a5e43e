# SPDX-License-Identifier: Apache-2.0
"""Keys: chain hashes of blocks of tokens, and the digest of an identity.

A block's hash is BLAKE2b, 16 bytes, over its parent's hash and its own tokens, so equal hashes mean
equal blocks and equal all before them. Fields of an identity go in typed and with their length, so
that no two identities are the same string.
"""

import sys
from array import array
from hashlib import blake2b
from typing import Any, Iterable, Mapping, Union

HASH_BYTES = 16
ROOT = blake2b(b"kvbroker chain 1", digest_size=HASH_BYTES).digest()

Tokens = Union[Iterable[int], "array[int]", memoryview, bytes]


def _token_bytes(tokens: Any) -> memoryview:
    """Tokens as little-endian 32-bit integers, without a copy where they are that."""
    try:
        view = memoryview(tokens)
    except TypeError:
        view = memoryview(array("I", tokens))
    if view.itemsize != 4 or (view.format or "").lstrip("@=<") not in ("I", "i", "L", "l"):
        raise TypeError("tokens are a sequence of ints, or a buffer of 32-bit integers, not of format %r"
                        % view.format)
    if sys.byteorder == "big":
        swapped = array("I", view.tobytes())
        swapped.byteswap()
        view = memoryview(swapped)
    return view.cast("B") if view.c_contiguous else memoryview(view.tobytes())


def chain_hashes(tokens: Tokens, block_tokens: int, *, parent: bytes = ROOT, extra: bytes = b"") -> bytes:
    """Hashes of the full blocks of a sequence: 16 bytes each, in order.

    tokens: ints, or a buffer of 32-bit integers. block_tokens: tokens of a block; what is left over
    at the end has no hash. parent: hash of the block before the first, to go on with a chain. extra:
    what else the first block's bytes depend on (images, a prompt's embeddings); b"" = nothing.
    """
    if block_tokens < 1:
        raise ValueError("a block has 1 or more tokens, not %d" % block_tokens)
    if len(parent) != HASH_BYTES:
        raise ValueError("a parent's hash has %d bytes, not %d" % (HASH_BYTES, len(parent)))
    data = _token_bytes(tokens)
    step = 4 * block_tokens
    if extra:
        parent = blake2b(parent + extra, digest_size=HASH_BYTES, person=b"kvbroker extra").digest()
    out = []
    for at in range(0, len(data) - step + 1, step):
        parent = blake2b(parent + data[at:at + step], digest_size=HASH_BYTES).digest()
        out.append(parent)
    return b"".join(out)


def _encode(value: Any) -> bytes:
    if value is None:
        kind, data = b"n", b""
    elif isinstance(value, bool):
        kind, data = b"b", bytes([value])
    elif isinstance(value, int):
        kind, data = b"i", str(value).encode()
    elif isinstance(value, float):
        kind, data = b"f", value.hex().encode()
    elif isinstance(value, str):
        kind, data = b"s", value.encode()
    elif isinstance(value, (bytes, bytearray, memoryview)):
        kind, data = b"y", bytes(value)
    elif isinstance(value, Mapping):
        kind = b"m"
        data = b"".join(_encode(str(k)) + _encode(value[k]) for k in sorted(value, key=str))
    elif isinstance(value, (list, tuple)):
        kind, data = b"l", b"".join(map(_encode, value))
    else:
        raise TypeError("an identity is made of numbers, strings, bytes, lists and mappings, not %s"
                        % type(value).__name__)
    return kind + len(data).to_bytes(8, "little") + data


def identity_digest(**fields: Any) -> bytes:
    """32 bytes for Connection.namespace(): a digest of all that the cached bytes depend on.

        identity_digest(weights=sha256, config=config, kv_dtype="bfloat16", block_tokens=16, tp=2)

    The order of the fields does not matter, their names, types and values do. Name what makes bytes
    differ (weights by content, tokenizer, KV dtype, layout, adapter by content), not what things are
    called.
    """
    if not fields:
        raise ValueError("an identity of nothing would be everybody's")
    return blake2b(_encode(fields), digest_size=32, person=b"kvbroker ns").digest()
