# SPDX-License-Identifier: Apache-2.0
"""vLLM's worker, which says when its weights change: `--worker-cls kvbroker.vllm.Worker`.

vLLM keeps its caches when weights are reloaded or updated in place, and tells no connector. This worker
does what vLLM's does and tells the connector's scheduler half: weights that were reloaded from files
are what the files hold, others are unknown until somebody says what they are:

    llm.collective_rpc("kvbroker_new_weights", kwargs={"weights_id": "policy of step 17"})

Engines that were told the same share a cache. Sleep is what precedes an update as often as not, so an
engine that wakes is taken for one whose weights have changed, until it is told otherwise. After a
change that has failed midway nothing is cached until weights are known again, or prefix caches are
reset with reset_connector.
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
        given, path = (*args, None, None)[:2] # vLLM's: weights_iterator, weights_path, and more
        given, path = kwargs.get("weights_iterator", given), kwargs.get("weights_path", path)
        with _changing() as change:
            before = self._files(path) if given is None else None
            super().reload_weights(*args, **kwargs)
            if before is not None and self._files(path) == before: # and nobody wrote them meanwhile
                change.weights = before

    def _files(self, path: Optional[str]) -> Any:
        """What files hold, those of the model or of a path; None: they cannot be read."""
        model = self.vllm_config.model_config
        files = SimpleNamespace(load_config=self.vllm_config.load_config, model_config=SimpleNamespace(
            model=path or model.model, revision=None if path else model.revision, seed=model.seed))
        try:
            return weights_of(files)
        except ValueError as error:
            log.warning("kvbroker: %s", error)
            return None

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

    def _told(self) -> KVBrokerConnector:
        connector = _connector()
        if connector is None:
            raise RuntimeError("this engine has no KVBrokerConnector that could be told of its weights")
        return connector

    def kvbroker_new_weights(self, weights_id: Optional[str] = None) -> None:
        """For weights that were changed by other calls: what they are now, a string that no two sets of
        weights share; None: unknown. RuntimeError: there is nobody to be told."""
        self._told()
        with _changing() as change:
            change.weights = {"named": weights_id} if weights_id else None

    def kvbroker_same_weights(self) -> None:
        """For an engine that has slept, or was reset, and nobody has touched its weights: they are what they
        were before the reset. RuntimeError: there is nobody to be told."""
        self._told().weights_kept()
