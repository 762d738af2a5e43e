# SPDX-License-Identifier: Apache-2.0
"""The halves' counters as vLLM logs them and exports them to Prometheus."""

from typing import Any, Dict, Optional

from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats

from .figures import NAMES


class Stats(KVConnectorStats):
    def reset(self) -> None:
        self.data: Dict[str, Any] = {}

    def aggregate(self, other: KVConnectorStats) -> "Stats":
        for name, n in other.data.items():
            self.data[name] = self.data.get(name, 0) + n
        return self

    def reduce(self) -> Dict[str, Any]:
        return {name: round(n, 3) for name, n in self.data.items()}

    def is_empty(self) -> bool:
        return not self.data


def of(sums: Optional[Dict[str, Any]]) -> Optional[Stats]:
    return Stats(data=dict(sums)) if sums else None


class PromMetrics(KVConnectorPromMetrics):
    """A counter vllm:kvbroker_NAME_total for each of figures.NAMES."""

    def __init__(self, vllm_config: Any, metric_types: Any, labelnames: Any, per_engine_labelvalues: Any) -> None:
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        self._counters: Dict[str, Dict[int, Any]] = {}
        for name, text in NAMES.items():
            counter = self._counter_cls(name="vllm:kvbroker_" + name, documentation=text + ".",
                                        labelnames=labelnames)
            self._counters[name] = {engine: counter.labels(*values)
                                    for engine, values in per_engine_labelvalues.items()}

    def observe(self, transfer_stats_data: Dict[str, Any], engine_idx: int = 0) -> None:
        for name, n in transfer_stats_data.items():
            self._counters[name][engine_idx].inc(n)
