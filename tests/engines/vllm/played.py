# SPDX-License-Identifier: Apache-2.0
"""An engine that is played, for tests of the connector's two halves: requests, KV memory, a model whose
bytes tokens and weights decide, and steps as vLLM makes them."""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, ".."), os.path.join(HERE, "..", "..", "fault")]

import kvbroker  # noqa: E402
import numpy as np  # noqa: E402
from broker import wait_until  # noqa: E402
from kvbroker.vllm import notices  # noqa: E402
from kvbroker.vllm.scheduler import SchedulerHalf  # noqa: E402
from kvbroker.vllm.settings import Settings  # noqa: E402
from kvbroker.vllm.weights import parse_rule  # noqa: E402
from kvbroker.vllm.worker import WorkerHalf  # noqa: E402

SIZE, LAYERS, LAYER_BYTES, BLOCKS = 4, 3, 4096, 64
FILES = {"model.safetensors": "blake2b:0"}
names = iter(range(1 << 30))


def digest_of(weights):
    return kvbroker.identity_digest(test="halves", weights=weights)


DIGEST = digest_of(FILES)


class Request:
    def __init__(self, tokens, **more):
        self.request_id = "r%d" % next(names)
        self.prompt_token_ids = list(tokens)
        self.all_token_ids = list(tokens)
        self.num_computed_tokens = 0
        self.prompt_embeds = self.lora_request = self.cache_salt = None
        self.mm_features = []
        self.__dict__.update(more)

    @property
    def num_tokens(self):
        return len(self.all_token_ids)

    @property
    def block_hashes(self):
        """What vLLM calls its blocks, which is not what they are called in the broker."""
        keys = kvbroker.chain_hashes(self.all_token_ids, SIZE)
        return [b"vllm" + keys[i:i + 16] for i in range(0, len(keys), 16)]


class Engine:
    """Both halves, KV memory, and a model that computes what tokens and weights decide."""

    def __init__(self, daemon, ranks=1, digest=DIGEST, async_bytes=1 << 40, ledger=None, rule="drop"):
        self.settings = Settings(daemon.sock, None, "host:0", None, async_bytes, SIZE, LAYERS * LAYER_BYTES, BLOCKS,
                                 ranks, ranks if ranks > 1 else 0, parse_rule(rule))
        self.scheduler = SchedulerHalf(self.settings, digest, ledger)
        self.scheduler.digest_of, self.scheduler.pool = digest_of, self
        self.name, self.weights, self.evicted = "test %d %d" % (os.getpid(), next(names)), b"\0", set()
        self.scheduler.notices = notices.Listener(self.name)
        self.workers, self.kv = [], []
        for rank in range(ranks):
            kv = [np.zeros((BLOCKS, LAYER_BYTES), np.uint8) for _ in range(LAYERS)]
            worker = WorkerHalf(self.settings, rank)
            worker.register(kv)
            self.workers.append(worker)
            self.kv.append(kv)

    def bytes_of(self, request, block, layer, rank):
        key = kvbroker.chain_hashes(request.all_token_ids[:(block + 1) * SIZE], SIZE)[-16:]
        key += bytes([layer, rank]) + self.weights
        return np.frombuffer(key * (LAYER_BYTES // len(key) + 1), np.uint8)[:LAYER_BYTES]

    def evict_blocks(self, blocks):
        """As vLLM's BlockPool."""
        self.evicted |= blocks

    def new_weights(self, byte, what):
        """As engine_worker.Worker does it."""
        notices.tell(self.name, begin=True)
        if self.settings.on_new_weights.kind == "drop":
            for worker in self.workers:
                worker.void_loads()
        self.weights = bytes([byte])
        notices.tell(self.name, weights=what)

    def holds(self, request, blocks, upto):
        return all((kv[layer][blocks[b]] == self.bytes_of(request, b, layer, rank)).all()
                   for rank, kv in enumerate(self.kv) for b in range(upto) for layer in range(LAYERS))

    def compute(self, request, blocks, first, upto):
        for rank, kv in enumerate(self.kv):
            for b in range(first, upto):
                for layer in range(LAYERS):
                    kv[layer][blocks[b]] = self.bytes_of(request, b, layer, rank)

    def step(self, scheduled=(), blocks=None, between=None):
        """One step: what the workers reported in it, (bad blocks, received)."""
        step = self.scheduler.step({r.request_id: n for r, n in scheduled},
                                   lambda name: blocks[name])
        bad, received = set(), set()
        if between:
            between()
        for worker in self.workers:
            worker.prepare(step)
            worker.start(step)
        for r, n in scheduled:
            self.compute(r, blocks[r.request_id], r.num_computed_tokens // SIZE, (r.num_computed_tokens + n) // SIZE)
        for worker in self.workers:
            worker.end(step)
            received |= worker.take_received()
            bad |= worker.take_bad_blocks()
            report = worker.take_report()
            if report:
                self.scheduler.reported(report)
        for r, n in scheduled:
            r.num_computed_tokens += n
        return bad, received

    def settle(self):
        wait_until(lambda: self.step() and not self.storing(), "the workers do not report")

    def storing(self):
        return self.scheduler._storing

    def run(self, request, blocks, between=None):
        """A request from arrival to end: tokens that came from the broker."""
        self.scheduler.arrived(request)
        found, beside = self.scheduler.match(request, 0)
        assert not beside
        self.scheduler.allocated(request, blocks, found)
        request.num_computed_tokens = found
        self.step([(request, request.num_tokens - found)], {request.request_id: blocks}, between)
        self.scheduler.finished(request, blocks)
        self.settle()
        return found

    def close(self):
        self.scheduler.close()
        for worker in self.workers:
            worker.close()


def shuffled(n, seed=1):
    return np.random.default_rng(seed).permutation(BLOCKS)[:n].tolist()


TOKENS = range(5 * SIZE + 1)


def found(engine, tokens=TOKENS, seed=1):
    """Blocks that come from the broker, and are what the engine's weights would have computed."""
    request, blocks = Request(tokens), shuffled(len(tokens) // SIZE + 1, seed)
    n = engine.run(request, blocks) // SIZE
    assert engine.holds(request, blocks, len(tokens) // SIZE), "blocks of other weights"
    return n
