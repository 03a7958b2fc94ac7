"""Kernels in C, and what they need to know of the machine."""

from minseek.native.library import NativeStatus, native_status
from minseek.native.pages import huge_bytes
from minseek.native.processor import cpu_flags
from minseek.native.storage import cache_folder

__all__ = ["NativeStatus", "cache_folder", "cpu_flags", "huge_bytes", "native_status"]
