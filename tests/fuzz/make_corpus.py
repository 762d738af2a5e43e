#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds of the fuzz targets that speak to a server: corpus/TARGET/seed-NAME.

A seed is a life that goes well, in the records of its target (see fuzz_TARGET.c), so that a fuzzer
starts from where there is something to spoil.

usage: tests/fuzz/make_corpus.py
"""

import os

HERE = os.path.dirname(os.path.abspath(__file__))
HELLO, SPACE_OPEN, SPACE_CLOSE, GRANT_ACK = 1, 3, 5, 7
(NOP, ALLOC, FREE, SEAL, LOOKUP, RELEASE, LOAD, PREFETCH, STORE, PIN, UNPIN, HINT, GROW, SHRINK, RECLAIM,
 NS_OPEN, BUMP, CANCEL) = range(18)
WORDS = ("client kick tenant set delete epoch bump prefix lookup explain pin unpin evict top health --deep "
         "--by idle --count 3 0 1 default other new min=2M max=4M high=3M weight=7 uid=0 min=50% max=all "
         "--salt --space 7700000000 default/77 77 min=99T weight=0 leases hits device=host:0 --nope").split()
HASHES = len(WORDS) + 4  # first of the hashes in the table of fuzz_ctl.c


# ---- handshake: what, arg, then as the kind has it ----------------------------------------------

def sane(kind, peer=0, spoil=()):
    out = bytes([peer | 2 << 1, kind | len(spoil) << 4])
    for word, value in spoil:
        out += bytes([word]) + value.to_bytes(4, "little")
    return out


HANGUP = bytes([3 << 1, 0])
HANDSHAKE = {
    "life": sane(HELLO) + sane(SPACE_OPEN) + sane(SPACE_CLOSE) + HANGUP,
    "two": sane(HELLO) + sane(HELLO, 1) + sane(SPACE_OPEN, 1) + sane(SPACE_OPEN),
    "admin": sane(HELLO, 0, [(6, 2)]) + bytes([1 << 1, 9, 12]) + b"\1\0\0\0" + b"\1\0\0\0" + b"top\0",
    "versions": sane(HELLO, 0, [(4, 9), (5, 9)]) + sane(HELLO, 1, [(4, 0)]),
    "rings": sane(HELLO, 0, [(7, 4096), (8, 4096)]) + sane(HELLO, 1, [(7, 3)]),
    "twice": sane(HELLO) + sane(HELLO),
    "fds": bytes([0x80 | 2 << 1, HELLO]),
    "half": sane(HELLO) + bytes([3 << 1, 1]) + sane(SPACE_OPEN),
    "raw": bytes([0, 8]) + b"KVB1" + bytes(28),
    "geometry": sane(HELLO) + sane(SPACE_OPEN, 0, [(6, 32), (8, 64)]) + sane(SPACE_OPEN, 0, [(4, 2)]),
}


# ---- sqe: first byte the tenant of the second client, then records ------------------------------

def entry(op, n, operands=b"", peer=0, arg=0, more=False, spoil=b""):
    head = 0x80 if more else 0
    return bytes([head | peer, op, n - 1 if n else 0, 0x80 | len(spoil) // 2 if spoil else 0, arg,
                  0]) + operands + spoil


def names(first, n):
    return bytes(range(first, first + n))


def seals(first, n, key):
    return b"".join(bytes([first + i, key + i]) for i in range(n))


GRANTS = bytes([3 << 1])
SQE = {
    "life": b"\0" + entry(ALLOC, 4) + entry(SEAL, 4, seals(0, 4, 1), arg=1) + entry(LOOKUP, 4, names(1, 4))
            + entry(PIN, 4, names(0, 4)) + entry(UNPIN, 4, names(0, 4)) + entry(RELEASE, 4, names(0, 4))
            + entry(RELEASE, 4, names(0, 4)),
    "batch": b"\0" + entry(ALLOC, 4, more=True) + entry(ALLOC, 4, arg=1, more=True) + entry(NOP, 0)
             + entry(FREE, 4, names(0, 4), more=True) + entry(FREE, 4, names(0, 4)),
    "fence": b"\0" + entry(ALLOC, 2) + entry(FREE, 2, names(0, 2), arg=0x41) + entry(CANCEL, 0, arg=1)
             + bytes([4 << 1, 0x07, 1]),
    "shrink": b"\0" + entry(GROW, 2) + GRANTS + entry(ALLOC, 8) + entry(SHRINK, 1, peer=1)
              + entry(RECLAIM, 0, arg=1) + entry(RECLAIM, 0, peer=1, arg=1) + entry(BUMP, 0),
    "other": b"\1" + entry(ALLOC, 4) + entry(SEAL, 2, seals(0, 2, 9), arg=1)
             + entry(LOOKUP, 2, names(9, 2), peer=1) + entry(GROW, 3, peer=1) + bytes([0x8f]),
    "indices": b"\0" + bytes([4 << 1, 0, 9]) + entry(NOP, 0) + bytes([4 << 1 | 1, 1, 200]),
    "spoilt": b"\0" + entry(ALLOC, 4, spoil=bytes([8, 255])) + entry(18, 0) + entry(NOP, 0, spoil=b"\x3f\1"),
    "hints": b"\0" + entry(ALLOC, 2) + entry(SEAL, 2, seals(0, 2, 3), arg=1) + entry(HINT, 2, names(0, 2), arg=1)
             + entry(STORE, 2, names(0, 2)) + entry(LOAD, 2, names(3, 2)) + entry(NS_OPEN, 1),
}


# ---- ctl: flags, argc, arguments -------------------------------------------------------------------

def command(*argv, flags=0):
    return bytes([flags, len(argv)]) + bytes(WORDS.index(a) if a in WORDS else a for a in argv)


CTL = {
    "reads": command("prefix", "lookup", "77", HASHES, HASHES + 1) + command("prefix", "top", "77", "--count", "3")
             + command("prefix", "explain", "77", HASHES + 2) + command("health", "--deep"),
    "pins": command("prefix", "pin", "77", HASHES) + command("prefix", "evict", "77", HASHES)
            + command("prefix", "unpin", "77", HASHES) + command("prefix", "evict", "77", HASHES, HASHES + 1),
    "tenants": command("tenant", "set", "new", "min=2M", "max=4M", "weight=7", flags=1)
               + command("tenant", "set", "new", "min=50%") + command("tenant", "delete", "new")
               + command("tenant", "delete", "default"),
    "ends": command("epoch", "bump", "77") + command("client", "kick", "0") + command("client", "kick", "0"),
    "raw": bytes([0xf8, 30]) + bytes(30),
}


def main():
    for target, seeds in (("handshake", HANDSHAKE), ("sqe", SQE), ("ctl", CTL)):
        folder = os.path.join(HERE, "corpus", target)
        os.makedirs(folder, exist_ok=True)
        for name, data in seeds.items():
            with open(os.path.join(folder, "seed-" + name), "wb") as file:
                file.write(data)


main()
