#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# %% [markdown]
# # A vLLM engine on the broker, in a program
#
#     kvbrokerd --socket /run/user/1000/kvb --state-dir /var/tmp/kvb --device host:0=1G &
#     pip install build/kvbroker-*.whl            # beside vLLM
#     KVBROKER_SOCKET=/run/user/1000/kvb python docs/examples/vllm_integration.py MODEL
#
# Run it twice: the second one computes no prompt that the first one had. A server needs no program,
# only a flag (docs/vllm.md).

# %% Prompts of one kind: a long beginning that all have, and a question each.
import asyncio
import sys

from kvbroker.vllm import EnhancedVLLMIntegration

HEAD = [7 + i * 31 % 1900 for i in range(512)]  # tokens; texts do as well
PROMPTS = [HEAD + [100 + i] * 40 for i in range(6)]


# %% One after the other, so that each finds what the one before has left.
async def ask(integration: EnhancedVLLMIntegration) -> None:
    from vllm import SamplingParams

    for prompt in PROMPTS:
        integration.llm.reset_prefix_cache()  # the engine's own cache: what is found is the broker's
        outputs = await integration.generate([prompt], SamplingParams(max_tokens=8, temperature=0))
        print("%d of %d tokens were found; the answer begins %s" % (
            outputs[0].num_cached_tokens, len(prompt), outputs[0].outputs[0].token_ids[:4]))


def main() -> int:
    with EnhancedVLLMIntegration(sys.argv[1], max_model_len=2048, enforce_eager=True) as integration:
        asyncio.run(ask(integration))
        metrics = integration.collect_metrics()
        for name in ("cache_hits", "cache_misses", "hit_ratio", "stored_blocks", "seen_prompts", "important_prompts"):
            print("%-18s %s" % (name, round(metrics[name], 3)))
        return 0 if metrics["cache_hits"] and metrics["important_prompts"] else 1


# %% vLLM starts processes of its own, which read this file again.
if __name__ == "__main__":
    sys.exit(main())
