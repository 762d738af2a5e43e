#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What Python costs on top of C: ALLOC and FREE in batches, by the binding and by the library alone.

usage: bench.py kvbrokerd=PATH broker-ctl=PATH floor=PATH [slices=N] [pairs=N] [batch=N] [json]

Both sides use one private daemon on host memory, in slices that alternate, so that what else the
machine does falls on both. Prints nanoseconds a page (of ALLOC and FREE together), the median of the
slices and the lowest tenth, which is what a slice takes that nobody disturbs; with `json` as one line.
Beside it, what a pair of calls takes that has no pages, and a chain hash of 16 tokens.
"""

import json
import statistics
import subprocess
import sys
import time

import broker
import kvbroker

PAGE_BYTES = 4096
OPTIONS = {"slices": 301, "pairs": 20, "batch": 64}


def options():
    given = broker.parse_programs()
    return given, {name: int(given.get(name, default)) for name, default in OPTIONS.items()}


class Floor:
    def __init__(self, program, daemon, batch):
        self.proc = subprocess.Popen([program, daemon.sock, str(PAGE_BYTES), "4096", str(batch)], text=True,
                                     stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if self.proc.stdout.readline() != "ready\n":
            raise SystemExit("bench: the C side did not start")

    def run_ns(self, pairs):
        self.proc.stdin.write("%d\n" % pairs)
        self.proc.stdin.flush()
        return int(self.proc.stdout.readline())

    def end(self):
        self.proc.stdin.close()
        self.proc.wait(10)


def run_python_ns(space, batch, pairs):
    alloc, free = space.alloc, space.free
    start_ns = time.perf_counter_ns()
    for _ in range(pairs):
        pages = alloc(batch)
        free(pages)
    return time.perf_counter_ns() - start_ns


def hash_ns():
    tokens = memoryview(bytes(4 * 8192)).cast("I")
    times = []
    for _ in range(21):
        start_ns = time.perf_counter_ns()
        kvbroker.chain_hashes(tokens, 16)
        times.append((time.perf_counter_ns() - start_ns) / 512)
    return statistics.median(times)


def empty_ns(space):
    times = []
    for _ in range(21):
        times.append(run_python_ns(space, 0, 1000) / 1000)
    return statistics.median(times)


def low(values):
    return sorted(values)[len(values) // 10]


def main():
    programs, o = options()
    daemon = broker.Broker(programs, args=())
    try:
        floor = Floor(programs["floor"], daemon, o["batch"])
        with kvbroker.Connection(daemon.sock) as conn:
            space = conn.space(PAGE_BYTES, tag=1)
            space.grow(4096)
            pages = o["pairs"] * o["batch"]
            floor.run_ns(o["pairs"])
            run_python_ns(space, o["batch"], o["pairs"])
            c, python = [], []
            for _ in range(o["slices"]):
                c.append(floor.run_ns(o["pairs"]) / pages)
                python.append(run_python_ns(space, o["batch"], o["pairs"]) / pages)
            empty = empty_ns(space)
        floor.end()
        result = {
            "bench": "python", "batch": o["batch"], "slices": o["slices"],
            "c_ns_per_page": round(statistics.median(c), 1),
            "python_ns_per_page": round(statistics.median(python), 1),
            "c_low_ns_per_page": round(low(c), 1),
            "python_low_ns_per_page": round(low(python), 1),
            "over_c_ns_per_page": round(low(python) - low(c), 1),
            "empty_pair_ns": round(empty, 1),
            "hash_ns_per_block": round(hash_ns(), 1),
        }
    finally:
        daemon.kill()
    if "json" in sys.argv[1:]:
        print(json.dumps(result))
        return
    print("ALLOC and FREE, batches of %(batch)d, %(slices)d slices each, ns by page:\n"
          "            median  lowest tenth\n"
          "  C       %(c_ns_per_page)8.1f      %(c_low_ns_per_page)8.1f\n"
          "  Python  %(python_ns_per_page)8.1f      %(python_low_ns_per_page)8.1f\n"
          "  more                  %(over_c_ns_per_page)8.1f\n"
          "a pair of calls without pages: %(empty_pair_ns).0f ns; a chain hash: %(hash_ns_per_block).0f ns" % result)


if __name__ == "__main__":
    main()
