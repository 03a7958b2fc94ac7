"""A GGUF in bf16, f16 or f32 from a dense Hugging Face folder, with the metadata of the GGUF it came from."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType, quantize

FOLDER = Path.home() / ".cache" / "minseek" / "peers"
KINDS = {
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
}
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def dense_gguf(shipped: Path, folder: Path, kind: str) -> Path:
    """The file, written on first use."""
    if kind not in KINDS:
        raise SystemExit(f"gguf_dtype is {kind!r}: give one of {', '.join(KINDS)}")
    target = FOLDER / f"{folder.name}-{kind}.gguf"
    if not target.is_file():
        part = target.with_suffix(f".{os.getpid()}")
        _convert(shipped, folder, kind, part)
        part.replace(target)
    return target


def _convert(shipped: Path, folder: Path, kind: str, target: Path) -> None:
    """Metadata and the order of tensors from the shipped file, values from the folder; norms stay f32."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    storage, file_type = KINDS[kind]
    reader = GGUFReader(shipped)
    architecture = reader.get_field("general.architecture").contents()
    heads = reader.get_field(f"{architecture}.attention.head_count").contents()
    kv_heads = reader.get_field(f"{architecture}.attention.head_count_kv").contents()
    writer = GGUFWriter(target, architecture)
    for name, entry in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        sub = entry.types[-1] if entry.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, entry.contents(), entry.types[0], sub_type=sub)
    writer.add_file_type(file_type)
    weights = _bfloat16(folder / "model.safetensors")
    for tensor in reader.tensors:
        values = weights[_name(tensor.name)]
        if ".attn_q." in tensor.name or ".attn_k." in tensor.name:
            values = _interleaved(values, heads if ".attn_q." in tensor.name else kv_heads)
        form = storage if values.ndim > 1 else GGMLQuantizationType.F32
        writer.add_tensor(tensor.name, quantize(values, form), raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _bfloat16(file: Path) -> dict[str, np.ndarray]:
    """The tensors of a bfloat16 safetensors file as float32: numpy has no bfloat16, and torch is not here."""
    data = np.memmap(file, np.uint8, "r")
    start = 8 + int(data[:8].view(np.uint64)[0])
    tensors = {}
    for name, entry in json.loads(data[8:start].tobytes()).items():
        if name == "__metadata__":
            continue
        if entry["dtype"] != "BF16":
            raise SystemExit(f"{file} holds {name} in {entry['dtype']}: give a bfloat16 folder")
        begin, end = (start + offset for offset in entry["data_offsets"])
        bits = np.frombuffer(data[begin:end].tobytes(), np.uint16).astype(np.uint32) << 16
        tensors[name] = bits.view(np.float32).reshape(entry["shape"])
    return tensors


def _name(name: str) -> str:
    """Hugging Face's name of a GGUF tensor."""
    if not name.startswith("blk."):
        return WHOLE[name.removesuffix(".weight")] + ".weight"
    _, layer, part, kind = name.split(".")
    return f"model.layers.{layer}.{LAYER[part]}.{kind}"


def _interleaved(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows in llama.cpp's order: a rotated pair side by side, not half a head apart."""
    rows, columns = values.shape
    return np.ascontiguousarray(values.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2)).reshape(
        rows, columns
    )
