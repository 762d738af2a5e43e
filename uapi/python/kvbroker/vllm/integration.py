# SPDX-License-Identifier: Apache-2.0
"""A vLLM engine on the broker as one object, for programs that hold their engine themselves.

    integration = EnhancedVLLMIntegration("path/of/model", connector={"tenant": "chat"})
    outputs = await integration.generate(["Why is the sky blue?"], SamplingParams(max_tokens=64))
    integration.collect_metrics()["hit_ratio"]

VLLMIntegration is vllm.LLM with the connector switched on, awaitable, and with figures by the names
that caches of kvbroker.cache have. EnhancedVLLMIntegration watches the prompts besides: what begins as
many others did is worth more than what came once, and the broker is told so. A server needs neither:
it takes the connector by vLLM's own flag.
"""

import asyncio
import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, List, Optional, Sequence, Union

from ..patterns import Pattern, PatternTracker

PREFIX = "vllm:kvbroker_"
Prompt = Union[str, Sequence[int]]


class VLLMIntegration:
    """vllm.LLM(model, **llm) on the broker. A context manager.

    connector: what may stand in kv_connector_extra_config (settings.Settings). llm: more arguments of
    vllm.LLM. The engine is `llm`; while a call of this object runs it belongs to that call.
    """

    def __init__(self, model: str, *, connector: Optional[Dict[str, Any]] = None, **llm: Any):
        from vllm import LLM

        llm.setdefault("disable_log_stats", False)  # the figures come with them
        self.llm = LLM(model=model, kv_transfer_config={
            "kv_connector": "KVBrokerConnector", "kv_role": "kv_both",
            "kv_connector_module_path": "kvbroker.vllm", "kv_connector_extra_config": dict(connector or {}),
        }, **llm)
        self._thread = ThreadPoolExecutor(1, "kvbroker-vllm")  # calls go one after the other
        self.learning_progress: Optional[float] = None

    def __enter__(self) -> "VLLMIntegration":
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()

    def close(self) -> None:
        """Ends the engine. What it has stored stays with the broker, for others."""
        self._thread.shutdown()
        self.llm.llm_engine.engine_core.shutdown()

    async def _call(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, lambda: function(*args, **kwargs))

    async def generate(self, prompts: Union[str, Sequence[Prompt]], sampling: Any = None) -> List[Any]:
        """vLLM's RequestOutput of each prompt: texts, or lists of tokens. sampling: one
        vllm.SamplingParams, or one a prompt."""
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        return list(await self._call(self._generate, prompts, self._each(sampling, len(prompts))))

    def _each(self, sampling: Any, n: int) -> List[Any]:
        if sampling is None:
            from vllm import SamplingParams

            sampling = SamplingParams()
        if not isinstance(sampling, (list, tuple)):
            return [sampling] * n
        if len(sampling) != n:
            raise ValueError("%d sampling parameters for %d prompts: give one, or one a prompt"
                             % (len(sampling), n))
        return list(sampling)

    def _generate(self, prompts: List[Prompt], sampling: List[Any]) -> List[Any]:
        asked: List[Any] = [p if isinstance(p, str) else {"prompt_token_ids": list(p)} for p in prompts]
        return self.llm.generate(asked, sampling, use_tqdm=False)

    async def reset(self) -> bool:
        """Nothing that was computed so far is found here any more: the engine's own cache is dropped, and what it
        shared is left to the others (docs/vllm.md, "When weights change")."""
        return bool(await self._call(self.llm.reset_prefix_cache, reset_connector=True))

    def report_progress(self, progress: float) -> None:
        """What a learner says of itself; handed on as it is."""
        self.learning_progress = progress

    def collect_metrics(self) -> Dict[str, Any]:
        """Figures from the engine's start by name. cache_hits, cache_misses: blocks asked of the broker,
        found or not; the rest is the connector's own, as docs/vllm.md has it."""
        metrics: List[Any] = self.llm.get_metrics() # a counter each
        out: Dict[str, Any] = {m.name[len(PREFIX):]: m.value for m in metrics if m.name.startswith(PREFIX)}
        asked, found = out.get("asked_blocks", 0), out.get("found_blocks", 0)
        out.update(cache_hits=found, cache_misses=asked - found, hit_ratio=found / asked if asked else 0.0,
                   learning_progress=self.learning_progress)
        return out


class EnhancedVLLMIntegration(VLLMIntegration):
    """Tells the broker which prompts are worth keeping.

    A PatternTracker sees the tokens of each prompt. When the score of what a prompt begins with is HIGH
    or more, the pages that are found for it are given back with a hint that has the broker pass
    them over once when it makes room.
    """

    HIGH = 0.6

    def __init__(self, model: str, *, tracker: Optional[PatternTracker] = None, **more: Any):
        super().__init__(model, **more)
        config = self.llm.llm_engine.vllm_config
        self.tracker = tracker or PatternTracker(block_tokens=config.cache_config.block_size)
        self.patterns = self.important = 0

    def analyze(self, prompt: Prompt) -> Pattern:
        """What is known of a prompt before it, counting this as a use."""
        return self.tracker.analyze(self._tokens(prompt))

    def _tokens(self, prompt: Prompt) -> List[int]:
        return self.llm.get_tokenizer().encode(prompt) if isinstance(prompt, str) else list(prompt)

    def _generate(self, prompts: List[Prompt], sampling: List[Any]) -> List[Any]:
        prompts = [self._tokens(p) for p in prompts]
        return super()._generate(prompts, [self._marked(s, self.analyze(p)) for s, p in zip(sampling, prompts)])

    def _marked(self, sampling: Any, pattern: Pattern) -> Any:
        self.patterns += pattern.seen_blocks > 0
        if pattern.score < self.HIGH:
            return sampling
        self.important += 1
        sampling = copy.copy(sampling)
        wanted = dict(sampling.extra_args or {})
        wanted["kv_transfer_params"] = {**wanted.get("kv_transfer_params", {}), "kvbroker_priority": "high"}
        sampling.extra_args = wanted
        return sampling

    def collect_metrics(self) -> Dict[str, Any]:
        """As VLLMIntegration's; with prompts whose beginning was seen before, and those that were important."""
        return {**super().collect_metrics(), "seen_prompts": self.patterns, "important_prompts": self.important}
