"""Choice of a model's device and dtype, with reasons."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from minseek.errors import InputError, check_type
from minseek.models.main_memory import main_memory_bytes
from minseek.native import cpu_flags, native_status

_DTYPES = {
    name: getattr(torch, long)
    for long, names in {
        "bfloat16": ("bfloat16", "bf16"),
        "float16": ("float16", "fp16"),
        "float32": ("float32", "fp32"),
    }.items()
    for name in names
}


@dataclass(frozen=True)
class DeviceChoice:
    """A device and a dtype, each with the reason for it."""

    device: torch.device
    dtype: torch.dtype
    device_reason: str
    dtype_reason: str


def resolve_device(device: str | torch.device = "auto", dtype: str | torch.dtype = "auto") -> DeviceChoice:
    """Resolve a device and a dtype, either of which may be ``auto``.

    Raises
    ------
    InputError
        If the device or dtype is unknown, or the device is not available.
    TypeError
        If one is neither a name nor an object of torch.
    """
    check_type("device must be a name, as 'cpu', or a torch.device", device, (str, torch.device))
    check_type("dtype must be a name, as 'bfloat16', or a torch.dtype", dtype, (str, torch.dtype))
    chosen, device_reason = _device(str(device))
    dtype = str(dtype).removeprefix("torch.")
    if dtype == "auto":
        kind, dtype_reason = _fast_dtype(chosen)
    elif dtype in _DTYPES:
        kind, dtype_reason = _DTYPES[dtype], "requested"
    else:
        raise InputError(f"unknown dtype {dtype!r}: choose auto, {', '.join(_DTYPES)}")
    return DeviceChoice(chosen, kind, device_reason, dtype_reason)


def _device(device: str) -> tuple[torch.device, str]:
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device()), f"{torch.cuda.get_device_name()} is available"
        return torch.device("cpu"), "no CUDA device is available"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise InputError(f"the device {device!r} is not supported: choose auto, cpu or cuda")
    if device != "cpu":
        count, index = torch.cuda.device_count(), int(device.partition(":")[2] or 0)
        if index >= count:
            raise InputError(
                f"the device {device!r} is not available: torch sees {count} CUDA devices; choose auto or cpu"
            )
    return torch.device(device), "requested"


def memory_bytes(device: torch.device) -> int:
    """Bytes available to a cache: a GPU's free memory, or all main memory that this process may use.

    Main memory includes what other processes hold, which the system can page out.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return main_memory_bytes()


def _fast_dtype(device: torch.device) -> tuple[torch.dtype, str]:
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16, "this GPU computes in bfloat16"
        return torch.float32, "this GPU does not compute in bfloat16"
    has = [flag for flag in ("amx_bf16", "avx512_bf16", "bf16") if flag in cpu_flags()]
    if has:
        return torch.bfloat16, f"this processor multiplies bfloat16 ({', '.join(has)})"
    if native_status(torch.bfloat16).library is not None:
        return torch.bfloat16, "half the memory of float32, and minseek's C kernels read it as fast"
    return torch.float32, "this processor has no bfloat16 instructions, and minseek's C kernels are not available"
