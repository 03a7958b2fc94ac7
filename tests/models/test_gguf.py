"""GGUF files: conversion, cache, and the refusal of files that would lose something."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFWriter, RopeScalingType
from tokenizers import pre_tokenizers

import minseek
from minseek import MinseekWarning
from minseek.models import THINK
from minseek.models.loading import gguf
from minseek.units import format_bytes
from tests.helpers.loading import load_cpu, refusal
from tests.helpers.tiny_models import CLOSE, END, OPEN, TEMPLATES, make_reference

pytestmark = pytest.mark.usefixtures("one_thread")


_GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama of the directories, as a GGUF file in float32."""
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def write_gguf(file: Path, add: Callable[[GGUFWriter], object] = lambda writer: None, leave_out: str = "") -> Path:
    reference = make_reference("llama")
    config = reference.config
    writer = GGUFWriter(file, "llama")
    add(writer)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), END, OPEN, CLOSE, "ab"]
    tokens += [f"<unused{n}>" for n in range(config.vocab_size - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if 256 <= n < 259 else 1 for n in range(len(tokens))])  # 3 is a control token
    writer.add_token_merges(["a b"])  # transformers wants one at least
    writer.add_eos_token_id(256)
    writer.add_chat_template(TEMPLATES["opens"])
    for name, tensor in reference.state_dict().items():
        *_, part = path = name.removesuffix(".weight").removeprefix("model.layers.").split(".", 1)
        there = f"blk.{path[0]}.{_GGUF_NAMES[part]}" if path[0].isdigit() else _GGUF_NAMES[".".join(path)]
        weight = tensor.numpy()
        if part in ("self_attn.q_proj", "self_attn.k_proj"):  # llama.cpp rotates neighbors, not halves
            halves = weight.reshape(-1, 2, config.head_dim // 2, weight.shape[1])
            weight = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)
        if there != leave_out:
            writer.add_tensor(f"{there}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.mark.parametrize(
    ("add", "leave_out", "said"),
    [
        (lambda w: w.add_rope_scaling_type(RopeScalingType.YARN), "", "rotary embedding (yarn)"),
        (lambda w: w.add_tensor("rope_freqs.weight", np.ones(8, np.float32)), "", "rope_freqs.weight"),
        (lambda w: w.add_uint16("split.count", 3), "", "one of 3 parts"),
        (lambda w: None, "blk.1.ffn_up", "model.layers.1.mlp.up_proj.weight"),
    ],
)
def test_a_gguf_file_that_would_lose_something_is_refused(
    add: Callable[[GGUFWriter], object], leave_out: str, said: str, tmp_path: Path, kept: Path
) -> None:
    text = refusal(write_gguf(tmp_path / "lossy.gguf", add, leave_out))
    assert said in text
    assert not kept.exists() or not any(kept.iterdir())


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Cache folder of converted models."""
    monkeypatch.setenv("MINSEEK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MINSEEK_NATIVE", "0")  # an empty cache would have the C step built
    return tmp_path / "cache" / "dense"


def load_warned(source: Path, **options: Any) -> tuple[minseek.Model, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MinseekWarning)
        model = load_cpu(source, **options)
    return model, [str(w.message) for w in caught if w.category is MinseekWarning]


def test_a_gguf_file_is_converted_once_and_gives_the_same_logits(
    tiny_gguf: Path, kept: Path, tiny_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = load_cpu(tiny_folders["llama"])
    model, first = load_warned(tiny_gguf)
    (folder,) = kept.iterdir()
    assert len(first) == 2
    assert "tiny.gguf was converted to float32" in first[0]
    assert str(folder) in first[0]
    sizes = [tiny_gguf.stat().st_size, (folder / "model.safetensors").stat().st_size]
    assert all(format_bytes(size) in first[1] for size in sizes)

    monkeypatch.setattr(gguf, "_convert", lambda *_: pytest.fail("it was converted again"))
    again, second = load_warned(tiny_gguf)
    assert second == first[1:]

    text = f"Hello, wörld{CLOSE}{END}"
    for one in (model, again):
        assert one.architecture == "llama"
        assert one.thinking is THINK
        assert (one.max_positions, one.eos_token_ids) == (512, {256})
        assert one.encode(text) == reference.encode(text)
        assert one.decode(one.encode(text)) == text
        ids = reference.encode(text)
        torch.testing.assert_close(one.session().forward(ids), reference.session().forward(ids), rtol=1e-4, atol=1e-4)


def test_a_gguf_file_that_changed_or_another_dtype_is_converted_again(
    tiny_gguf: Path, kept: Path, tmp_path: Path
) -> None:
    file = Path(shutil.copy(tiny_gguf, tmp_path / "copy.gguf"))
    assert len(load_warned(file)[1]) == 2
    assert len(load_warned(file, dtype="bfloat16")[1]) == 2
    os.utime(file, ns=(1, 1))
    assert len(load_warned(file)[1]) == 2
    assert len(list(kept.iterdir())) == 3


def test_a_conversion_that_fails_leaves_nothing(tiny_gguf: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(model: object) -> None:
        assert any(kept.iterdir()), "the temporary folder is next to the kept ones"
        raise OSError("no space left on device")

    monkeypatch.setattr(gguf, "from_transformers", fail)
    with pytest.raises(OSError, match="no space"):
        load_cpu(tiny_gguf)
    assert list(kept.iterdir()) == []


def test_a_gguf_file_of_another_architecture_is_refused(kept: Path, tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "other.gguf", "gpt2")
    writer.add_block_count(1)
    writer.add_embedding_length(8)
    writer.add_head_count(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MinseekWarning)
        assert "gpt2" in refusal(tmp_path / "other.gguf")
    assert not kept.exists()


@pytest.mark.parametrize("content", [b"", b"GGU", b"GGUF", b"\0" * 100, b"GGUF" + b"\xff" * 100])
def test_a_corrupt_gguf_file_is_refused(kept: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.gguf").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MinseekWarning)
        assert "bad.gguf" in refusal(tmp_path / "bad.gguf")
    assert not kept.exists()


def test_a_truncated_gguf_file_is_refused_as_truncated(tiny_gguf: Path, kept: Path, tmp_path: Path) -> None:
    content = tiny_gguf.read_bytes()
    (tmp_path / "half.gguf").write_bytes(content[: len(content) // 2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MinseekWarning)
        text = refusal(tmp_path / "half.gguf")
    assert "half.gguf" in text
    assert "reshape" not in text, "what went wrong inside is not what is wrong with the file"
    assert not kept.exists()
