# SPDX-License-Identifier: Apache-2.0
"""KVBrokerConnector: the class that vLLM loads, once in the engine core and once in each worker.

It holds one of the two halves and translates: vLLM's objects in, plain ones out. What a call means
and when it comes is said in vLLM's kv_connector/v1/base.py; what is done about it, in scheduler.py and
worker.py. Layer by layer there is nothing to do: blocks are loaded before the model runs, and stored
when they are complete.
"""

from functools import partial
from typing import Any, Dict, Iterable, List, Optional, Set, Tuple

from vllm.distributed.kv_transfer.kv_connector.v1.base import (KVConnectorBase_V1, KVConnectorMetadata,
                                                               KVConnectorRole,
                                                               KVConnectorWorkerMetadata, SupportsHMA)

from . import compat, events, notices, settings, stats
from .identity import namespace_digest, weights_of
from .scheduler import SchedulerHalf
from .tensors import all_rows
from .wire import Report, Step
from .worker import WorkerHalf


class StepMetadata(KVConnectorMetadata):
    def __init__(self, step: Step) -> None:
        self.step = step


class ReportMetadata(KVConnectorWorkerMetadata):
    def __init__(self, report: Report) -> None:
        self.report = report

    def aggregate(self, other: KVConnectorWorkerMetadata) -> "ReportMetadata":
        assert isinstance(other, ReportMetadata)
        return ReportMetadata(self.report.add(other.report))


class KVBrokerConnector(KVConnectorBase_V1, SupportsHMA):
    _cache_hit_source = compat.HIT_SOURCE

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        transfer = vllm_config.kv_transfer_config
        compat.check(vllm_config)
        self._settings = settings.read(transfer.kv_connector_extra_config, kv_cache_config,
                                       vllm_config.parallel_config.tensor_parallel_size)
        self._engine = str(transfer.engine_id)
        self._scheduler: Optional[SchedulerHalf] = None
        self._worker: Optional[WorkerHalf] = None
        if role == KVConnectorRole.SCHEDULER:
            compat.recompute_failed_loads(vllm_config)
            digest_of = partial(namespace_digest, vllm_config, kv_cache_config, version=compat.VERSION,
                                device_type=compat.device_type())
            digest = digest_of(weights_of(vllm_config, self._settings.weights_id))
            told = vllm_config.kv_events_config
            self._kind = compat.spec_kind(kv_cache_config.kv_cache_groups[0].kv_cache_spec)
            self._scheduler = SchedulerHalf(self._settings, digest,
                                            events.Ledger() if told and told.enable_kv_cache_events else None)
            self._scheduler.digest_of = digest_of
            self._scheduler.notices = notices.Listener(self._engine)
        else:
            self._rank = compat.worker_rank(vllm_config)
            self._worker = WorkerHalf(self._settings, self._rank)

    @property
    def requires_kv_delivery(self) -> bool:
        return False # a block that was not stored is a miss later, and no more

    # ---- the worker ----------------------------------------------------------------------------

    def register_kv_caches(self, kv_caches: Dict[str, Any]) -> None:
        assert self._worker is not None
        order = self._kv_cache_config.kv_cache_groups[0].layer_names
        self._worker.register(all_rows(kv_caches, order, self._settings.blocks))

    def _step(self) -> Step:
        metadata = self._get_connector_metadata()
        assert isinstance(metadata, StepMetadata)
        return metadata.step

    def bind_connector_metadata(self, connector_metadata: KVConnectorMetadata) -> None:
        assert self._worker is not None
        super().bind_connector_metadata(connector_metadata)
        self._worker.prepare(self._step())

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        assert self._worker is not None
        self._worker.start(self._step())

    def wait_for_layer_load(self, layer_name: str) -> None:
        return

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None:
        return

    def wait_for_save(self) -> None:
        assert self._worker is not None
        self._worker.end(self._step())

    def get_finished(self, finished_req_ids: Set[str]) -> Tuple[Optional[Set[str]], Optional[Set[str]]]:
        assert self._worker is not None
        return None, self._worker.take_received() or None

    def get_block_ids_with_load_errors(self) -> Set[int]:
        assert self._worker is not None
        return self._worker.take_bad_blocks()

    def build_connector_worker_meta(self) -> Optional[ReportMetadata]:
        assert self._worker is not None
        report = self._worker.take_report()
        return ReportMetadata(report) if report else None

    def weights_change(self) -> None:
        """engine_worker.Worker: before any of them does. RuntimeError: better they did not."""
        assert self._worker is not None
        if self._rank == 0:
            notices.tell(self._engine, begin=True)
        if self._settings.on_new_weights.kind == "drop":
            self._worker.void_loads()

    def weights_are(self, weights: Any) -> None:
        """engine_worker.Worker: what they are, as identity.weights_of() says it; None: nobody knows."""
        if self._rank == 0:
            notices.tell(self._engine, weights=weights)

    def weights_kept(self) -> None:
        """engine_worker.Worker: they are what they were before caches were reset."""
        if self._rank == 0:
            notices.tell(self._engine, kept=True)

    # ---- the scheduler -------------------------------------------------------------------------

    def bind_gpu_block_pool(self, gpu_block_pool: Any) -> None:
        assert self._scheduler is not None
        self._scheduler.pool = gpu_block_pool

    def on_new_request(self, request: Any) -> None:
        assert self._scheduler is not None
        self._scheduler.arrived(request)

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> Tuple[Optional[int], bool]:
        assert self._scheduler is not None
        return self._scheduler.match(request, num_computed_tokens)

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        assert self._scheduler is not None
        self._scheduler.allocated(request, blocks.get_block_ids()[0], num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> StepMetadata:
        assert self._scheduler is not None
        return StepMetadata(self._scheduler.step(scheduler_output.num_scheduled_tokens,
                                                 compat.block_ids_of(scheduler_output)))

    def update_connector_output(self, connector_output: Any) -> None:
        assert self._scheduler is not None
        metadata = connector_output.kv_connector_worker_meta
        if metadata is not None:
            self._scheduler.reported(metadata.report)

    def request_finished(self, request: Any, block_ids: List[int]) -> Tuple[bool, Optional[Dict[str, Any]]]:
        assert self._scheduler is not None
        self._scheduler.finished(request, block_ids)
        return False, None

    def request_finished_all_groups(self, request: Any, block_ids: Tuple[List[int], ...]
                                    ) -> Tuple[bool, Optional[Dict[str, Any]]]:
        return self.request_finished(request, list(block_ids[0]))

    def take_events(self) -> Iterable[Any]:
        assert self._scheduler is not None
        return [events.to_vllm(event, self._settings.block_tokens, self._kind)
                for event in self._scheduler.take_events()]

    def reset_cache(self) -> Optional[bool]:
        assert self._scheduler is not None
        return self._scheduler.reset()

    # ---- both ----------------------------------------------------------------------------------

    def _half(self) -> Any:
        return self._scheduler or self._worker

    def get_kv_connector_stats(self) -> Any:
        return stats.of(self._half().take_figures())

    @classmethod
    def build_kv_connector_stats(cls, data: Optional[Dict[str, Any]] = None) -> Any:
        return stats.of(data)

    @classmethod
    def build_prom_metrics(cls, vllm_config: Any, metric_types: Any, labelnames: Any,
                           per_engine_labelvalues: Any) -> Any:
        return stats.PromMetrics(vllm_config, metric_types, labelnames, per_engine_labelvalues)

    def shutdown(self) -> None:
        self._half().close()
