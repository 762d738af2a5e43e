#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An engine as one object: what the classes ask of vLLM and make of its answers, with a stand-in for it.

usage: test_integration.py kvbrokerd=PATH broker-ctl=PATH

The stand-in answers a prompt with its length and keeps what it was asked. That real vLLM takes the same
is tested where it is there: vllm/test_vllm.py runs the example.
"""

import asyncio
import sys
import threading
import types

from harness import case, equal, main, raises


class Sampling:
    def __init__(self, extra_args=None):
        self.extra_args = extra_args


class LLM:
    def __init__(self, **arguments):
        self.arguments = arguments
        self.asked, self.running, self.resets = [], 0, []
        self.llm_engine = types.SimpleNamespace(
            vllm_config=types.SimpleNamespace(cache_config=types.SimpleNamespace(block_size=4)),
            engine_core=types.SimpleNamespace(shutdown=lambda: self.resets.append("shutdown")))

    def get_tokenizer(self):
        return types.SimpleNamespace(encode=lambda text: [ord(c) for c in text])

    def generate(self, prompts, sampling, use_tqdm):
        self.running += 1
        assert self.running == 1 and threading.current_thread() is not threading.main_thread()
        self.asked += zip(prompts, sampling)
        self.running -= 1
        return [len(p) if isinstance(p, str) else len(p["prompt_token_ids"]) for p in prompts]

    def reset_prefix_cache(self, reset_connector):
        self.resets.append(reset_connector)
        return True

    def get_metrics(self):
        return [types.SimpleNamespace(name=name, value=value) for name, value in (
            ("vllm:kvbroker_asked_blocks", 8), ("vllm:kvbroker_found_blocks", 6), ("vllm:other", 1))]


sys.modules["vllm"] = types.SimpleNamespace(LLM=LLM, SamplingParams=Sampling)

from kvbroker.vllm import EnhancedVLLMIntegration, VLLMIntegration  # noqa: E402


def priorities(llm):
    return [(s.extra_args or {}).get("kv_transfer_params", {}).get("kvbroker_priority") for _, s in llm.asked]


@case("an engine is made with the connector, answers in order, and says what was found")
def plain(_daemon):
    async def run(integration):
        equal(await integration.generate("four"), [4])
        both = await asyncio.gather(*(integration.generate([[1] * n, "ab"]) for n in range(20)))
        equal(both, [[n, 2] for n in range(20)])
        own = Sampling()
        await integration.generate(["x", "y"], [own, own])
        assert all(s is own for _, s in integration.llm.asked[-2:])
        try:
            await integration.generate(["x", "y"], [own])
        except ValueError as error:
            assert "1 sampling parameters for 2 prompts" in str(error)
        else:
            raise AssertionError("a prompt without parameters was taken")
        equal(await integration.reset(), True)

    with VLLMIntegration("m", connector={"tenant": "t"}, seed=3) as integration:
        arguments = integration.llm.arguments
        equal((arguments["model"], arguments["seed"], arguments["disable_log_stats"]), ("m", 3, False))
        transfer = arguments["kv_transfer_config"]
        equal((transfer["kv_connector_module_path"], transfer["kv_connector_extra_config"]),
              ("kvbroker.vllm", {"tenant": "t"}))
        asyncio.run(run(integration))
        equal(set(priorities(integration.llm)), {None})
        integration.report_progress(0.25)
        metrics = integration.collect_metrics()
        equal((metrics["cache_hits"], metrics["cache_misses"], metrics["hit_ratio"], metrics["learning_progress"]),
              (6, 2, 0.75, 0.25))
        assert "other" not in metrics
    equal(integration.llm.resets, [True, "shutdown"])
    raises(TypeError, VLLMIntegration, "m", kv_transfer_config={})


@case("what begins as many did is given a priority, what came once is not")
def enhanced(_daemon):
    head = list(range(40))

    async def run(integration):
        mine = Sampling({"other": 1, "kv_transfer_params": {"mine": 2}})
        for i in range(6):
            await integration.generate([head + [100 + i] * 8], mine)
            await integration.generate(["%d comes once, and never again" % i])
        equal(mine.extra_args, {"other": 1, "kv_transfer_params": {"mine": 2}})

    with EnhancedVLLMIntegration("m") as integration:
        asyncio.run(run(integration))
        given = priorities(integration.llm)
        equal(given[0], None)
        equal((given[10], given[11]), ("high", None))
        equal(integration.llm.asked[10][1].extra_args["kv_transfer_params"]["mine"], 2)
        equal(integration.llm.asked[10][1].extra_args["other"], 1)
        metrics = integration.collect_metrics()
        equal(metrics["important_prompts"], given.count("high"))
        equal(metrics["cache_hits"], 6)
        assert integration.analyze(head).forks > 1
        equal(integration.analyze("never seen before").seen_blocks, 0)


if __name__ == "__main__":
    sys.exit(main())
