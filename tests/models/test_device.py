"""Choice of device and dtype."""

from __future__ import annotations

import pytest
import torch

from minseek import InputError
from minseek.models import device as device_module
from minseek.native import NativeStatus


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("flags", "dtype", "why"),
    [
        ({"amx_bf16", "avx512f"}, torch.bfloat16, "amx_bf16"),
        ({"avx512_bf16"}, torch.bfloat16, "avx512_bf16"),
        ({"bf16", "asimd"}, torch.bfloat16, "bf16"),
        ({"avx2", "fma"}, torch.float32, "no bfloat16 instructions"),
        (set(), torch.float32, "no bfloat16 instructions"),
    ],
)
@pytest.mark.usefixtures("no_cuda")
def test_bfloat16_is_used_if_the_processor_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], dtype: torch.dtype, why: str
) -> None:
    """And where the C kernels take it apart themselves; in PyTorch alone it would be slow."""
    monkeypatch.setattr(device_module, "cpu_flags", lambda: flags)
    assert device_module.native_status(torch.bfloat16).library is not None
    assert device_module.resolve_device().dtype == torch.bfloat16
    monkeypatch.setattr(device_module, "native_status", lambda dtype: NativeStatus(None, "turned off"))
    placed = device_module.resolve_device()
    assert (placed.device.type, placed.device_reason) == ("cpu", "no CUDA device is available")
    assert placed.dtype == dtype
    assert why in placed.dtype_reason


@pytest.mark.parametrize(("supported", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_gpu_is_used_if_available(monkeypatch: pytest.MonkeyPatch, supported: bool, dtype: torch.dtype) -> None:
    for name, value in {"is_available": True, "current_device": 0, "get_device_name": "A GPU"}.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    placed = device_module.resolve_device()
    assert (str(placed.device), placed.device_reason) == ("cuda:0", "A GPU is available")
    assert placed.dtype == dtype
    assert "this GPU" in placed.dtype_reason


def test_requested_device_and_dtype_are_used() -> None:
    placed = device_module.resolve_device("cpu", "fp16")
    assert (placed.device.type, placed.dtype) == ("cpu", torch.float16)
    assert placed.device_reason == placed.dtype_reason == "requested"


@pytest.mark.parametrize(
    ("device", "dtype", "value"),
    [
        ("cpu", "int3", "int3"),
        ("cpu", "float64", "float64"),
        ("cpu", "", "''"),
        ("tpu9", "auto", "tpu9"),
        ("", "auto", "''"),
        ("cuda:99", "auto", "cuda:99"),
        ("meta", "auto", "meta"),
        ("vulkan", "auto", "vulkan"),
    ],
)
def test_an_unknown_device_or_dtype_is_refused(device: str, dtype: str, value: str) -> None:
    with pytest.raises(InputError) as caught:
        device_module.resolve_device(device, dtype)
    text = str(caught.value)
    assert value in text
    assert "choose auto" in text
    assert "\n" not in text
    assert len(text) < 400
