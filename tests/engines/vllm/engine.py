#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One real vLLM engine, driven by lines of JSON: what the tests and the benchmark start.

    engine.py MODEL_DIR [--connector JSON] [--llm JSON]

--connector: vLLM's kv_transfer_config. --llm: more arguments of vllm.LLM. It answers on the
descriptor that stdout was, a line a line; what vLLM prints goes to stderr. First {"ready": ...}, then
to each line of stdin:

    {"prompts": [[ids], ...], "max_tokens": n, ...}   {"tokens": [[ids], ...], "cached": [n, ...], "seconds": s}
    {"call": "reset_prefix_cache", "args": {...}}     {"result": ...}: a method of vllm.LLM
    {"metrics": "vllm:kvbroker"}                      {"metrics": {name: value}}, those whose name begins so

It ends with its input.
"""

import argparse
import json
import os
import sys
import time


def make_llm(model: str, connector: dict, more: dict):
    from vllm import LLM

    arguments = dict(model=model, dtype="bfloat16", enforce_eager=True, max_model_len=8192, max_num_seqs=8,
                     max_num_batched_tokens=8192, disable_log_stats=False, seed=0)
    if connector:
        arguments["kv_transfer_config"] = connector
    arguments.update(more)
    return LLM(**arguments)


def generate(llm, order: dict) -> dict:
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0, max_tokens=order["max_tokens"], ignore_eos=True, detokenize=False)
    lora = None
    if "lora" in order:
        from vllm.lora.request import LoRARequest

        lora = LoRARequest(*order["lora"])
    prompts = [{"prompt_token_ids": p, **({"cache_salt": order["salt"]} if "salt" in order else {})}
               for p in order["prompts"]]
    begin = time.monotonic()
    outputs = llm.generate(prompts, sampling, use_tqdm=False, lora_request=lora)
    seconds = time.monotonic() - begin
    return {"tokens": [list(o.outputs[0].token_ids) for o in outputs],
            "reasons": [o.outputs[0].finish_reason for o in outputs],
            "cached": [o.num_cached_tokens for o in outputs], "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--connector", type=json.loads, default={})
    parser.add_argument("--llm", type=json.loads, default={})
    a = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    import vllm

    llm = make_llm(a.model, a.connector, a.llm)
    print(json.dumps({"ready": vllm.__version__}), file=answers)
    for line in sys.stdin:
        order = json.loads(line)
        if "prompts" in order:
            answer = generate(llm, order)
        elif "metrics" in order:
            answer = {"metrics": {m.name: m.value for m in llm.get_metrics()
                                  if m.name.startswith(order["metrics"]) and hasattr(m, "value")}}
        else:
            answer = {"result": getattr(llm, order["call"])(**order.get("args", {}))}
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
