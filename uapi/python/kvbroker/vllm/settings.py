# SPDX-License-Identifier: Apache-2.0
"""What both halves know from vLLM's configuration, and what operators may say.

"kv_connector_extra_config" of --kv-transfer-config takes:

    socket       path of the broker's socket; default $KVBROKER_SOCKET, or the broker's own default
    tenant       whose budget; default "default"
    device       where the pages lie: "host:NODE"; default "host:0"
    weights_id   what the weights are, when there is no reading them: any string that no two sets of
                 weights share. Default: their content
    async_bytes  loads of at least so many bytes do not hold up other requests; default 4 MiB
    on_new_weights  what becomes of what earlier weights have computed: "drop", "drain", "keep:N"
                 (weights.py); default "drop"

Anything else there is an error, so that nothing misspelt is taken for said.
"""

from dataclasses import dataclass
from typing import Any, Mapping, Optional

from .weights import Rule, parse_rule

KNOWN = ("socket", "tenant", "device", "weights_id", "async_bytes", "on_new_weights")


@dataclass(frozen=True)
class Settings:
    socket: Optional[str]
    tenant: Optional[str]
    device: str
    weights_id: Optional[str]
    async_bytes: int
    block_tokens: int  # tokens of a block
    block_bytes: int   # of one block, all layers of one rank
    blocks: int        # in the engine
    ranks: int         # workers that each hold a part of every block
    tag: int = 0
    on_new_weights: Rule = Rule("drop")

    @property
    def stride_bytes(self) -> int:
        """Of a page: a block, rounded up to what the broker takes."""
        return (self.block_bytes + 63) // 64 * 64


def refuse(reason: str) -> None:
    raise ValueError("KVBrokerConnector: " + reason)


def read(extra: Mapping[str, Any], cache: Any, ranks: int) -> Settings:
    """Settings of an engine; cache is vLLM's KVCacheConfig. ValueError: what cannot be served."""
    unknown = sorted(set(extra) - set(KNOWN))
    if unknown:
        refuse("kv_connector_extra_config has %s; known are %s" % (unknown, ", ".join(KNOWN)))
    groups = cache.kv_cache_groups
    if len(groups) != 1:
        refuse("this model keeps %d kinds of KV cache (a hybrid model), and blocks of one kind are what "
               "can be shared; serve it without this connector" % len(groups))
    spec = groups[0].kv_cache_spec
    kind = type(spec).__name__
    if kind not in ("FullAttentionSpec", "MLAAttentionSpec"):
        refuse("layers of kind %s keep no block that is good for every later token; serve this model "
               "without this connector" % kind)
    device = str(extra.get("device", "host:0"))
    if not device.startswith("host:"):
        refuse("device %r: pages of this data path lie in host memory, host:NODE" % device)
    return Settings(
        socket=extra.get("socket"),
        tenant=extra.get("tenant"),
        device=device,
        weights_id=extra.get("weights_id"),
        async_bytes=int(extra.get("async_bytes", 4 << 20)),
        block_tokens=spec.block_size,
        block_bytes=spec.page_size_bytes * len(groups[0].layer_names),
        blocks=cache.num_blocks,
        ranks=ranks,
        tag=ranks if ranks > 1 else 0,
        on_new_weights=parse_rule(extra.get("on_new_weights", "drop")),
    )
