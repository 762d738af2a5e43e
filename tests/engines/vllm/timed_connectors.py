# SPDX-License-Identifier: Apache-2.0
"""Connectors that write down how long their lookups took, for the benchmark.

    "kv_connector": "KVBrokerConnector" or "LMCacheMPConnector",
    "kv_connector_module_path": "timed_connectors"

A line a request in the file $LOOKUP_LOG: microseconds that the engine's loop spent in on_new_request(),
and from the first get_num_new_matched_tokens() to the one that answered.
"""

import importlib
import os
import time
from typing import Any, Dict

HOMES = {
    "KVBrokerConnector": "kvbroker.vllm",
    "LMCacheMPConnector": "vllm.distributed.kv_transfer.kv_connector.v1.lmcache_mp_connector",
}


def timed(base: Any) -> Any:
    class Timed(base):
        def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
            super().__init__(vllm_config, role, kv_cache_config)
            self._arrival_s: Dict[str, float] = {}
            self._asked: Dict[str, float] = {}

        def on_new_request(self, request: Any) -> None:
            begin = time.perf_counter()
            super().on_new_request(request)
            self._arrival_s[request.request_id] = time.perf_counter() - begin

        def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> Any:
            name = request.request_id
            self._asked.setdefault(name, time.perf_counter())
            answer = super().get_num_new_matched_tokens(request, num_computed_tokens)
            if answer[0] is not None:
                end = time.perf_counter()
                with open(os.environ["LOOKUP_LOG"], "a", encoding="utf-8") as log:
                    log.write("%.1f\n" % (1e6 * (end - self._asked.pop(name) + self._arrival_s.pop(name, 0.0))))
            return answer

    Timed.__name__ = base.__name__
    return Timed


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(name)
    return timed(getattr(importlib.import_module(HOMES[name]), name))
