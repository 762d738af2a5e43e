#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kvb-replay --sim against an exact LRU, against two exclusive tiers of it, and against traces that are wrong.

The LRU here knows nothing of the core: an ordered dictionary, least recently released first. Both must agree to the
last hit and the last eviction on the demo trace and on random traces, at capacities around every edge there is.

Two tiers are two such dictionaries, a page in one of them; what leaves the device goes below as the most recent there.
The core is not exactly that: of the pages that go next it keeps copies below, at most an eighth of the device, which
so long are in both tiers. So its hits lie between those of a host tier that is smaller by so much, and the exact ones.

With a store that never has to make room all that was ever filled is found, whatever the sizes of what is above: the
hits are those of an LRU without limits. One that makes room is compared with a dictionary in the order of age whose
oldest goes, or is carried to the end if it was read, a quarter of each segment at most.

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


class Store:
    """Keys in the order of age; who was read has a second chance."""

    def __init__(self, pages):
        self.pages, self.read, self.order = pages, set(), OrderedDict()
        self.segment, self.looked, self.carried = max(pages // 16, 4), 0, 0
        self.writes = self.carried_all = 0

    def oldest_may_stay(self, key):
        if self.looked == self.segment:
            self.looked = self.carried = 0
        self.looked += 1
        if key not in self.read or self.carried == self.segment // 4:
            return False
        self.carried += 1
        self.carried_all += 1
        self.read.discard(key)
        return True

    def put(self, key):
        if key in self.order:
            return
        while len(self.order) == self.pages:
            oldest = next(iter(self.order))
            if self.oldest_may_stay(oldest):
                self.order.move_to_end(oldest)
            else:
                del self.order[oldest]
                self.read.discard(oldest)
        self.order[key] = None
        self.writes += 1


def device_and_store(requests, device_pages, store_pages):
    """Hits found on the device, and in the store; what it was written."""
    device, store, hits = OrderedDict(), Store(store_pages), [0, 0]

    def take(block, ours):
        if len(device) == device_pages:
            victim = next((b for b in device if b not in ours), None)
            if victim is None:
                return False
            del device[victim]
            store.put(victim)
        device[block] = None
        ours.add(block)
        return True

    for ids in requests:
        ids = list(dict.fromkeys(ids))
        ours, end = set(), 0
        for b in ids:
            if b in device:
                ours.add(b)
                hits[0] += 1
            elif b in store.order:
                store.read.add(b)
                hits[1] += 1
                if not take(b, ours):
                    break
            else:
                break
            end += 1
        ours |= {b for b in ids[end:] if b in device}
        for b in ids[end:]:
            if b not in ours:
                take(b, ours)
        for b in reversed([b for b in ids if b in ours]):
            device.move_to_end(b)
    return hits, store


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


def sim_store(trace, tiers, admit):
    done = run(trace, "--tiers", ",".join(map(str, tiers)), "--store-admit", admit, "--verify", "--json")
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout.splitlines()[-1])
    assert got["hit_blocks"] == got["hit_blocks_device"] + got["hit_blocks_host"] + got["hit_blocks_store"], got
    assert got["corrupt"] == 0 and got["pages_verified"] >= got["hit_blocks"], got
    assert (got["capacity_pages"], got["host_pages"], got["store_pages"]) == tiers, got
    return got


def never_makes_room(trace, requests, above):
    """Every block is found that was ever filled, and written once."""
    blocks = len({b for ids in requests for b in ids})
    want, _ = exact_lru(requests, blocks + 1)
    got = sim_store(trace, (*above, blocks + 1), "all")
    assert (got["hit_blocks"], got["refused"], got["store_carried"]) == (want["hit_blocks"], 0, 0), (above, got, want)
    assert max(blocks - sum(above), 0) <= got["store_writes"] <= blocks, (above, got, blocks)


def makes_room(trace, requests, device_pages, store_pages):
    """What goes next is written ahead of need, so that the store is smaller by so much for what follows."""
    got = sim_store(trace, (device_pages, 0, store_pages), "all")
    hits, store = device_and_store(requests, device_pages, store_pages)
    least, _ = device_and_store(requests, device_pages, store_pages - device_pages // 8)
    print(f"{device_pages},0,{store_pages}: {got['hit_blocks_device']} + {got['hit_blocks_store']} hits, exact "
          f"{hits[0]} + {hits[1]}; {got['store_writes']} + {got['store_carried']} written, exact {store.writes} + "
          f"{store.carried_all}")
    assert 0.98 * sum(least) <= got["hit_blocks"] <= 1.01 * sum(hits), (got, hits, least)
    for mine, exact in ((got["hit_blocks_device"], hits[0]), (got["store_writes"], store.writes),
                        (got["store_carried"], store.carried_all)):
        assert abs(mine - exact) <= max(0.03 * exact, 100), (got, hits, store.writes, store.carried_all)


def admission(trace, tiers):
    """It turns most away, and finds nothing that is not there."""
    every, chosen = sim_store(trace, tiers, "all"), sim_store(trace, tiers, "filter")
    print(f"{tiers}: {every['store_writes']} written and {every['hit_blocks']} hits, chosen {chosen['store_writes']} and "
          f"{chosen['hit_blocks']}")
    assert every["store_unwanted"] == 0 and chosen["store_unwanted"] > 0, (every, chosen)
    assert chosen["store_writes"] < 0.4 * every["store_writes"], (every, chosen)
    assert 1.5 * every["hit_blocks_device"] < chosen["hit_blocks"] < every["hit_blocks"], (every, chosen)


def store_matters(trace, requests):
    for above in ((241, 0), (1000, 0), (300, 150), (1000, 2000), (2000, 2000)):
        never_makes_room(trace, requests, above)
    hits = [sim_store(trace, (1000, 0, pages), "all")["hit_blocks"]
            for pages in (150, 500, 1000, 3000, 10000, 20000, 40000, 68000)]
    assert hits == sorted(hits) and hits[0] * 7 < hits[-1], hits
    for device_pages, store_pages in ((1000, 1000), (1000, 5000), (1000, 20000), (300, 20000), (4000, 40000)):
        makes_room(trace, requests, device_pages, store_pages)
    for tiers in ((1000, 0, 5000), (1000, 0, 70000), (1000, 2000, 20000)):
        admission(trace, tiers)
    text = run(trace, "--tiers", "1000,0,20000")
    assert text.returncode == 0 and "pages to the store" in text.stdout, text


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
    store_matters(DEMO, demo)
    same = run(DEMO, "--capacity-pages", "300", "--tiers", "300,1000", "--json")
    assert same.returncode == 0, same.stderr
    refused(DEMO, ("--capacity-pages", "301", "--tiers", "300,1000"), "two sizes")
    refused(DEMO, ("--tiers", "300"), "not '300'")
    refused(DEMO, ("--tiers", "300,"), "takes a number")
    refused(DEMO, ("--tiers", "300,0"), "takes a number")
    refused(DEMO, ("--tiers", "300,0,0"), "takes a number")
    refused(DEMO, ("--tiers", "300,1000,0"), "takes a number")
    refused(DEMO, ("--tiers", "0,1000,1000"), "takes a number")
    refused(DEMO, ("--tiers", "300,,1000"), "takes a number")
    refused(DEMO, ("--tiers", "300,0,much"), "takes a number")
    refused(DEMO, ("--tiers", "300,1000", "--store-admit", "all"), "no store")
    refused(DEMO, ("--capacity-pages", "300", "--store-admit", "filter"), "no store")
    refused(DEMO, ("--tiers", "300,0,1000", "--store-admit", "some"), "all or filter")
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
        most = max(len(set(ids)) for ids in requests)
        for above in ((max(most, 1), 0), (most + 17, 0), (most + 17, most + 40)):
            never_makes_room(path, requests, above)
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
