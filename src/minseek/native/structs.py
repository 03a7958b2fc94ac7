"""Structures that kernels share with Python, field by field as in kernels/*.h and *.c."""

from __future__ import annotations

from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p

LAYER_MATRICES = ("q", "k", "v", "o", "gate", "up", "down")
LAYER_VECTORS = (*(f"{name}_bias" for name in LAYER_MATRICES), "attn_norm", "mlp_norm", "q_norm", "k_norm")
DECODER_SIZES = (
    *("num_layers", "num_heads", "num_kv_heads", "head_dim"),
    *("hidden_size", "intermediate_size", "vocab_size", "num_threads"),
)


class WeightMatrix(Structure):
    """A matrix whose rows are dense or packed; `format` is the number of its type in GGUF files."""

    _fields_ = (("rows", c_void_p), ("row_bytes", c_int64), ("format", c_int32), ("reserved", c_int32))


class LayerWeightsStruct(Structure):
    """One layer's weights, and its window."""

    _fields_ = (
        *((name, WeightMatrix) for name in LAYER_MATRICES),
        *((name, c_void_p) for name in LAYER_VECTORS),
        *((name, c_int32) for name in ("window", "reserved")),
    )


class DecoderStruct(Structure):
    """A decoder's sizes, constants and weights."""

    _fields_ = (
        *((name, c_int32) for name in DECODER_SIZES),
        *((name, c_float) for name in ("rms_norm_eps", "attention_scale")),
        *((name, WeightMatrix) for name in ("embedding", "lm_head")),
        *((name, c_void_p) for name in ("norm", "lm_head_bias")),
        ("layers", POINTER(LayerWeightsStruct)),
    )


class SequenceStruct(Structure):
    """One sequence's part of a pass; arrays of pointers have one for each layer."""

    _fields_ = (
        *((name, c_int32) for name in ("num_tokens", "first_column", "position", "window_start")),
        *((name, c_int32) for name in ("query_index", "block")),
        *((name, POINTER(c_int32)) for name in ("lengths", "capacities")),
        *((name, POINTER(c_void_p)) for name in ("keys", "values", "raw_keys", "positions")),
        *((name, POINTER(c_void_p)) for name in ("attn_sum", "attn_window_sum", "queries")),
    )


class StepArgs(Structure):
    """Input and output of a step of one sequence."""

    _fields_ = (
        *((name, c_int32) for name in ("token", "length", "capacity", "reserved")),
        *((name, POINTER(c_void_p)) for name in ("keys", "values", "raw_keys")),
        *((name, c_void_p) for name in ("cosine", "sine", "scratch", "logits")),
    )


class ForwardArgs(Structure):
    """Input and output of a pass over many sequences."""

    _fields_ = (
        ("tokens", POINTER(c_int32)),
        ("sequences", POINTER(SequenceStruct)),
        *((name, c_void_p) for name in ("cosine", "sine", "memory")),
        ("output_columns", POINTER(c_int32)),
        *((name, c_void_p) for name in ("logits", "hidden")),
        *((name, c_int32) for name in ("num_columns", "num_sequences", "max_kv_len", "num_outputs", "num_logits")),
        ("reserved", c_int32),
    )


class CacheView(Structure):
    """The pairs that a kernel of an eviction works on."""

    _fields_ = (
        *((name, c_int32) for name in ("layers", "heads", "capacity", "num_pairs", "head_dim", "num_threads")),
        ("layer_stride", c_int64),
    )


STRUCTURES: dict[str, type[Structure]] = {
    "weight_matrix": WeightMatrix,
    "layer_weights": LayerWeightsStruct,
    "decoder": DecoderStruct,
    "sequence": SequenceStruct,
    "step_args": StepArgs,
    "forward_args": ForwardArgs,
    "cache_view": CacheView,
}
