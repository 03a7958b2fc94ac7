"""Kernels in C: compiling and loading them for the machine's instruction set. Does not import torch.

In a folder of kernels the .c files are compiled; headers hold code, too, all of it static.
"""

from minseek.native.forward import native_status
from minseek.native.isa import InstructionSet, available_levels, cpu_flags, instruction_set
from minseek.native.library import NativeStatus, cache_folder, check_struct_sizes, loaded
from minseek.native.sources import Kernels

__all__ = [
    "InstructionSet",
    "Kernels",
    "NativeStatus",
    "available_levels",
    "cache_folder",
    "check_struct_sizes",
    "cpu_flags",
    "instruction_set",
    "loaded",
    "native_status",
]
