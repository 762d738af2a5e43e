#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes a tiny Llama: configuration, tokenizer, seeded weights. Nothing is downloaded.

    tiny_model.py DIR [--hidden N] [--layers N] [--seed N] [--config-only]

Attention weights are drawn from N(0, 2.5 / sqrt(hidden)) and embeddings from N(0, 1), so that what a
token sees through attention decides what comes next: KV of another prompt in a page changes the
tokens. vLLM's dummy weights are within 0.001 and show no such thing; with --config-only there are no
others, which is enough to measure time.

The tokenizer has a word for each token id, "w17".
"""

import argparse
import json
import os

VOCAB = 2048
HEAD = 64


def config(hidden: int, layers: int) -> dict:
    heads = hidden // HEAD
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden,
        "intermediate_size": 2 * hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": heads, "head_dim": HEAD, "vocab_size": VOCAB, "max_position_embeddings": 16384,
        "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
        "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "bfloat16",
    }


def write_weights(path: str, c: dict, seed: int) -> None:
    import torch
    from safetensors.torch import save_file

    draw = torch.Generator().manual_seed(seed)
    hidden, inner = c["hidden_size"], c["intermediate_size"]

    def normal(rows: int, columns: int, scale: float) -> "torch.Tensor":
        return (torch.randn(rows, columns, generator=draw) * scale).to(torch.bfloat16)

    def ones() -> "torch.Tensor":
        return torch.ones(hidden, dtype=torch.bfloat16)

    attention, other = 2.5 / hidden ** 0.5, 1 / hidden ** 0.5
    weights = {"model.embed_tokens.weight": normal(VOCAB, hidden, 1.0), "model.norm.weight": ones(),
               "lm_head.weight": normal(VOCAB, hidden, other)}
    for i in range(c["num_hidden_layers"]):
        layer = "model.layers.%d." % i
        for name in "qkvo":
            weights[layer + "self_attn.%s_proj.weight" % name] = normal(hidden, hidden, attention)
        weights[layer + "mlp.gate_proj.weight"] = normal(inner, hidden, other)
        weights[layer + "mlp.up_proj.weight"] = normal(inner, hidden, other)
        weights[layer + "mlp.down_proj.weight"] = normal(hidden, inner, other)
        weights[layer + "input_layernorm.weight"] = ones()
        weights[layer + "post_attention_layernorm.weight"] = ones()
    save_file(weights, path, metadata={"format": "pt"})


def write_tokenizer(folder: str) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"w%d" % i: i for i in range(VOCAB)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w2"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(os.path.join(folder, "tokenizer.json"))
    with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8") as f:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "w0", "eos_token": "w1",
                   "unk_token": "w2"}, f)


def write(folder: str, hidden: int = 256, layers: int = 4, seed: int = 1, weights: bool = True) -> None:
    os.makedirs(folder, exist_ok=True)
    c = config(hidden, layers)
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as f:
        json.dump(c, f)
    write_tokenizer(folder)
    if weights:
        write_weights(os.path.join(folder, "model.safetensors"), c, seed)


def write_adapter(folder: str, model: str, seed: int) -> None:
    """A LoRA of queries and values, as large as the weights it is added to."""
    import torch
    from safetensors.torch import save_file

    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(model, "config.json"), encoding="utf-8") as f:
        c = json.load(f)
    draw = torch.Generator().manual_seed(seed)
    hidden, rank = c["hidden_size"], 8
    weights = {}
    for i in range(c["num_hidden_layers"]):
        for name in "qv":
            layer = "base_model.model.model.layers.%d.self_attn.%s_proj." % (i, name)
            weights[layer + "lora_A.weight"] = torch.randn(rank, hidden, generator=draw) / hidden ** 0.5
            weights[layer + "lora_B.weight"] = torch.randn(hidden, rank, generator=draw)
    save_file(weights, os.path.join(folder, "adapter_model.safetensors"), metadata={"format": "pt"})
    with open(os.path.join(folder, "adapter_config.json"), "w", encoding="utf-8") as f:
        json.dump({"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": ["q_proj", "v_proj"],
                   "lora_dropout": 0.0, "bias": "none", "task_type": "CAUSAL_LM"}, f)


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes a tiny Llama.")
    parser.add_argument("folder")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--config-only", action="store_true")
    a = parser.parse_args()
    write(a.folder, a.hidden, a.layers, a.seed, not a.config_only)


if __name__ == "__main__":
    main()
