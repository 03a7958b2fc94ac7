"""Weights read straight into packed memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from minseek.models.loading.packed_safetensors import read_packed

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def saved(folder: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    shapes = {"matrix": (300, 7), "norm": (5,), "scalar": (), "none": (0, 3)}
    tensors = {f"{name} {dtype}": torch.randn(shape).to(dtype) for name, shape in shapes.items() for dtype in DTYPES}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder / "model.safetensors", tensors


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_of_a_file_are_packed_in_one_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    file, stored = saved(tmp_path)
    packed = read_packed(file, dtype)
    assert packed.keys() == stored.keys()
    for name, tensor in packed.items():
        assert tensor.dtype == dtype
        assert torch.equal(tensor, stored[name].to(dtype))
        assert tensor.is_contiguous()
        assert tensor.data_ptr() % 64 == 0 or not tensor.nbytes
    assert len({t.untyped_storage().data_ptr() for t in packed.values()}) == 1


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    file, _ = saved(tmp_path)
    whole = file.read_bytes()
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    wrong_shape = dict(header, **{"norm torch.float32": header["norm torch.float32"] | {"shape": [50]}})
    wrong_type = dict(header, **{"norm torch.float32": header["norm torch.float32"] | {"dtype": "I8"}})
    for damaged in (
        whole[:-1],
        whole[:100],
        b"",
        b"\xff" * 8 + whole[8:],
        *map(with_header, (wrong_shape, wrong_type)),
    ):
        file.write_bytes(damaged)
        with pytest.raises((ValueError, KeyError)):
            read_packed(file, torch.float32)


def with_header(header: dict[str, object]) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(100_000)


_MEASURE = """
import sys, torch
from pathlib import Path
from minseek.models.loading.packed_safetensors import read_packed
from minseek.models.process_memory import peak_resident_bytes, resident_bytes
small = read_packed(Path(sys.argv[1]), torch.bfloat16)
before = resident_bytes()
large = read_packed(Path(sys.argv[2]), torch.bfloat16)
print(peak_resident_bytes() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured as Linux tells it")
def test_reading_takes_no_memory_besides_the_packed_tensors(tmp_path: Path) -> None:
    tensors = {str(n): torch.ones(4_000_000, dtype=torch.bfloat16) for n in range(10)}
    save_file(tensors, tmp_path / "large.safetensors")
    save_file({"0": tensors["0"][:100]}, tmp_path / "small.safetensors")
    files = [str(tmp_path / name) for name in ("small.safetensors", "large.safetensors")]
    done = subprocess.run([sys.executable, "-c", _MEASURE, *files], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 80_000_000 + 4_000_000
