#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kvb-replay --sim against an exact LRU, against two exclusive tiers of it, and against traces that are wrong.

The LRU here knows nothing of the core: an ordered dictionary, least recently released first. Both must agree to the
last hit and the last eviction on the demo trace and on random traces, at capacities around every edge there is.

Two tiers are two such dictionaries, a page in one of them; what leaves the device goes below as the most recent there.
The core is not exactly that: of the pages that go next it keeps copies below, at most an eighth of the device, which
so long are in both tiers. So its hits lie between those of a host tier that is smaller by so much, and the exact ones.

usage: test_sim.py KVB-REPLAY DEMO-TRACE
"""
import json
import random
import subprocess
import sys
import tempfile
from collections import OrderedDict

REPLAY, DEMO = sys.argv[1:3]


def exact_lru(requests, capacity):
    cache, blocks, hits, evictions, each = OrderedDict(), 0, 0, 0, []
    for ids in requests:
        ids = list(dict.fromkeys(ids))
        run = next((i for i, b in enumerate(ids) if b not in cache), len(ids))
        ours = {b for b in ids if b in cache}
        for b in ids:
            if b in ours:
                continue
            if len(cache) == capacity:
                victim = next((k for k in cache if k not in ours), None)
                if victim is None:
                    continue
                del cache[victim]
                evictions += 1
            cache[b] = None
            ours.add(b)
        for b in reversed([b for b in ids if b in ours]):
            cache.move_to_end(b)
        blocks += len(ids)
        hits += run
        each.append(run)
    return {"requests": len(requests), "blocks": blocks, "hit_blocks": hits, "evictions": evictions}, each


def two_tiers(requests, device_pages, host_pages):
    """Hits found on the device, and in the tier below."""
    device, host, hits = OrderedDict(), OrderedDict(), [0, 0]

    def make_room(ours):
        if len(device) < device_pages:
            return True
        victim = next((b for b in device if b not in ours), None)
        if victim is None:
            return False
        del device[victim]
        if len(host) == host_pages:
            host.popitem(last=False)
        host[victim] = None
        return True

    for ids in requests:
        ids = list(dict.fromkeys(ids))
        run = next((i for i, b in enumerate(ids) if b not in device and b not in host), len(ids))
        lead = next((i for i, b in enumerate(ids[:run]) if b not in device), run)
        below, ours, end = {b for b in ids[:run] if b in host}, set(ids[:lead]), lead
        for b in ids[lead:run]:
            if b not in device:
                if b not in host:  # went while the run's beginning came up
                    break
                del host[b]
                if not make_room(ours):
                    host[b] = None
                    break
                device[b] = None
            ours.add(b)
            end += 1
        hits[1] += sum(b in below for b in ids[:end])
        hits[0] += end - sum(b in below for b in ids[:end])
        ours |= {b for b in ids[end:] if b in device}
        for b in ids[end:]:
            if b not in ours and make_room(ours):
                host.pop(b, None)
                device[b] = None
                ours.add(b)
        for b in reversed([b for b in ids if b in ours]):
            device.move_to_end(b)
    return hits


def run(trace, *args):
    return subprocess.run([REPLAY, "--sim", "--trace", trace, *args], capture_output=True, text=True, check=False)


def compare(trace, requests, capacity, each_file):
    done = run(trace, "--capacity-pages", str(capacity), "--verify", "--json", "--per-request", each_file)
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout.splitlines()[-1])
    want, each = exact_lru(requests, capacity)
    assert {k: got[k] for k in want} == want, (trace, capacity, got, want)
    assert got["corrupt"] == 0 and got["pages_verified"] >= got["hit_blocks"], got
    assert [int(x) for x in open(each_file).read().split()] == each, (trace, capacity)


def compare_tiers(trace, requests, device_pages, host_pages):
    done = run(trace, "--tiers", f"{device_pages},{host_pages}", "--verify", "--json")
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout.splitlines()[-1])
    exact = two_tiers(requests, device_pages, host_pages)
    least = sum(two_tiers(requests, device_pages, max(host_pages - device_pages // 8, 1)))
    assert got["hit_blocks"] == got["hit_blocks_device"] + got["hit_blocks_host"], got
    assert got["corrupt"] == 0 and got["pages_verified"] >= got["hit_blocks"], got
    assert (got["capacity_pages"], got["host_pages"]) == (device_pages, host_pages), got
    print(f"{device_pages},{host_pages}: {got['hit_blocks']} hits, exact {sum(exact)}; "
          f"on the device {got['hit_blocks_device']}, exact {exact[0]}")
    assert 0.98 * least <= got["hit_blocks"] <= 1.005 * sum(exact), (got, exact, least)
    assert 0.98 * exact[0] <= got["hit_blocks_device"] <= 1.02 * exact[0], (got, exact)


def refused(trace, args, text):
    done = run(trace, *args)
    assert done.returncode == 2 and done.stdout == "" and text in done.stderr, (args, done)


def random_trace(rng):
    top = rng.choice([5, 30, 200, 2000])
    base = rng.choice([0, 2**63 - top // 2])
    requests, text = [], ""
    for i in range(rng.randint(1, 200)):
        n = rng.choice([0, 1, rng.randint(0, 80)])
        ids = [base + (k if i % 3 == 0 else rng.randrange(top)) for k in range(n)]
        requests.append(ids)
        text += json.dumps({"timestamp": i / 2, "hash_ids": ids, "more": [{"x": None}]}) + rng.choice(["\n", "\r\n", "\n \n"])
    return requests, text


WRONG = [
    ('{"hash_ids": [1, -2]}', "negative block id"),
    ('{"hash_ids": [18446744073709551616]}', "64 bits"),
    ('{"hash_ids": [1.5]}', "not an integer"),
    ('{"hash_ids": ["a"]}', "expected a block id"),
    ('{"hash_ids": [1, 2', "the end of the line"),
    ('{"hash_ids": [1]} x', "more text"),
    ('{"hash_ids": [1], "hash_ids": [1]}', "twice"),
    ('{"timestamp": "soon", "hash_ids": []}', "expected a number"),
    ('{"timestamp": -1, "hash_ids": []}', "timestamp"),
    ('{"timestamp": 1}', "without hash_ids"),
    ("[1, 2]", "to begin a request"),
    ("hello", "to begin a request"),
    ('{"hash_ids": [' + "1," * 70000 + "1]}", "more than 65536"),
    ('{"deep": ' + "[" * 100, "deep"),
    ('{"s": "' + "x" * (17 << 20) + '"}', "longer than 16 MiB"),
]

with tempfile.TemporaryDirectory() as folder:
    path, each_file = folder + "/trace.jsonl", folder + "/each"
    demo = [json.loads(line)["hash_ids"] for line in open(DEMO)]
    for capacity in (1, 63, 64, 65, 300, 1827, 5000, 40000):
        compare(DEMO, demo, capacity, each_file)
    for device_pages, host_pages in ((1, 1), (100, 64), (100, 65), (300, 1000), (914, 7312), (1000, 7001), (2048, 2048), (4000, 40000)):
        compare_tiers(DEMO, demo, device_pages, host_pages)
    same = run(DEMO, "--capacity-pages", "300", "--tiers", "300,1000", "--json")
    assert same.returncode == 0, same.stderr
    refused(DEMO, ("--capacity-pages", "301", "--tiers", "300,1000"), "two sizes")
    refused(DEMO, ("--tiers", "300"), "not '300'")
    refused(DEMO, ("--tiers", "300,"), "takes a number")
    refused(DEMO, ("--tiers", "300,0"), "takes a number")
    refused(DEMO, ("--tiers", "300,1000,1000"), "no store")
    refused(DEMO, ("--tiers", "1,2,3,4"), "not '1,2,3,4'")
    refused(DEMO, (), "--tiers D,H")
    seed = random.randrange(1 << 32)
    print("random traces from seed", seed)
    rng = random.Random(seed)
    for _ in range(30):
        requests, text = random_trace(rng)
        with open(path, "w", newline="") as f:
            f.write(text)
        for capacity in (1, 3, 17, 64, 129, 500):
            compare(path, requests, capacity, each_file)
    with open(path, "w") as f:
        f.write('{"hash_ids": []}\n' * 3)
    compare(path, [[], [], []], 64, each_file)
    for line, why in WRONG:
        with open(path, "w") as f:
            f.write('{"hash_ids": [1]}\n\n' + line + "\n")
        done = run(path, "--capacity-pages", "10")
        assert done.returncode == 2 and done.stdout == "", (line[:60], done)
        assert done.stderr.startswith(f"kvb-replay: {path}:3: ") and why in done.stderr, (line[:60], done.stderr)
    done = run(folder + "/none", "--capacity-pages", "10")
    assert done.returncode == 2 and "No such file" in done.stderr, done
