"""Small GGUF files, written by gguf's own writer, and tiny models in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize
from tokenizers import pre_tokenizers

from minseek.quant import BLOCK_FORMATS, PackedTensor
from tests.helpers.tiny_models import CLOSE, END, OPEN, TEMPLATES, make_reference

FORMATS_BY_ROW = {name: 256 if form.block_size == 256 else 64 for name, form in BLOCK_FORMATS.items()}
"""Format -> a width of rows that is a whole number of its blocks."""
PIECES = {"▁": -1.0, "a": -2.0, "b": -2.5, "▁a": -0.5, "ab": -0.2, "▁ab": -0.7, "ba": -0.9, "aba": -0.1, "▁▁": -3.0}
"""Pieces of a SentencePiece tokenizer and their scores."""
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


WRITABLE_VARIANTS = (  # of tiny models, with rotary embeddings that GGUF files can describe and all layers alike
    *("llama", "llama-tied", "llama-mha", "llama-biases", "llama-linear", "llama-llama3"),
    *("qwen2", "qwen2-yarn", "qwen3", "qwen3-yarn", "mistral"),
)


def use_empty_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, without the C kernels, which would be built into it."""
    monkeypatch.setenv("MINSEEK_CACHE", str(folder / "cache"))
    monkeypatch.setenv("MINSEEK_NATIVE", "0")
    return folder / "cache"


def random_blocks(name: str, rows: int, blocks: int, seed: int = 0) -> PackedTensor:
    """Random blocks in the named format; a cleared bit keeps every fp16 scale finite."""
    form = BLOCK_FORMATS[name]
    data = np.random.default_rng(seed).integers(0, 256, (rows, blocks * form.block_bytes), dtype=np.uint8)
    return PackedTensor(form, rows, blocks * form.block_size, data & 0xBF)


def write_tensors(
    file: Path, tensors: dict[str, PackedTensor], add: Callable[[GGUFWriter], object] = lambda writer: None
) -> Path:
    """A file with those tensors and with the metadata that `add` adds."""
    writer = GGUFWriter(file, "llama")
    add(writer)
    for name, packed in tensors.items():
        writer.add_tensor(name, packed.data, raw_dtype=GGMLQuantizationType(packed.format.gguf_type))
    return close(writer, file)


def close(writer: GGUFWriter, file: Path) -> Path:
    """Write everything that was added."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def write_model(
    file: Path,
    variant: str,
    add: Callable[[GGUFWriter], object] = lambda writer: None,
    *,
    leave_out: str = "",
    packed: dict[str, PackedTensor] | None = None,
    **changes: Any,
) -> Path:
    """A tiny model as llama.cpp's converter writes it, in float32 but for the tensors in `packed`.

    `leave_out` is the name of a tensor or the key of an entry.
    """
    reference = make_reference(variant, **changes)
    config, kind = reference.config, variant.split("-")[0].replace("mistral", "llama")
    writer = GGUFWriter(file, kind)
    entries: dict[str, tuple[str, Any]] = {
        f"{kind}.context_length": ("uint32", config.max_position_embeddings),
        f"{kind}.embedding_length": ("uint32", config.hidden_size),
        f"{kind}.block_count": ("uint32", config.num_hidden_layers),
        f"{kind}.feed_forward_length": ("uint32", config.intermediate_size),
        f"{kind}.attention.head_count": ("uint32", config.num_attention_heads),
        f"{kind}.attention.head_count_kv": ("uint32", config.num_key_value_heads),
        f"{kind}.attention.key_length": ("uint32", config.head_dim),
        f"{kind}.attention.value_length": ("uint32", config.head_dim),
        f"{kind}.attention.layer_norm_rms_epsilon": ("float32", config.rms_norm_eps),
        f"{kind}.rope.dimension_count": ("uint32", config.head_dim),
        f"{kind}.rope.freq_base": ("float32", 10000.0),
        **_rope_entries(kind, config.rope_parameters),
        **_tokenizer_entries(config.vocab_size),
    }
    for key, (type_name, value) in entries.items():
        if key != leave_out:
            getattr(writer, f"add_{type_name}")(key, value)
    add(writer)
    if config.rope_parameters["rope_type"] == "llama3":
        plain = 1.0 / 10000.0 ** (np.arange(0, config.head_dim, 2) / config.head_dim)
        divisors = plain / reference.model.rotary_emb.inv_freq.numpy()
        writer.add_tensor("rope_freqs.weight", divisors.astype(np.float32))
    for name, tensor in reference.state_dict().items():
        there = _name_in_file(name)
        if there.rpartition(".")[0] == leave_out or (there == "output.weight" and config.tie_word_embeddings):
            continue
        if packed and there in packed:
            form = GGMLQuantizationType(packed[there].format.gguf_type)
            writer.add_tensor(there, packed[there].data, raw_dtype=form)
        else:
            weight = tensor.numpy()
            rotated = kind == "llama" and ("q_proj" in name or "k_proj" in name)
            writer.add_tensor(there, neighbors(weight, config.head_dim) if rotated else weight)
    return close(writer, file)


def open_tiny(folder: Path, variant: str, name: str) -> tuple[Path, dict[str, np.ndarray[Any, Any]]]:
    """A tiny model with random packed matrices, and some of them dense, in transformers' order of rows."""
    columns = FORMATS_BY_ROW[name]
    sizes = {"hidden_size": columns, "intermediate_size": columns, "num_hidden_layers": 2, "num_attention_heads": 4}
    blocks = columns // BLOCK_FORMATS[name].block_size
    rows = {"attn_q": 64, "attn_k": 32, "ffn_down": columns}
    packed = {f"blk.1.{role}.weight": random_blocks(name, count, blocks, count) for role, count in rows.items()}
    packed["token_embd.weight"] = random_blocks(name, 272, blocks, 1)
    file = write_model(folder / f"{variant}-{name}.gguf", variant, packed=packed, **sizes)
    form = GGMLQuantizationType(BLOCK_FORMATS[name].gguf_type)
    dense = {key: dequantize(tensor.data, form).reshape(tensor.shape) for key, tensor in packed.items()}
    q, k = dense["blk.1.attn_q.weight"], dense["blk.1.attn_k.weight"]
    if variant == "llama":  # back from neighbors to halves of 16 dimensions
        q, k = (w.reshape(-1, 8, 2, columns).swapaxes(1, 2).reshape(w.shape) for w in (q, k))
    return file, {"q": q, "k": k, "down": dense["blk.1.ffn_down.weight"], "embedding": dense["token_embd.weight"]}


def sentencepiece_file(file: Path, add: Callable[[GGUFWriter], object] = lambda writer: None) -> Path:
    """A file with no model, and a small tokenizer of SentencePiece."""
    writer = GGUFWriter(file, "llama")
    add(writer)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES, "<tool>"]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * 259 + list(PIECES.values()) + [0.0])
    writer.add_token_types([2, 3, 3, *[6] * 256, *[1] * len(PIECES), 4])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    return close(writer, file)


def neighbors(weight: np.ndarray[Any, Any], head_dim: int) -> np.ndarray[Any, Any]:
    """Rows as llama.cpp rotates them: neighbors, not halves of a head."""
    halves = weight.reshape(-1, 2, head_dim // 2, *weight.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)


def _name_in_file(name: str) -> str:
    path, _, ending = name.rpartition(".")
    if path.startswith("model.layers."):
        layer, _, part = path.removeprefix("model.layers.").partition(".")
        return f"blk.{layer}.{_NAMES[part]}.{ending}"
    return f"{_NAMES[path]}.{ending}"


def _rope_entries(kind: str, rope: dict[str, Any]) -> dict[str, tuple[str, Any]]:
    if rope["rope_type"] == "linear":
        return {
            f"{kind}.rope.scaling.type": ("string", "linear"),
            f"{kind}.rope.scaling.factor": ("float32", rope["factor"]),
        }
    if rope["rope_type"] == "yarn":
        original = rope["original_max_position_embeddings"]
        return {
            f"{kind}.rope.scaling.type": ("string", "yarn"),
            f"{kind}.rope.scaling.factor": ("float32", rope["factor"]),
            f"{kind}.rope.scaling.original_context_length": ("uint32", original),
        }
    return {}


def _tokenizer_entries(vocab_size: int) -> dict[str, tuple[str, Any]]:
    """The byte-level tokenizer of `make_tokenizer`."""
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), END, OPEN, CLOSE]
    tokens += [f"<unused{n}>" for n in range(vocab_size - len(tokens))]
    kinds = [3 if n == 256 else 4 if n in (257, 258) else 5 if n > 258 else 1 for n in range(vocab_size)]
    return {
        "tokenizer.ggml.model": ("string", "gpt2"),
        "tokenizer.ggml.pre": ("string", "gpt-2"),
        "tokenizer.ggml.tokens": ("array", tokens),
        "tokenizer.ggml.token_type": ("array", kinds),
        "tokenizer.ggml.eos_token_id": ("uint32", 256),
        "tokenizer.chat_template": ("string", TEMPLATES["opens"]),
    }
