# SPDX-License-Identifier: Apache-2.0
"""vLLM on the broker: one flag, and engines of a node share their KV cache.

    python -m vllm.entrypoints.openai.api_server --model MODEL --kv-transfer-config '{"kv_connector":
        "KVBrokerConnector", "kv_role": "kv_both", "kv_connector_module_path": "kvbroker.vllm"}'

What may stand in its "kv_connector_extra_config" is in settings.Settings; the environment's
KVBROKER_SOCKET says where the broker is.

    connector.py  the class that vLLM loads: hands each call to one of the two halves
    scheduler.py  the half in the engine core: keys, lookups, what is loaded and stored
    worker.py     the half beside the model: copies between KV tensors and the broker's pages
    wire.py       what goes between them
    link.py       a connection that may end, and be there again
    settings.py   what both know from vLLM's configuration
    identity.py   the namespace: all that the cached bytes depend on
    tensors.py    KV tensors as rows of bytes, a block each
    figures.py    counters of both
    events.py     what the broker has, as vLLM's KV events
    stats.py      those counters, as vLLM logs and exports them
    weights.py    versions of the weights, and what may be read of earlier ones
    notices.py    that they change, from a worker to the scheduler's half
    engine_worker.py  vLLM's worker, which says when they do
    compat.py     where releases of vLLM differ
    integration.py an engine on the broker as one object, for programs

Nothing here needs torch but connector.py, engine_worker.py, tensors.py and stats.py, which only an engine
imports.
"""

from importlib import import_module
from typing import Any

_WHERE = {
    "EnhancedVLLMIntegration": "integration",
    "KVBrokerConnector": "connector",
    "VLLMIntegration": "integration",
    "Worker": "engine_worker",
}
__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module("." + _WHERE[name], __name__), name)
    raise AttributeError("kvbroker.vllm has no %r" % name)
