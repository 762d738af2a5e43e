#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Real vLLM on the broker: whatever becomes of the cache, the tokens are the same.

usage: test_vllm.py kvbrokerd=PATH broker-ctl=PATH

Greedy tokens of conversations of several turns, by a tiny Llama with weights that make a wrong page
show (tiny_model.py), from engines of their own: without the broker, filling it, finding what another
process has filled, with the broker killed before and during. For each thing that must not change the
tokens there is one that must: pages under each other's keys.

In float32: with bfloat16 vLLM's own tokens depend on how a prompt was split into steps, cache or not.

Engines take half a minute to start, so cases share them, in the order in which they stand.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import threading

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "fault"))
sys.path.insert(0, HERE)

import broker  # noqa: E402
import kvbroker  # noqa: E402
import tiny_model  # noqa: E402
from driven import BLOCK, START_S, Engine, Events, conversations, environment, same, talk  # noqa: E402

EXAMPLE = os.path.join(HERE, "..", "..", "..", "docs", "examples", "vllm_integration.py")
FIGURES = ("cache_hits", "cache_misses", "important_prompts")
TENANTS = ("--tenant", "default,uid=%d" % os.getuid())


class State:
    """What cases hand on."""

    def __init__(self, programs):
        self.programs = programs
        self.dir = tempfile.mkdtemp(prefix="kvb-engines-")
        self.model = os.path.join(self.dir, "model")
        tiny_model.write(self.model)
        self.daemon = None
        self.engine = None
        self.want = None

    def start_broker(self, where=None):
        self.daemon = broker.Broker(self.programs, args=TENANTS, size="256M", where=where)

    def kill_broker(self):
        """kill -9; its folder stays, for the next one at the same place."""
        self.daemon.proc.kill()
        self.daemon.proc.wait()

    def new_engine(self, model=None, **more):
        if self.engine:
            self.engine.kill()
        self.engine = None
        self.engine = Engine(model or self.model, self.daemon.sock if self.daemon else None, **more)
        return self.engine

    def close(self):
        if self.engine:
            self.engine.kill()
        if self.daemon:
            self.daemon.kill()
        shutil.rmtree(self.dir, ignore_errors=True)


CASES = []


def case(name):
    def add(function):
        CASES.append((name, function))
        return function
    return add


def swap_pages(daemon):
    """Every page that was ever written gets what the next one holds. Members of a space may do that:
    they trust each other with contents."""
    c = tiny_model.config(256, 4)
    stride = 4 * BLOCK * 2 * c["num_key_value_heads"] * c["head_dim"] * c["num_hidden_layers"]
    with kvbroker.Connection(daemon.sock) as conn:
        space = conn.space(stride)
        broker.wait_until(lambda: conn.poll() or space.slabs, "no memory of the space comes")
        contents = {}
        for page in range(space.slots * space.pages_per_slab):
            try:
                contents[page] = space.read(page)
            except kvbroker.NotFoundError:
                continue
        used = [page for page, data in contents.items() if any(data[:4096])]
        for page, other in zip(used, used[1:] + used[:1]):
            space.write(page, contents[other])
        return len(used)


# ---- the cases ---------------------------------------------------------------------------------


@case("tokens without the broker do not depend on the engine's own cache")
def without(state):
    engine = state.new_engine()
    print("# vllm %s" % engine.version, flush=True)
    state.want, cached = talk(engine)
    assert cached > 0
    again, cached = talk(engine, between=engine.forget)
    assert cached == 0
    same(again, state.want, "without any cache")
    assert len({tuple(a) for a in state.want}) == len(state.want), "the model says the same whatever it is asked"


@case("no broker at its socket: the engine serves, and says so")
def absent(state):
    state.engine.kill()
    state.engine = Engine(state.model, os.path.join(state.dir, "nobody"))
    got, _ = talk(state.engine)
    same(got, state.want, "without a broker")
    assert "no cache for now" in state.engine.text()


@case("cold: the first engine fills the broker, later turns find earlier ones")
def cold(state):
    state.start_broker()
    got, cached = talk(state.new_engine())
    same(got, state.want, "cold")
    assert cached > 0
    figures = state.engine.figures()
    assert figures["stored_blocks"] > 10 and figures["refused_blocks"] == 0, figures
    return "%d blocks stored" % figures["stored_blocks"]


@case("warm: with its own cache dropped before each request, it finds all in the broker")
def warm(state):
    got, cached = talk(state.engine, between=state.engine.forget)
    same(got, state.want, "warm")
    figures = state.engine.figures()
    assert figures["loaded_blocks"] >= cached // BLOCK > 20 and figures["failed_loads"] == 0, figures
    return "%d blocks loaded" % figures["loaded_blocks"]


@case("another process warm: a second engine computes no block of a prompt that the first had")
def another(state):
    engine = state.new_engine()
    first, _ = conversations()[0]
    out = engine.ask(prompts=[first], max_tokens=24)
    assert out["cached"][0] == len(first) // BLOCK * BLOCK - (len(first) % BLOCK == 0), (out["cached"], len(first))
    engine.forget()
    got, cached = talk(engine, between=engine.forget)
    same(got, state.want, "another process")
    figures = engine.figures()
    assert figures["failed_loads"] == 0 and figures["found_blocks"] == figures["asked_blocks"], figures
    return "%d of %d blocks found" % (figures["found_blocks"], figures["asked_blocks"])


@case("several requests at once, whose loads go on beside each other")
def together(state):
    engine = state.engine
    prompts = [first for first, _ in conversations()]
    want = [engine.ask(prompts=[p], max_tokens=24)["tokens"][0] for p in prompts]
    engine.forget()
    before = engine.figures()["loaded_blocks"]
    same(engine.ask(prompts=prompts, max_tokens=24)["tokens"], want, "at once")
    assert engine.figures()["loaded_blocks"] > before


@case("other salts and other weights find nothing")
def apart(state):
    engine = state.engine
    first, _ = conversations()[0]
    engine.forget()
    assert engine.ask(prompts=[first], max_tokens=1, salt="x")["cached"] == [0]
    engine.find(prompts=[first], max_tokens=1, salt="x")
    other = os.path.join(state.dir, "other")
    tiny_model.write(other, seed=2)
    out = state.new_engine(model=other).ask(prompts=[first], max_tokens=24)
    assert out["cached"] == [0] and out["tokens"][0] != state.want[0], out


@case("adapters of one name and other content never meet, nor does the model without one")
def adapters(state):
    folders = [os.path.join(state.dir, "adapter%d" % i) for i in (1, 2)]
    for i, folder in enumerate(folders):
        tiny_model.write_adapter(folder, state.model, 100 + i)
    prompt = conversations()[1][0]
    want = []
    for folder in folders:
        engine = state.new_engine(enable_lora=True, max_lora_rank=8)
        order = {"prompts": [prompt], "max_tokens": 24, "lora": ["same", 1, folder]}
        first = engine.ask(**order)
        assert first["cached"] == [0], first
        again = engine.find(**order)
        assert again["tokens"] == first["tokens"], (first, again)
        want.append(first["tokens"])
    assert want[0] != want[1] and state.want[3] not in (want[0][0], want[1][0])
    engine.forget()
    plain = engine.ask(prompts=[prompt], max_tokens=24)
    same(plain["tokens"], [state.want[3]], "without an adapter")


@case("reset with the connector: what was computed before is found no more")
def reset(state):
    engine = state.new_engine()
    first, _ = conversations()[0]
    assert engine.ask(prompts=[first], max_tokens=1)["cached"][0] > 0
    assert engine.ask(call="reset_prefix_cache", args={"reset_connector": True})["result"] is True
    assert engine.ask(prompts=[first], max_tokens=1)["cached"] == [0]
    engine.find(prompts=[first], max_tokens=1)
    assert engine.ask(call="reset_prefix_cache", args={"reset_connector": True})["result"] is True
    assert engine.ask(prompts=[first], max_tokens=1)["cached"] == [0]


def answers(engine):
    """First answers of all conversations, one after the other: tokens, and how many found something."""
    out = [engine.ask(prompts=[first], max_tokens=24) for first, _ in conversations()]
    return [o["tokens"][0] for o in out], sum(bool(o["cached"][0]) for o in out)


def reload_weights(engine, model):
    engine.ask(call="collective_rpc", args={"method": "reload_weights", "kwargs": {"weights_path": model}})


def two_models(state):
    """A second model's folder, and what both answer without any cache."""
    other = os.path.join(state.dir, "other")
    tiny_model.write(other, seed=2)
    daemon, state.daemon = state.daemon, None
    want = [answers(state.new_engine(model=model))[0] for model in (state.model, other)]
    state.daemon = daemon
    return other, want


@case("weights reloaded in place: stock vLLM answers from the old ones' blocks, until it is reset; our worker does not")
def weights(state):
    other, (want, want_other) = two_models(state)
    assert all(a != b for a, b in zip(want, want_other))
    stock = state.new_engine()
    same(answers(stock)[0], want, "before")
    reload_weights(stock, other)
    stale, cached = answers(stock)
    assert cached == len(want) and all(a != b for a, b in zip(stale, want_other)), "the control: no wrong hit shows"
    assert stock.ask(call="reset_prefix_cache", args={"reset_connector": True})["result"] is True
    got, _ = answers(stock)
    same(got, want_other, "after the reset")

    engine = state.new_engine(worker_cls="kvbroker.vllm.Worker")
    same(answers(engine)[0], want, "our worker, before")
    reload_weights(engine, other)
    got, _ = answers(engine)
    same(got, want_other, "new weights")
    for first, _ in conversations():
        engine.find(prompts=[first], max_tokens=1)
    engine.forget()
    got, cached = answers(engine)
    same(got, want_other, "new weights, warm")
    assert cached == len(want)
    reload_weights(engine, state.model)
    got, cached = answers(engine)
    same(got, want, "the first weights again")
    assert cached == len(want), "what they had computed is not found again"
    engine.ask(call="collective_rpc", args={"method": "kvbroker_new_weights", "kwargs": {"weights_id": "step 1"}})
    assert engine.ask(prompts=[conversations()[0][0]], max_tokens=1)["cached"] == [0]

    fresh = state.new_engine(model=other)
    got, cached = answers(fresh)
    same(got, want_other, "an engine that was started with the new weights")
    assert cached == len(want), "it does not find what was computed after a reload"


@case("sleep: an engine that wakes starts anew, and comes back to what it shares when it is told that it may")
def sleep(state):
    engine = state.new_engine(worker_cls="kvbroker.vllm.Worker")
    prompt = conversations()[0][0]
    want = engine.find(prompts=[prompt], max_tokens=24)["tokens"]
    for level in (1, 2):
        engine.ask(call="sleep", args={"level": level})
        engine.ask(call="wake_up")
        out = engine.ask(prompts=[prompt], max_tokens=24)
        assert out["cached"] == [0] and out["tokens"] == want, (level, out)
    engine.ask(call="sleep", args={"level": 1})
    engine.ask(call="wake_up")
    engine.ask(call="collective_rpc", args={"method": "reload_weights"})
    out = engine.ask(prompts=[prompt], max_tokens=24)
    assert out["cached"][0] > 0 and out["tokens"] == want, out
    engine.ask(call="sleep", args={"level": 1})
    engine.ask(call="wake_up")
    engine.ask(call="collective_rpc", args={"method": "kvbroker_same_weights"})
    out = engine.ask(prompts=[prompt], max_tokens=24)
    assert out["cached"][0] > 0 and out["tokens"] == want, out


@case("KV events: what the broker has is told by the hashes that vLLM tells of its own memory")
def events(state):
    events = Events(os.path.join(state.dir, "events"))
    first, _ = conversations(seed=12)[0]
    engine = state.new_engine(kv_events_config=events.config)
    blocks = len(first) // BLOCK
    engine.ask(prompts=[first], max_tokens=1)
    own = events.heard("BlockStored", "GPU", lambda h: len(h) >= blocks)
    # What was stored is told in the step after.
    engine.ask(prompts=[[5, 6, 7]], max_tokens=8)
    stored = events.heard("BlockStored", "CPU", lambda h: len(h) >= blocks)
    assert stored == own[:blocks], (stored, own)
    assert engine.ask(call="reset_prefix_cache", args={"reset_connector": True})["result"] is True
    engine.ask(prompts=[[5, 6, 7]], max_tokens=2)
    assert set(events.heard("BlockRemoved", "CPU", lambda h: len(h) >= blocks)) == set(stored)
    return "%d blocks" % blocks


@case("the example of a program: what it asks twice it finds, and its second run finds all")
def program(state):
    if state.engine:
        state.engine.kill()
        state.engine = None
    hits = []
    for _ in range(2):
        run = subprocess.run([sys.executable, EXAMPLE, state.model], env=environment(state.model, state.daemon.sock),
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=START_S, check=False)
        assert run.returncode == 0, run.stdout[-3000:]
        figures = dict(line.split() for line in run.stdout.splitlines() if line.startswith(FIGURES))
        hits.append((int(float(figures["cache_hits"])), int(float(figures["cache_misses"])),
                     int(figures["important_prompts"])))
    (hits1, misses1, important), (hits2, misses2, _) = hits
    assert hits1 > 0 and misses1 > 0 and important > 0 and misses2 == 0, hits
    return "%d of %d blocks found, then %d of %d" % (hits1, hits1 + misses1, hits2, hits2 + misses2)


@case("engine kill -9, again and again: nothing is held, and the cache is whole")
def engine_killed(state):
    prompts = [first for first, _ in conversations()]
    for after_s in (0.05, 0.4):
        engine = state.new_engine()
        engine.forget()
        engine.send(prompts=prompts, max_tokens=200)
        threading.Event().wait(after_s)
        engine.kill()
        state.daemon.check_at_rest()
    got, _ = talk(state.new_engine())
    same(got, state.want, "after engines were killed")


@case("broker killed -9 while the engine serves: no answer is lost or other")
def broker_killed(state):
    engine = state.engine
    said = conversations()
    killer = threading.Timer(1.0, state.kill_broker)
    killer.start()
    for _ in range(3):
        got, _ = talk(engine, said, between=engine.forget)
        same(got, state.want, "while the broker was killed")
    killer.join()
    assert "the broker is gone" in engine.text()


@case("a broker that starts anew is found by the same engine, and filled and read again")
def broker_anew(state):
    engine = state.engine
    where = state.daemon.dir
    state.start_broker(where)
    broker.wait_until(lambda: (state.daemon.json("status") or {}).get("clients", 0) >= 2,
                      "the engine does not come back")
    stored = engine.figures()["stored_blocks"]
    got, _ = talk(engine, between=engine.forget)
    same(got, state.want, "anew, cold")
    got, _ = talk(engine, between=engine.forget)
    same(got, state.want, "anew, warm")
    figures = engine.figures()
    assert figures["stored_blocks"] > stored, figures


@case("control: pages under each other's keys change the tokens")
def swapped(state):
    count = swap_pages(state.daemon)
    changed = 0
    for i, (first, _) in enumerate(conversations()):
        state.engine.forget()
        out = state.engine.ask(prompts=[first], max_tokens=24)
        assert out["cached"][0] > 0, "nothing was read"
        changed += out["tokens"][0] != state.want[3 * i]
    assert changed == len(conversations()), "%d of %d answers changed" % (changed, len(conversations()))
    return "%d pages swapped, %d answers changed" % (count, changed)


def main():
    programs = broker.parse_programs()
    state = State(programs)
    print("1..%d" % len(CASES), flush=True)
    try:
        for n, (name, function) in enumerate(CASES, 1):
            broker.report(n, name, lambda f=function: f(state))
    finally:
        state.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
