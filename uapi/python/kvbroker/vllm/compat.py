# SPDX-License-Identifier: Apache-2.0
"""Where releases of vLLM differ, as far as the connector sees it: 0.31 and 0.32.

What is here asks for the thing itself and not for a version, so that a release in between, or a
build with a backport, is taken for what it is.
"""

import logging
from typing import Any, Callable, List

import vllm

from .settings import refuse

log = logging.getLogger("vllm.kvbroker")

VERSION: str = vllm.__version__

try:
    from vllm.v1.metrics.cache_hit_source import CacheHitSource

    HIT_SOURCE: Any = CacheHitSource.HOST # since 0.32
except ImportError:
    HIT_SOURCE = None


def check(config: Any) -> None:
    """ValueError when blocks of such an engine cannot be shared."""
    for name in ("pipeline_parallel_size", "decode_context_parallel_size", "prefill_context_parallel_size"):
        if getattr(config.parallel_config, name, 1) > 1:
            refuse("%s is %d: a worker then has a part of the layers or of the tokens of a block, and what "
                   "is shared are blocks of all layers" % (name, getattr(config.parallel_config, name)))


def recompute_failed_loads(config: Any) -> None:
    """A load that fails costs time and no request. vLLM's default ends the request; its scheduler
    reads this after it has made the connector."""
    if config.kv_transfer_config.kv_load_failure_policy != "recompute":
        config.kv_transfer_config.kv_load_failure_policy = "recompute"
        log.info("kvbroker: blocks that fail to load are computed (kv_load_failure_policy=recompute)")


def worker_rank(config: Any) -> int:
    """The tensor-parallel rank of this process."""
    if config.parallel_config.tensor_parallel_size == 1:
        return 0
    from vllm.distributed.parallel_state import get_tensor_model_parallel_rank

    return int(get_tensor_model_parallel_rank())


def device_type() -> str:
    from vllm.platforms import current_platform

    return str(current_platform.device_type)


def spec_kind(spec: Any) -> str:
    """What vLLM calls this kind of layers in its KV events."""
    from vllm.v1.kv_cache_interface import get_kv_cache_spec_kind

    return str(get_kv_cache_spec_kind(spec).value)


def block_ids_of(output: Any) -> Callable[[str], List[int]]:
    """A function from the name of a request that is scheduled in this step to its blocks."""
    resolve = output.kv_connector_block_state.resolve_block_ids
    return lambda name: resolve(name)[0]
