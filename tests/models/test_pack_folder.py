"""Directories that are packed while they are read: the same weights as in a packed file, and no more memory."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import minseek
from minseek import InputError
from minseek.models.loading.safetensors_rows import SafetensorsRows
from minseek.quant import BLOCK_FORMATS, quantize
from tests.helpers.loading import load_cpu, refusal
from tests.helpers.tiny_models import ARCHITECTURES, save

pytestmark = pytest.mark.usefixtures("one_thread")
SIZES = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.mark.parametrize("name", BLOCK_FORMATS)
def test_a_packed_directory_is_its_packed_file(tmp_path: Path, name: str) -> None:
    folder = save(tmp_path / "model", "llama", **SIZES)
    file = quantize(folder, tmp_path / "model.gguf", weights=name)
    ids = list(range(40, 70))
    logits = [m.session().forward(ids) for m in (load_cpu(folder, weights=name), load_cpu(file, weights="dense"))]
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", [*ARCHITECTURES, "llama-tied", "llama-biases", "llama-llama3", "qwen2-yarn"])
def test_every_architecture_is_packed(tmp_path: Path, variant: str) -> None:
    """In float32, where nothing is lost, the model is the one that is read dense."""
    folder = save(tmp_path / "model", variant)
    ids = list(range(40, 70))
    packed, dense = load_cpu(folder, weights="f32"), load_cpu(folder)
    assert packed.weights.config == dense.weights.config
    assert packed.eos_token_ids == dense.eos_token_ids
    torch.testing.assert_close(packed.session().forward(ids), dense.session().forward(ids), rtol=1e-4, atol=1e-4)


def test_packed_weights_take_their_own_bytes(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", "llama", **SIZES)
    dense, packed = load_cpu(folder), load_cpu(folder, weights="q4_0")
    if packed.backend == "C":
        assert packed.weight_bytes < dense.weight_bytes / 4


@pytest.mark.parametrize("backend", ["C", "PyTorch"])
def test_the_model_is_the_same_without_the_kernels(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save(tmp_path / "model", "qwen3", **SIZES)
    expected = load_cpu(quantize(folder, tmp_path / "m.gguf", weights="q4_k"), weights="dense")
    monkeypatch.setenv("MINSEEK_NATIVE", "1" if backend == "C" else "0")
    model = load_cpu(folder, weights="q4_k")
    ids = list(range(40, 70))
    torch.testing.assert_close(model.session().forward(ids), expected.session().forward(ids), rtol=1e-4, atol=1e-4)


def test_wrong_weights_are_refused(tmp_path: Path, tiny_folders: dict[str, Path]) -> None:
    folder = tiny_folders["llama"]
    assert "weights are auto, dense or a format (f32" in refusal(folder, weights="q4")
    with pytest.raises(TypeError, match="weights must be a string, not 4"):
        minseek.load(folder, weights=4)  # type: ignore[arg-type]
    file = quantize(folder, tmp_path / "model.gguf", weights="q8_0")
    assert "model.gguf is packed already" in refusal(file, weights="q4_0")


def test_damaged_directories_are_refused(tmp_path: Path, tiny_folders: dict[str, Path]) -> None:
    folder = shutil.copytree(tiny_folders["llama"], tmp_path / "model")
    file = folder / "model.safetensors"
    whole, stored = file.read_bytes(), {name: tensor.clone() for name, tensor in load_file(file).items()}
    for content, said in (
        (whole[:-5], "cut off"),
        (b"nonsense", "damaged"),
        (b"\xff" * 20, "damaged"),
        (b"", "damaged"),
    ):
        file.write_bytes(content)
        assert said in refusal(folder, weights="q8_0")
    missing = dict(stored)
    del missing["model.layers.1.mlp.up_proj.weight"]
    save_file(missing, file, {"format": "pt"})
    assert "lack the tensor 'model.layers.1.mlp.up_proj.weight'" in refusal(folder, weights="q8_0")
    save_file({**stored, "model.norm.weight": torch.ones(7)}, file, {"format": "pt"})
    assert "'model.norm.weight'" in refusal(folder, weights="q8_0")
    stored["model.layers.0.mlp.up_proj.weight"][0, 0] = float("inf")
    save_file(stored, file, {"format": "pt"})
    assert "'model.layers.0.mlp.up_proj.weight'" in refusal(folder, weights="q8_0")


def test_rows_of_safetensors_files_are_those_of_the_library(tmp_path: Path) -> None:
    dtypes = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    tensors = {name: torch.randn(37, 5).to(dtype) for name, dtype in dtypes.items()}
    save_file(tensors, tmp_path / "a.safetensors")
    save_file({"F32": tensors["F32"] + 1}, tmp_path / "b.safetensors")
    stored = SafetensorsRows([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])
    for name, tensor in tensors.items():
        expected = (tensor.float() + (name == "F32")).numpy()
        np.testing.assert_array_equal(stored.rows(name, 3, 30), expected[3:30])
    save_file({"a": torch.zeros(3, dtype=torch.int8)}, tmp_path / "c.safetensors")
    with pytest.raises(InputError, match="'a' is stored as I8"):
        SafetensorsRows([tmp_path / "c.safetensors"])


_MEASURE = """
import sys, minseek, torch, transformers
from minseek.models.process_memory import peak_resident_bytes, resident_bytes
minseek.load(sys.argv[1], device="cpu", dtype="float32", weights="q8_0")
before = resident_bytes()
model = minseek.load(sys.argv[2], device="cpu", dtype="float32", weights="q8_0")
print(peak_resident_bytes() - before - model.weight_bytes, model.backend)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured as Linux tells it")
def test_packing_takes_a_few_rows_besides_the_packed_weights(tmp_path: Path) -> None:
    large = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 6, "num_attention_heads": 8}
    folders = [save(tmp_path / "small", "llama", **SIZES), save(tmp_path / "large", "llama", head_dim=128, **large)]
    command = [sys.executable, "-c", _MEASURE, *map(str, folders)]
    extra, backend = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-2:]
    assert json.loads((folders[1] / "config.json").read_text())["num_hidden_layers"] == 6
    if backend == "C":
        assert int(extra) < 60_000_000  # the dense weights take 400 MB
