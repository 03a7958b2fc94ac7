"""Weights of a decoder of the Llama family, named by their role and not copied."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from minseek.cache import CacheShape, Rotary
from minseek.errors import InputError
from minseek.models.config import ModelConfig
from minseek.models.matrix import Matrix, PackedMatrix
from minseek.native.pages import huge_bytes

_Key = TypeVar("_Key", bound=Hashable)
_ALIGNMENT = 64  # bytes: every tensor begins at a cache line
_NAMES = {
    "attn_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    **{name: f"self_attn.{name}_proj" for name in ("q", "k", "v", "o")},
    **{name: f"self_attn.{name}" for name in ("q_norm", "k_norm")},
    **{name: f"mlp.{name}_proj" for name in ("gate", "up", "down")},
}
_OPTIONAL = ("q_norm", "k_norm", *(f"{name}_bias" for name in ("q", "k", "v", "o", "gate", "up", "down")))


@dataclass(frozen=True)
class LayerWeights:
    """Weights of one layer: matrices [out, in], biases and norms [out]; None if the model has none."""

    attn_norm: Tensor
    q: Matrix
    k: Matrix
    v: Matrix
    o: Matrix
    mlp_norm: Tensor
    gate: Matrix
    up: Matrix
    down: Matrix
    q_bias: Tensor | None
    k_bias: Tensor | None
    v_bias: Tensor | None
    o_bias: Tensor | None
    gate_bias: Tensor | None
    up_bias: Tensor | None
    down_bias: Tensor | None
    q_norm: Tensor | None
    k_norm: Tensor | None
    window: int | None


@dataclass(frozen=True)
class DecoderWeights:
    """Weights, config and rotary embedding: everything a forward pass needs."""

    config: ModelConfig
    layers: list[LayerWeights]
    embedding: Matrix  # [vocabulary, hidden]
    norm: Tensor  # [hidden]
    lm_head: Matrix  # [vocabulary, hidden]; may be the embedding itself
    lm_head_bias: Tensor | None
    rotary: Rotary
    shape: CacheShape

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.norm.device

    @property
    def hidden_size(self) -> int:
        """Width of a hidden state."""
        return self.embedding.shape[1]

    @property
    def vocab_size(self) -> int:
        """Number of logits."""
        return self.lm_head.shape[0]

    @property
    def intermediate_size(self) -> int:
        """Width of the MLP."""
        return self.layers[0].gate.shape[0]

    @property
    def weight_bytes(self) -> int:
        """Bytes of all distinct weights; a decoding step reads each once, except an untied embedding."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def tensors(self) -> list[Matrix]:
        """All distinct weights."""
        tensors = [t for layer in self.layers for t in vars(layer).values() if isinstance(t, Tensor | PackedMatrix)]
        tensors += [t for t in (self.embedding, self.norm, self.lm_head, self.lm_head_bias) if t is not None]
        return list({t.data_ptr(): t for t in tensors}.values())


def from_state_dict(config: ModelConfig, weights: Mapping[str, Matrix]) -> DecoderWeights:
    """Weights by the names of a transformers state dict; they are shared, not copied.

    Raises
    ------
    InputError
        If a tensor is missing or left over, or is not a dense float32, float16 or bfloat16 matrix.
    """
    remaining = {name: matrix for name, matrix in weights.items() if not name.endswith("rotary_emb.inv_freq")}

    def take(name: str) -> Matrix:
        if name not in remaining:
            raise InputError(f"the model is not supported: it has no dense tensor {name!r}")
        tensor = remaining.pop(name)
        if isinstance(tensor, PackedMatrix):
            return tensor
        if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise InputError(
                f"the tensor {name!r} is stored as {tensor.dtype}: only dense float32, float16 and bfloat16 models "
                "are supported"
            )
        return tensor.detach().contiguous()

    def take_vector(name: str) -> Tensor:
        vector = take(name)
        if isinstance(vector, PackedMatrix):
            raise InputError(f"the model is not supported: its vector {name!r} is packed")
        return vector

    layers = []
    for index, window in enumerate(config.sliding_windows):
        found: dict[str, Matrix | None] = dict.fromkeys(_OPTIONAL)
        for name, path in _NAMES.items():
            path = f"model.layers.{index}.{path}"
            if name not in _OPTIONAL or f"{path}.weight" in remaining:
                found[name] = take(f"{path}.weight")
            if f"{path}.bias" in remaining:
                found[f"{name}_bias"] = take(f"{path}.bias")
        layers.append(LayerWeights(**found, window=window))  # type: ignore[arg-type]
    embedding = take("model.embed_tokens.weight")
    norm = take_vector("model.norm.weight")
    lm_head = take("lm_head.weight") if "lm_head.weight" in remaining else embedding
    lm_head_bias = take_vector("lm_head.bias") if "lm_head.bias" in remaining else None
    if remaining:
        raise InputError(f"the model is not supported: its tensor {min(remaining)!r} is unknown")
    inv_freq = torch.tensor(config.inv_freq, dtype=torch.float32, device=norm.device)
    return DecoderWeights(
        config=config,
        layers=layers,
        embedding=embedding,
        norm=norm,
        lm_head=lm_head,
        lm_head_bias=lm_head_bias,
        rotary=Rotary(inv_freq, config.rotary_scaling),
        shape=CacheShape(config.num_layers, config.num_kv_heads, config.head_dim, norm.dtype),
    )


def pack_contiguous(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy CPU tensors into one allocation on huge pages; tensors that share memory still do.

    The dictionary is emptied on the way, so that each original without other references is freed once copied.
    """
    originals = {_storage_key(tensor): tensor for tensor in weights.values()}
    copies = _allocate({key: (tensor.shape, tensor.dtype) for key, tensor in originals.items()})
    del originals
    packed, copied = {}, set()
    for name in list(weights):
        tensor = weights.pop(name)
        key = _storage_key(tensor)
        if key not in copied:
            copies[key].copy_(tensor)
            copied.add(key)
        packed[name] = copies[key]
    return packed


def packed_views(shapes: Mapping[str, Sequence[int]], dtype: torch.dtype) -> dict[str, Tensor]:
    """Uninitialized CPU tensors in one allocation on huge pages."""
    return _allocate({name: (shape, dtype) for name, shape in shapes.items()})


def _allocate(tensors: Mapping[_Key, tuple[Sequence[int], torch.dtype]]) -> dict[_Key, Tensor]:
    """Uninitialized tensors of these shapes and dtypes in one allocation, each at the beginning of a cache line."""
    sizes = {key: math.prod(shape) * dtype.itemsize for key, (shape, dtype) in tensors.items()}
    buffer, offset = huge_bytes(sum(-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes.values())), 0
    made = {}
    for key, (shape, dtype) in tensors.items():
        made[key] = buffer[offset : offset + sizes[key]].view(dtype).view(tuple(shape))
        offset += -(-sizes[key] // _ALIGNMENT) * _ALIGNMENT
    return made


def _storage_key(tensor: Tensor) -> tuple[object, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype
