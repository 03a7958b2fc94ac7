"""Loading of directories by name, and the refusal of all others."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minseek.models import THINK
from tests.helpers.loading import load_cpu, refusal
from tests.helpers.tiny_models import ARCHITECTURES, CLOSE

pytestmark = pytest.mark.usefixtures("one_thread")


# Directories


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_directory_of_each_architecture_loads_and_reads(tiny_folders: dict[str, Path], kind: str) -> None:
    model = load_cpu(tiny_folders[kind])
    assert (model.name, model.architecture, model.max_positions) == (str(tiny_folders[kind]), kind, 512)
    assert model.thinking is THINK
    assert model.eos_token_ids == {256}
    assert model.decode(model.encode(f"é{CLOSE}")) == f"é{CLOSE}"
    logits = model.session().forward(model.encode("Why?"))
    assert logits.shape == (272,)
    assert logits.isfinite().all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "bf16", "fp16", "fp32"])
def test_the_weights_take_the_dtype_asked_for(tiny_folders: dict[str, Path], dtype: str) -> None:
    model = load_cpu(tiny_folders["llama"], dtype=dtype)
    assert model.weights.embedding.dtype == model.placement.dtype
    assert str(model.placement.dtype).endswith(("float" if dtype[0] == "f" else "bfloat") + re.sub(r"\D", "", dtype))
    assert model.session().forward([1, 2, 3]).isfinite().all()


def test_a_relative_directory_loads(tiny_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_folders["llama"].parent)
    assert load_cpu(tiny_folders["llama"].name).architecture == "llama"


# Refusals


@pytest.mark.parametrize(
    "name", ["nonesuch", "/nonesuch/folder", "/nonesuch/model.gguf", "./some/model", "a/b/c", "a b/c", "~/nonesuch"]
)
def test_an_unknown_name_is_refused_with_the_choices(name: str) -> None:
    text = refusal(name)
    assert repr(name) in text
    assert "smollm2" in text
    assert "Hub id" in text


def test_an_alias_that_is_not_here_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("minseek.models.loading.aliases.find_spec", lambda name: None)
    monkeypatch.setenv("MINSEEK_CACHE", str(tmp_path))
    assert refusal("smollm2").endswith("run minseek models --get smollm2")


def test_an_unreachable_hub_id_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    assert "'some/unreachable'" in refusal("some/unreachable")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("gpt2", "has not been verified"),
        ("gemma3_text", "rotary embedding per layer type"),
        ("smollm3", "no rotary embedding"),
        ("phi3", "only a part of each head"),
        ("deepseek_v3", "latent attention"),
    ],
)
def test_an_architecture_is_refused_with_the_reason(tmp_path: Path, kind: str, reason: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    text = refusal(tmp_path)
    assert repr(kind) in text
    assert reason in text
    assert "llama, qwen2, qwen3, mistral" in text


_ROPE = {"rope_theta": 10000.0, "factor": 2.0}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rope_parameters": {"rope_type": "dynamic", **_ROPE}}, "'dynamic'"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5, **_ROPE}}, "part of each head"),
        ({"hidden_act": "gelu"}, "'gelu'"),
    ],
)
def test_a_llama_that_computes_otherwise_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **change}))
    assert said in refusal(tmp_path)


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _broken_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": ')


def _unknown_architecture(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "frobnicator"}')


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _half_the_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _no_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def _change_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def _other_width(folder: Path) -> None:
    _change_config(folder, hidden_size=96)


def _one_layer_more(folder: Path) -> None:
    _change_config(folder, num_hidden_layers=4)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_no_config, "config.json"),
        (_broken_config, "config.json"),
        (_unknown_architecture, "frobnicator"),
        (_no_weights, "model.safetensors"),
        (_half_the_weights, ""),
        (_no_tokenizer, "tokenizer"),
        (_other_width, "size"),
        (_one_layer_more, "model.layers.3"),  # transformers would fill it with random numbers
    ],
)
def test_a_damaged_directory_is_refused(
    tiny_folders: dict[str, Path], tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    folder = shutil.copytree(tiny_folders["llama"], tmp_path / "spoilt")
    spoil(folder)
    text = refusal(folder)
    assert str(folder) in text
    assert said in text.replace(str(folder), "")


def test_a_file_that_is_not_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    assert "notes.txt" in refusal(tmp_path / "notes.txt")
