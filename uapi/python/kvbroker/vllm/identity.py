# SPDX-License-Identifier: Apache-2.0
"""The namespace of an engine: a digest of all that its cached bytes depend on.

Two engines share a cache exactly when they would have computed the same bytes: same weights, by
content and not by name; same model configuration, tokenizer, dtypes, layout of a block, kernels
(vLLM's version, the instruction set or the GPU), same split over workers. What only decides how many
tokens fit, or how they are sampled, is left out.

Weights are read once: digests of files are kept in $XDG_CACHE_HOME/kvbroker/files.json by path, size,
time of change and inode. Where the file is a link into a Hugging Face cache, its target's name is
its SHA-256, and nothing is read.
"""

import glob
import json
import logging
import os
import platform
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from typing import Any, Dict, List, Optional

from kvbroker import identity_digest

from .settings import refuse

log = logging.getLogger("vllm.kvbroker")

WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf")
TOKENIZER = ("tokenizer*", "vocab.*", "merges.txt", "special_tokens_map.json", "added_tokens.json",
             "*.tiktoken", "tekken.json")
READ_BYTES = 8 << 20


# ---- files -------------------------------------------------------------------------------------


def _memo_path() -> str:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(home, "kvbroker", "files.json")


def _memo_read() -> Dict[str, str]:
    try:
        with open(_memo_path(), encoding="utf-8") as f:
            memo = json.load(f)
        return memo if isinstance(memo, dict) else {}
    except (OSError, ValueError):
        return {}


def _memo_write(memo: Dict[str, str]) -> None:
    """A cache: that it cannot be written costs time and nothing else."""
    path = _memo_path()
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        fd, new = tempfile.mkstemp(dir=os.path.dirname(path))
        with os.fdopen(fd, "w", encoding="utf-8") as f:
            json.dump(memo, f)
        os.replace(new, path)
    except OSError as error:
        log.debug("kvbroker: digests of files are not kept: %s", error)


def _blob_name(path: str) -> Optional[str]:
    """The SHA-256 that a Hugging Face cache names the file by."""
    real = os.path.realpath(path)
    name = os.path.basename(real)
    in_cache = os.path.basename(os.path.dirname(real)) == "blobs"
    return "sha256:" + name if in_cache and re.fullmatch("[0-9a-f]{64}", name) else None


def _read_digest(path: str) -> str:
    digest = blake2b(digest_size=32)
    with open(path, "rb", buffering=0) as f:
        while data := f.read(READ_BYTES):
            digest.update(data)
    return "blake2b:" + digest.hexdigest()


def files_digest(folder: str, patterns: Any) -> Dict[str, str]:
    """Name and content digest of each file of a folder that fits one of the patterns."""
    paths = sorted({p for pattern in patterns for p in glob.glob(os.path.join(glob.escape(folder), pattern))
                    if os.path.isfile(p)})
    memo = _memo_read()
    found: Dict[str, str] = {}
    unread: List[Any] = []
    for path in paths:
        stat = os.stat(path)
        key = "%s %d %d %d" % (os.path.realpath(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)
        digest = _blob_name(path) or memo.get(key)
        if digest is None:
            unread.append((path, key))
        else:
            found[os.path.basename(path)] = digest
    if unread:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for (path, key), digest in zip(unread, pool.map(_read_digest, [p for p, _ in unread])):
                found[os.path.basename(path)] = memo[key] = digest
        _memo_write({**_memo_read(), **memo})
    return found


# ---- parts -------------------------------------------------------------------------------------


def _model_folder(model: Any) -> Optional[str]:
    if os.path.isdir(model.model):
        return str(model.model)
    try:
        from huggingface_hub import try_to_load_from_cache

        config = try_to_load_from_cache(model.model, "config.json", revision=model.revision)
    except Exception as error:  # a name that is none, another version of the hub
        log.debug("kvbroker: no folder of %s: %s", model.model, error)
        return None
    return os.path.dirname(config) if isinstance(config, str) else None


def weights_of(config: Any, weights_id: Optional[str] = None) -> Any:
    """What an engine's weights are, as namespace_digest() takes it: a name that somebody has given them,
    or the content of the model's files. ValueError: neither."""
    if weights_id:
        return {"named": weights_id}
    load_format = str(getattr(config.load_config.load_format, "value", config.load_config.load_format))
    if load_format == "dummy":
        return {"dummy": config.model_config.seed}
    folder = _model_folder(config.model_config)
    files = files_digest(folder, WEIGHTS) if folder else {}
    if not files:
        refuse("no file of weights is found for model %r, and a model's name says nothing of its weights; "
               "say what they are with weights_id in kv_connector_extra_config" % config.model_config.model)
    return files


def _processor(device_type: str) -> str:
    """What kernels choose by: a CPU's instruction set, or a GPU's name."""
    if device_type == "cpu":
        try:
            with open("/proc/cpuinfo", encoding="utf-8") as f:
                flags = next((line for line in f if line.startswith(("flags", "Features"))), "")
        except OSError:
            flags = ""
        return platform.machine() + " " + " ".join(sorted(flags.partition(":")[2].split()))
    from vllm.platforms import current_platform

    return str(current_platform.get_device_name())


def _plain(value: Any) -> Any:
    """As JSON has it: objects by their fields, what else there is by its name."""
    return json.loads(json.dumps(value, sort_keys=True, default=str))


def namespace_digest(config: Any, cache: Any, weights: Any, version: str, device_type: str) -> bytes:
    """32 bytes for Connection.namespace(); config is vLLM's VllmConfig, cache its KVCacheConfig, weights
    what weights_of() says."""
    model = config.model_config
    parallel = config.parallel_config
    described = model.hf_config.to_dict()
    for name in ("_name_or_path", "transformers_version"):
        described.pop(name, None)
    tokenizer = str(model.tokenizer or "")
    group = cache.kv_cache_groups[0]
    spec = group.kv_cache_spec
    return identity_digest(
        weights=weights,
        config=_plain(described),
        tokenizer=files_digest(tokenizer, TOKENIZER) if os.path.isdir(tokenizer) else tokenizer,
        dtype=str(model.dtype),
        quantization=str(model.quantization),
        kv_dtype=str(config.cache_config.cache_dtype),
        block=_plain({"spec": type(spec).__name__, "repr": str(spec)}),
        layers=list(group.layer_names),
        layout=str(getattr(cache, "kv_cache_layout", None)),
        workers=[parallel.tensor_parallel_size, parallel.pipeline_parallel_size],
        engine="vllm " + version,
        processor=_processor(device_type),
        chain="kvbroker chain 1",
    )


# ---- adapters ----------------------------------------------------------------------------------


def adapter_digest(folder: str) -> Optional[str]:
    """A LoRA adapter by its content; None when there is no reading it."""
    files = files_digest(folder, WEIGHTS + ("adapter_config.json",)) if os.path.isdir(folder) else {}
    if not any(name != "adapter_config.json" for name in files):
        return None
    return identity_digest(adapter=files).hex()
