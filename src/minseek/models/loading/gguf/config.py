"""`ModelConfig` from the metadata of a GGUF file."""

from __future__ import annotations

from typing import Any

import numpy as np

from minseek.errors import InputError, is_instance
from minseek.models.config import ModelConfig, refuse_architecture
from minseek.models.loading.gguf.rotary import scaled_frequencies
from minseek.quant import GGUFFile

ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""Architectures that are read, in llama.cpp's spelling; Mistral's is "llama"."""
_END_OF_TURN = frozenset(
    ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<｜end▁of▁sentence｜>", "<|EOT|>")
)
CONTROL, USER_DEFINED = 3, 4
"""llama.cpp's types of tokens."""
_MAX_HEAD_DIM = 2**16
_MUST_BE = {  # suffix of a key -> the only value that the forward pass computes
    "expert_count": 0,
    "attention.causal": True,
    "logit_scale": 1.0,
    "embedding_scale": 1.0,
    "residual_scale": 1.0,
    "use_parallel_residual": False,
}


def config_of(file: GGUFFile) -> ModelConfig:
    """Config of the model in a GGUF file.

    Raises
    ------
    InputError
        If the architecture is not supported, or the metadata is incomplete or contradicts itself.
    """
    kind = file.architecture
    if kind not in ARCHITECTURES:
        refuse_architecture(kind)
    for suffix, value in _MUST_BE.items():
        found = file.metadata.get(f"{kind}.{suffix}", value)
        if found != value:
            raise InputError(f"{file.path} is not supported: its {kind}.{suffix} is {found!r:.40} instead of {value}")
    hidden, heads = size_of(file, "embedding_length"), size_of(file, "attention.head_count")
    kv_heads = size_of(file, "attention.head_count_kv", heads)
    head_dim = size_of(file, "attention.key_length", hidden // heads)
    for suffix in ("attention.value_length", "rope.dimension_count"):
        if (other := size_of(file, suffix, head_dim)) != head_dim:
            raise InputError(
                f"{file.path} is not supported: its heads have {head_dim} dimensions, its {suffix} is {other}"
            )
    if head_dim % 2 or head_dim > _MAX_HEAD_DIM or heads % kv_heads:
        raise InputError(
            f"{file.path} is damaged: it has {heads} heads of {head_dim} dimensions, and {kv_heads} key/value heads"
        )
    num_layers, context = size_of(file, "block_count"), size_of(file, "context_length")
    if num_layers > len(file.tensors):
        raise InputError(
            f"{file.path} is damaged: it announces {num_layers:,} layers and has {len(file.tensors)} tensors"
        )
    inv_freq, factor = scaled_frequencies(file, head_dim, context)
    return ModelConfig(
        architecture=kind,
        num_layers=num_layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        sliding_windows=[_window(file)] * num_layers,
        rms_norm_eps=file.required(f"{kind}.attention.layer_norm_rms_epsilon", float),
        attention_scale=file.optional(f"{kind}.attention.scale", float, head_dim**-0.5),
        inv_freq=inv_freq,
        rotary_scaling=factor,
        max_positions=context,
        eos_token_ids=eos_token_ids(file),
    )


def eos_token_ids(file: GGUFFile) -> list[int]:
    """Tokens that end the model's turn: those that the metadata names, and control tokens of the usual names."""
    keys = ("eos_token_id", "eot_token_id", "eom_token_id")
    named = {file.optional(f"tokenizer.ggml.{key}", int, -1) for key in keys} - {-1}
    types = token_types(file)
    if types is not None:
        special = np.flatnonzero(np.isin(types, (CONTROL, USER_DEFINED))).tolist()
        tokens = file.strings("tokenizer.ggml.tokens") or []
        named |= {index for index in special if index < len(tokens) and tokens[index] in _END_OF_TURN}
    return sorted(named)


def token_types(file: GGUFFile) -> np.ndarray[Any, Any] | None:
    """llama.cpp's type of each token, or None.

    Raises
    ------
    InputError
        If they are no numbers.
    """
    types = file.metadata.get("tokenizer.ggml.token_type")
    if types is not None and not isinstance(types, np.ndarray):
        raise InputError(f"{file.path} is damaged: its tokenizer.ggml.token_type is no array of numbers")
    return types


def size_of(file: GGUFFile, suffix: str, default: int | None = None) -> int:
    """A positive integer of the architecture; an array of one value for each layer is read if all are equal."""
    key = f"{file.architecture}.{suffix}"
    value = file.metadata.get(key, default)
    if isinstance(value, np.ndarray) and len(value):
        if len(set(value.tolist())) > 1:
            raise InputError(f"{file.path} is not supported: its {key} differs between layers")
        value = value[0].item()
    if value is None:
        raise InputError(f"{file.path} is incomplete: its metadata lacks {key}")
    if not is_instance(value, int) or not 1 <= value < 2**31:
        raise InputError(f"{file.path} is damaged: its {key} is {value!r:.40} instead of a positive integer")
    return int(value)


def _window(file: GGUFFile) -> int | None:
    """Sliding window of all layers, in positions, or None."""
    if f"{file.architecture}.attention.sliding_window_pattern" in file.metadata:
        raise InputError(f"{file.path} is not supported: its sliding window differs between layers")
    return file.optional(f"{file.architecture}.attention.sliding_window", int, 0) or None
