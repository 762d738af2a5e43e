# SPDX-License-Identifier: Apache-2.0
"""vLLM's worker, which says when its weights change: `--worker-cls kvbroker.vllm.Worker`.

vLLM keeps its caches when weights are reloaded or updated in place, and tells no connector. This worker
does what vLLM's does and tells the connector's scheduler half: weights that were reloaded from files
are what the files hold, others are unknown until somebody says what they are:

    llm.collective_rpc("kvbroker_new_weights", kwargs={"weights_id": "policy of step 17"})

Engines that were told the same share a cache. After a change that has failed midway nothing is cached
until weights are known again, or prefix caches are reset with reset_connector.
"""

import logging
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Iterator, Optional

from vllm.distributed.kv_transfer import get_kv_transfer_group, has_kv_transfer_group
from vllm.v1.worker.cpu_worker import CPUWorker

from .connector import KVBrokerConnector
from .identity import weights_of

log = logging.getLogger("vllm.kvbroker")


def _connector() -> Optional[KVBrokerConnector]:
    group = get_kv_transfer_group() if has_kv_transfer_group() else None
    return group if isinstance(group, KVBrokerConnector) else None


@contextmanager
def _changing() -> Iterator[Any]:
    """Weights change within. What they are then is to be set as `weights`; None: nobody knows."""
    change = SimpleNamespace(weights=None)
    connector = _connector()
    if connector:
        connector.weights_change()
    yield change
    if connector:
        connector.weights_are(change.weights)


class Worker(CPUWorker):
    def reload_weights(self, *args: Any, **kwargs: Any) -> None:
        given = args[0] if args else kwargs.get("weights_iterator")
        with _changing() as change:
            super().reload_weights(*args, **kwargs)
            if given is None:
                try:
                    change.weights = weights_of(self.vllm_config)
                except ValueError as error:
                    log.warning("kvbroker: %s", error)

    def start_weight_update(self) -> None:
        connector = _connector()
        if connector:
            connector.weights_change()
        super().start_weight_update()

    def start_draft_weight_update(self) -> None:
        connector = _connector()
        if connector:
            connector.weights_change()
        super().start_draft_weight_update()

    def finish_weight_update(self) -> None:
        super().finish_weight_update()
        connector = _connector()
        if connector:
            connector.weights_are(None)

    def kvbroker_new_weights(self, weights_id: Optional[str] = None) -> None:
        """For weights that were changed by other calls: what they are now, a string that no two sets of
        weights share; None: unknown. RuntimeError: there is nobody to be told."""
        if _connector() is None:
            raise RuntimeError("kvbroker_new_weights: this engine has no KVBrokerConnector")
        with _changing() as change:
            change.weights = {"named": weights_id} if weights_id else None

    def sleep(self, level: int = 1) -> None:
        super().sleep(level)
        connector = _connector()
        if connector and level == 1: # at higher levels weights are gone, and come by reload_weights
            connector.weights_kept()
