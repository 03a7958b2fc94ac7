"""Metadata of a GGUF file from the transformers configuration of a model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minseek.errors import InputError
from minseek.quant.gguf_writer import encode_entry

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""Architecture -> its name in GGUF files."""


def config_entries(config: Any, name: str) -> list[bytes]:
    """Entries that describe the architecture, as llama.cpp's converter writes them.

    Raises
    ------
    InputError
        If a GGUF file cannot say what the configuration says.
    """
    kind = ARCHITECTURES[config.model_type]
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    counts = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "rope.dimension_count": head_dim,
        "vocab_size": config.vocab_size,
    }
    if window := _window(config):
        counts["attention.sliding_window"] = window
    return [
        encode_entry("general.architecture", "string", kind),
        encode_entry("general.type", "string", "model"),
        encode_entry("general.name", "string", name),
        *(encode_entry(f"{kind}.{key}", "uint32", value) for key, value in counts.items()),
        encode_entry(f"{kind}.attention.layer_norm_rms_epsilon", "float32", config.rms_norm_eps),
        *_rope_entries(kind, config.rope_parameters),
    ]


def rope_divisors(config: Any) -> np.ndarray[Any, np.dtype[np.float32]] | None:
    """Divisors of the rotary frequencies of llama3 scaling, [D/2], which GGUF files store as a tensor; else None."""
    rope = config.rope_parameters
    if rope.get("rope_type", "default") != "llama3":
        return None
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    scaled = LlamaRotaryEmbedding(config).inv_freq.numpy()
    plain = rope["rope_theta"] ** (-np.arange(len(scaled)) / len(scaled))
    return np.asarray(plain / scaled, np.float32)


def _rope_entries(kind: str, rope: dict[str, Any]) -> list[bytes]:
    entries = [encode_entry(f"{kind}.rope.freq_base", "float32", rope["rope_theta"])]
    scaling = rope.get("rope_type", "default")
    if scaling not in ("linear", "yarn"):
        return entries
    prefix = f"{kind}.rope.scaling"
    entries += [
        encode_entry(f"{prefix}.type", "string", scaling),
        encode_entry(f"{prefix}.factor", "float32", rope["factor"]),
    ]
    if scaling == "yarn":
        usual = {"beta_fast": 32.0, "beta_slow": 1.0, "mscale": None, "mscale_all_dim": None, "truncate": True}
        if odd := [key for key, value in usual.items() if rope.get(key) not in (None, value)]:
            raise InputError(f"a GGUF file cannot hold this model's YaRN scaling: its {odd[0]} is {rope[odd[0]]}")
        original = rope["original_max_position_embeddings"]
        entries.append(encode_entry(f"{prefix}.original_context_length", "uint32", original))
        if rope.get("attention_factor") is not None:
            factor = rope["attention_factor"] / (0.1 * math.log(rope["factor"]) + 1)
            entries.append(encode_entry(f"{prefix}.attn_factor", "float32", factor))
    return entries


def _window(config: Any) -> int | None:
    """The sliding window of all layers, or None.

    Raises
    ------
    InputError
        If only some layers have one.
    """
    if config.model_type == "mistral":
        return getattr(config, "sliding_window", None)
    if "sliding_attention" not in (getattr(config, "layer_types", None) or ()):
        return None
    if set(config.layer_types) != {"sliding_attention"}:
        raise InputError("a GGUF file cannot hold this model: only some of its layers have a sliding window")
    return int(config.sliding_window)
