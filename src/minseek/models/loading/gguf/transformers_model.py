"""A GGUF model as transformers needs it, to train or to compare with: configuration, tokenizer and weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minseek.errors import InputError
from minseek.models.config import ModelConfig
from minseek.models.loading.gguf.config import config_of, size_of
from minseek.models.loading.gguf.rotary import FACTORS
from minseek.models.loading.gguf.tokenizer_cache import tokenizer_of
from minseek.models.loading.gguf.weights import packed_weight, unpack, weight_names
from minseek.quant import GGUFFile, open_gguf

_IDS = {"bos_token_id": "bos", "pad_token_id": "padding"}
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # all releases


def gguf_tokenizer(path: Path) -> Any:
    """The transformers tokenizer of a GGUF file."""
    return tokenizer_of(open_gguf(path))


def gguf_transformers_config(path: Path) -> Any:
    """The transformers configuration of a GGUF file.

    Raises
    ------
    InputError
        If the model is not supported, or its rotary scaling is none that transformers knows.
    """
    from transformers import AutoConfig

    file = open_gguf(path)
    config = config_of(file)
    ids = {name: file.optional(f"tokenizer.ggml.{key}_token_id", int, -1) for name, key in _IDS.items()}
    made = AutoConfig.for_model(
        config.architecture,
        vocab_size=file.shapes["token_embd.weight"][0],
        hidden_size=size_of(file, "embedding_length"),
        intermediate_size=size_of(file, "feed_forward_length"),
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        max_position_embeddings=config.max_positions,
        rms_norm_eps=config.rms_norm_eps,
        rope_parameters=_rope_parameters(file, config),
        tie_word_embeddings="output.weight" not in file.tensors,
        attention_bias="blk.0.attn_output.bias" in file.tensors,
        mlp_bias="blk.0.ffn_down.bias" in file.tensors,
        eos_token_id=config.eos_token_ids,
        **{name: index for name, index in ids.items() if index >= 0},
    )
    _check_rotary(file, config, made)
    return made


def read_gguf_weights(path: Path, into: Mapping[str, Tensor]) -> None:
    """Fill tensors by transformers' names, of any dtype and device, one after the other.

    Raises
    ------
    InputError
        If the file lacks one of them, or has others.
    """
    file = open_gguf(path)
    config = config_of(file)
    names = weight_names(file, config)
    tied = {"lm_head.weight"} if "output.weight" not in file.tensors else set()
    if different := (names.keys() ^ into.keys()) - tied:
        raise InputError(f"{path} is not supported: {min(different)!r} is in it or in transformers' model, not in both")
    for name, stored in names.items():
        unpack(packed_weight(file, config, stored), into[name])
        file.release([file.tensors[stored]])


def gguf_transformers_model(path: Path, dtype: torch.dtype) -> Any:
    """The whole transformers model of a GGUF file, dense."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(gguf_transformers_config(path), dtype=dtype).eval()
    read_gguf_weights(path, {name: weight.detach() for name, weight in model.named_parameters()})
    return model


def _rope_parameters(file: GGUFFile, config: ModelConfig) -> dict[str, Any]:
    prefix = f"{config.architecture}.rope"
    kind = file.optional(f"{prefix}.scaling.type", str, "none") or "none"
    factor = file.optional(f"{prefix}.scaling.factor", float, 0.0) or file.optional(
        f"{prefix}.scale_linear", float, 1.0
    )
    rope: dict[str, Any] = {"rope_theta": file.optional(f"{prefix}.freq_base", float, 10000.0)}
    if FACTORS in file.tensors:
        return rope | _LLAMA3 | {"rope_type": "llama3", "factor": float(file.tensors[FACTORS].dequantize().max())}
    if kind == "yarn":
        original = file.optional(f"{prefix}.scaling.original_context_length", int, config.max_positions)
        rope |= {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
        return rope | {"attention_factor": config.rotary_scaling}
    return rope | ({"rope_type": "default"} if factor == 1 else {"rope_type": "linear", "factor": factor})


def _check_rotary(file: GGUFFile, config: ModelConfig, made: Any) -> None:
    """Refuse a file whose frequencies transformers would not compute from its own parameters."""
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    rotary = LlamaRotaryEmbedding(made)
    expected = torch.tensor(config.inv_freq)
    if not torch.allclose(rotary.inv_freq, expected, rtol=1e-4, atol=0):
        raise InputError(
            f"{file.path} cannot be used here: transformers has no parameters for its rotary scaling; give the model's "
            "safetensors directory"
        )
