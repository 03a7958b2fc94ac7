"""Weights of a GGUF file under the names of transformers, in the order of rows that transformers uses."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from minseek.errors import InputError
from minseek.models.config import ModelConfig
from minseek.models.device import DeviceChoice
from minseek.models.loading.gguf.config import size_of
from minseek.models.loading.gguf.rotary import FACTORS
from minseek.models.matrix import Matrix, PackedMatrix
from minseek.models.weights import packed_views
from minseek.quant import BLOCK_FORMATS, GGUFFile, PackedTensor

_UNPACKED_AT_ONCE = 2**17  # weights: float32 values stay in the second cache until they are converted
_ONE_THREAD = (
    2**14
)  # weights that torch converts without waking other threads, which on a busy machine takes 10x as long
_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_INNER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    **{f"attn_{name}": f"self_attn.{name}_proj" for name in ("q", "k", "v")},
    **{f"ffn_{name}": f"mlp.{name}_proj" for name in ("gate", "up", "down")},
}
_OUTER_OF = {theirs: ours for ours, theirs in _OUTER.items()}
_INNER_OF = {theirs: ours for ours, theirs in _INNER.items()}
_TRANSFORMERS_LAYER = re.compile(r"model\.layers\.(\d{1,9})\.([\w.]+)\.(weight|bias)")
_LAYER = re.compile(r"blk\.(\d{1,9})\.(\w+)\.(weight|bias)")


def weight_names(file: GGUFFile, config: ModelConfig) -> dict[str, str]:
    """Name in transformers' state dict -> name in the file, of every weight.

    Raises
    ------
    InputError
        If a tensor is missing or unknown, or its shape contradicts the metadata.
    """
    expected = _expected_shapes(file, config)
    if missing := [name for name, (_, required) in expected.items() if required and name not in file.tensors]:
        raise InputError(f"{file.path} is incomplete: it lacks {len(missing)} tensors, the first is {missing[0]!r}")
    names = {}
    for name, found in file.shapes.items():
        if name == FACTORS:
            continue
        if name not in expected:
            raise InputError(f"{file.path} is not supported: its tensor {name!r:.80} is unknown")
        shape = expected[name][0]
        if found != shape:
            raise InputError(
                f"{file.path} is damaged: its tensor {name!r} is {list(found)}, and its metadata says {list(shape)}"
            )
        names[_transformers_name(name)] = name
    return names


def packed_weight(file: GGUFFile, config: ModelConfig, name: str) -> PackedTensor:
    """A weight of the file with its rows in transformers' order; a vector is a matrix of one row.

    Llama models rotate neighboring rows of query and key projections in GGUF files, and halves of a head in
    transformers: the blocks of these projections are copied, others are views of the file.
    """
    packed, match = file.tensors[name], _LAYER.fullmatch(name)
    if config.architecture == "llama" and match and match[2] in ("attn_q", "attn_k"):
        return _halves(packed, config.head_dim)
    return packed


def map_weights(file: GGUFFile, config: ModelConfig, dtype: torch.dtype) -> dict[str, Matrix]:
    """Weights by transformers' names: matrices stay packed, as views of the mapped file; vectors are dense.

    Raises
    ------
    InputError
        If the tensors are not those of the config; see `weight_names`.
    """
    weights: dict[str, Matrix] = {}
    for name, stored in weight_names(file, config).items():
        packed = packed_weight(file, config, stored)
        if len(file.shapes[stored]) == 1:
            vector = torch.empty(file.shapes[stored], dtype=dtype)
            unpack(packed, vector)
            weights[name] = vector
        else:
            weights[name] = PackedMatrix(packed, dtype)
    return weights


def unpack_weights(file: GGUFFile, config: ModelConfig, placement: DeviceChoice) -> dict[str, Tensor]:
    """Dense weights by transformers' names, unpacked one tensor after the other, on the CPU into one allocation.

    Memory: the dense weights, and one tensor of the file at a time.

    Raises
    ------
    InputError
        If the tensors are not those of the config; see `weight_names`.
    """
    names = weight_names(file, config)
    shapes = {name: file.shapes[stored] for name, stored in names.items()}
    if placement.device.type == "cpu":
        dense = packed_views(shapes, placement.dtype)
    else:
        dense = {n: torch.empty(shape, dtype=placement.dtype, device=placement.device) for n, shape in shapes.items()}
    for name, stored in names.items():
        unpack(packed_weight(file, config, stored), dense[name])
        file.release([file.tensors[stored]])
    return dense


def gguf_name(name: str) -> str:
    """Name in GGUF files of a weight of transformers' state dict.

    Raises
    ------
    InputError
        If there is none.
    """
    match = _TRANSFORMERS_LAYER.fullmatch(name)
    if match and match[2] in _INNER_OF:
        return f"blk.{match[1]}.{_INNER_OF[match[2]]}.{match[3]}"
    outer, _, kind = name.rpartition(".")
    if outer not in _OUTER_OF or kind not in ("weight", "bias"):
        raise InputError(f"the model is not supported: its tensor {name!r:.80} is unknown")
    return f"{_OUTER_OF[outer]}.{kind}"


def _transformers_name(name: str) -> str:
    """Name of a tensor in transformers' state dict."""
    match = _LAYER.fullmatch(name)
    if match:
        return f"model.layers.{match[1]}.{_INNER[match[2]]}.{match[3]}"
    outer, _, kind = name.rpartition(".")
    return f"{_OUTER[outer]}.{kind}"


def unpack(packed: PackedTensor, target: Tensor) -> None:
    """Write the weights of a packed matrix into a dense tensor, of any dtype and device, a few rows at a time."""
    rows = max(1, _UNPACKED_AT_ONCE // packed.columns)
    flat = target.view(-1)
    for first in range(0, packed.rows, rows):
        values = torch.from_numpy(packed.dequantize(first, min(first + rows, packed.rows))).view(-1)
        into = flat[first * packed.columns :][: len(values)]
        at_once = _ONE_THREAD if target.device.type == "cpu" else len(values)
        for source, part in zip(torch.split(values, at_once), torch.split(into, at_once), strict=True):
            part.copy_(source)


def _expected_shapes(file: GGUFFile, config: ModelConfig) -> dict[str, tuple[tuple[int, ...], bool]]:
    """Name -> shape, and whether the model needs it."""
    hidden = size_of(file, "embedding_length")
    inner = size_of(file, "feed_forward_length")
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    tokens = file.shapes.get("token_embd.weight", (0, hidden))[0]
    matrices = {
        **{"attn_q": (queries, hidden), "attn_k": (keys, hidden), "attn_v": (keys, hidden)},
        **{"attn_output": (hidden, queries), "ffn_gate": (inner, hidden), "ffn_up": (inner, hidden)},
        "ffn_down": (hidden, inner),
    }
    qk_norm = config.architecture == "qwen3"
    expected: dict[str, tuple[tuple[int, ...], bool]] = {
        "token_embd.weight": ((tokens, hidden), True),
        "output_norm.weight": ((hidden,), True),
        "output.weight": ((tokens, hidden), False),
        "output.bias": ((tokens,), False),
    }
    for layer in range(config.num_layers):
        for name, shape in matrices.items():
            expected[f"blk.{layer}.{name}.weight"] = (shape, True)
            expected[f"blk.{layer}.{name}.bias"] = (shape[:1], False)
        for name in ("attn_norm", "ffn_norm"):
            expected[f"blk.{layer}.{name}.weight"] = ((hidden,), True)
        for name in ("attn_q_norm", "attn_k_norm") if qk_norm else ():
            expected[f"blk.{layer}.{name}.weight"] = ((config.head_dim,), True)
    return expected


def _halves(packed: PackedTensor, head_dim: int) -> PackedTensor:
    """Rows, or the elements of a bias, as pairs of neighbors -> as two halves of each head."""
    if packed.rows == 1:
        values = packed.dequantize().reshape(-1, head_dim // 2, 2).swapaxes(1, 2)
        data = np.ascontiguousarray(values).reshape(1, -1).view(np.uint8)
        return PackedTensor(BLOCK_FORMATS["f32"], 1, packed.columns, data)
    blocks = packed.data.reshape(-1, head_dim // 2, 2, packed.data.shape[1]).swapaxes(1, 2)
    return replace(packed, data=blocks.reshape(packed.data.shape))
