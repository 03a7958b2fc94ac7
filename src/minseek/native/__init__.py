"""Kernels in C, and what they need to know of the machine. Does not import torch."""

from minseek.native.forward import native_status
from minseek.native.library import Kernels, NativeStatus, cache_folder, cpu_flags, loaded

__all__ = ["Kernels", "NativeStatus", "cache_folder", "cpu_flags", "loaded", "native_status"]
