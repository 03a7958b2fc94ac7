"""Models in GGUF files: the logits, the config and the tokens of the same model in transformers; refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from transformers import AutoModelForCausalLM

import minseek
from minseek.models import THINK
from minseek.models.config import from_transformers
from minseek.models.loading.gguf.config import config_of
from minseek.models.loading.gguf.transformers_model import gguf_transformers_model
from minseek.quant import open_gguf
from tests.helpers.gguf_files import FORMATS_BY_ROW, WRITABLE_VARIANTS, open_tiny, use_empty_cache, write_model
from tests.helpers.loading import load_cpu, refusal
from tests.helpers.tiny_models import CLOSE, END, make_reference

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    return use_empty_cache(tmp_path, monkeypatch)


@pytest.mark.parametrize("variant", WRITABLE_VARIANTS)
def test_logits_and_config_are_those_of_transformers(tmp_path: Path, variant: str) -> None:
    reference = make_reference(variant)
    model = load_cpu(write_model(tmp_path / "tiny.gguf", variant))
    expected = from_transformers(reference)
    config = model.weights.config
    np.testing.assert_allclose(config.inv_freq, expected.inv_freq, rtol=1e-6)
    for name in (
        "num_layers",
        "num_heads",
        "num_kv_heads",
        "head_dim",
        "sliding_windows",
        "max_positions",
        "eos_token_ids",
    ):
        assert getattr(config, name) == getattr(expected, name), name
    for name in ("rms_norm_eps", "attention_scale", "rotary_scaling"):
        assert getattr(config, name) == pytest.approx(getattr(expected, name), rel=1e-6), name
    ids = torch.randint(0, 256, (1, 200), generator=torch.manual_seed(3))
    logits = model.session().forward(ids[0].tolist())
    torch.testing.assert_close(logits, reference(ids).logits[0, -1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FORMATS_BY_ROW)
@pytest.mark.parametrize("variant", ["llama", "qwen2"])
def test_weights_of_every_format_are_unpacked_into_their_places(tmp_path: Path, name: str, variant: str) -> None:
    file, dense = open_tiny(tmp_path, variant, name)
    weights = load_cpu(file).weights
    layer = weights.layers[1]
    for role, tensor in {"q": layer.q, "k": layer.k, "down": layer.down, "embedding": weights.embedding}.items():
        np.testing.assert_array_equal(tensor.numpy(), dense[role])
    assert load_cpu(file, dtype="bfloat16").weights.layers[1].q.dtype == torch.bfloat16


def test_it_speaks_as_the_directory_does(tmp_path: Path, tiny_folders: dict[str, Path]) -> None:
    directory, file = load_cpu(tiny_folders["llama"]), load_cpu(write_model(tmp_path / "tiny.gguf", "llama"))
    text = f"Hello, wörld{CLOSE}{END}"
    assert file.thinking is THINK
    assert file.architecture == "llama"
    assert file.encode(text) == directory.encode(text)
    assert file.decode(file.encode(text)) == text
    run = {
        "sampling": minseek.Sampling(temperature=0),
        "limits": minseek.Limits(max_thought_tokens=20, answer_tokens=8),
    }
    assert minseek.reason(file, "Why?", **run).tokens == minseek.reason(directory, "Why?", **run).tokens  # type: ignore[arg-type]


@pytest.mark.parametrize("variant", WRITABLE_VARIANTS)
def test_a_transformers_model_is_made_of_it(tmp_path: Path, variant: str) -> None:
    if variant in ("llama-llama3", "mistral"):
        pytest.skip("its original context is no real model's, or llama.cpp names it llama")
    made = gguf_transformers_model(write_model(tmp_path / "tiny.gguf", variant), torch.float32)
    reference = make_reference(variant)
    ids = torch.arange(40)[None]
    torch.testing.assert_close(made(ids).logits, reference(ids).logits, rtol=1e-5, atol=1e-5)
    made.save_pretrained(tmp_path / "folder")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "folder", dtype=torch.float32)
    torch.testing.assert_close(again(ids).logits, made(ids).logits)


def test_no_dense_copy_is_kept(tmp_path: Path, cache: Path) -> None:
    load_cpu(write_model(tmp_path / "tiny.gguf", "llama"))
    assert [folder.name for folder in cache.iterdir()] == ["tokenizers"]


# refusals


def changed(add: Callable[[GGUFWriter], object], leave_out: str = "", variant: str = "llama") -> Callable[[Path], Path]:
    return lambda file: write_model(file, variant, add, leave_out=leave_out)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (changed(lambda w: None, "blk.1.ffn_up"), "lacks 1 tensors, the first is 'blk.1.ffn_up.weight'"),
        (changed(lambda w: w.add_tensor("blk.0.odd.weight", np.ones(8, np.float32))), "'blk.0.odd.weight' is unknown"),
        (changed(lambda w: w.add_tensor("rope_freqs.weight", np.ones(3, np.float32))), "no 8 positive numbers"),
        (changed(lambda w: w.add_tensor("rope_factors_long.weight", np.ones(8, np.float32))), "longrope"),
        (changed(lambda w: w.add_uint32("llama.expert_count", 8)), "llama.expert_count is 8 instead of 0"),
        (changed(lambda w: w.add_float32("llama.logit_scale", 2.0)), "llama.logit_scale is 2.0"),
        (changed(lambda w: w.add_string("llama.rope.scaling.type", "longrope")), "scaling is 'longrope'"),
        (changed(lambda w: w.add_float32("llama.rope.scaling.factor", -1.0)), "the factor -1.0"),
        (changed(lambda w: None, "llama.block_count"), "lacks llama.block_count"),
        (changed(lambda w: w.add_uint32("llama.block_count", 2**30), "llama.block_count"), "1,073,741,824 layers"),
        (changed(lambda w: w.add_uint32("llama.block_count", 4), "llama.block_count"), "lacks 9 tensors"),
        (changed(lambda w: w.add_uint32("llama.block_count", 2), "llama.block_count"), "is unknown"),
        (changed(lambda w: w.add_uint32("llama.block_count", 0), "llama.block_count"), "0 instead of a positive"),
        (changed(lambda w: w.add_string("llama.block_count", "3"), "llama.block_count"), "'3' instead of a positive"),
        (changed(lambda w: w.add_uint32("llama.attention.key_length", 2**30), "llama.attention.key_length"), "2^30"),
        (changed(lambda w: w.add_uint32("llama.embedding_length", 64), "llama.embedding_length"), "metadata says"),
        (
            changed(lambda w: w.add_array("llama.attention.head_count_kv", [2, 1, 2]), "llama.attention.head_count_kv"),
            "differs",
        ),
        (
            changed(lambda w: w.add_string("tokenizer.ggml.pre", "martian"), "tokenizer.ggml.pre"),
            "'martian' is unknown",
        ),
        (changed(lambda w: w.add_string("tokenizer.ggml.model", "bert"), "tokenizer.ggml.model"), "kind 'bert'"),
        (changed(lambda w: None, "tokenizer.ggml.tokens"), "lacks tokenizer.ggml.tokens"),
        (changed(lambda w: w.add_array("tokenizer.ggml.merges", ["q"]), "tokenizer.ggml.merges"), "no pair of tokens"),
        (
            changed(lambda w: w.add_array("tokenizer.ggml.merges", ["zz zz"]), "tokenizer.ggml.merges"),
            "cannot be built",
        ),
        (changed(lambda w: w.add_array("tokenizer.ggml.token_type", [1]), "tokenizer.ggml.token_type"), "1 types"),
    ],
)
def test_a_file_that_would_lose_something_is_refused(
    tmp_path: Path, cache: Path, make: Callable[[Path], Path], said: str
) -> None:
    text = refusal(make(tmp_path / "odd.gguf"))
    assert said.replace("2^30", f"{2**30}") in text
    assert "odd.gguf" in text


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("gpt2", "not been verified"), ("gemma2", "caps its logits"), ("qwen3moe", "mixture of experts")],
)
def test_another_architecture_is_refused_with_the_reason(tmp_path: Path, kind: str, reason: str) -> None:
    writer = GGUFWriter(tmp_path / "other.gguf", kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    text = refusal(tmp_path / "other.gguf")
    assert repr(kind) in text
    assert reason in text


@pytest.mark.parametrize("content", [b"", b"GGU", b"GGUF", b"\0" * 100, b"GGUF" + b"\xff" * 100])
def test_a_corrupt_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.gguf").write_bytes(content)
    assert "bad.gguf is" in refusal(tmp_path / "bad.gguf")


def test_end_of_turn_tokens_are_found_by_name(tmp_path: Path) -> None:
    def add(writer: GGUFWriter) -> None:
        writer.add_uint32("tokenizer.ggml.eot_token_id", 258)

    assert config_of(open_gguf(write_model(tmp_path / "tiny.gguf", "llama", add))).eos_token_ids == [256, 258]
