"""Kernels in C: compiling and loading them for the machine's instruction set. Does not import torch.

In a folder of kernels the .c files are compiled; headers hold code, too, all of it static.
"""

from minseek.native.forward import native_status
from minseek.native.isa import InstructionSet, cpu_flags, instruction_set
from minseek.native.library import Kernels, NativeStatus, cache_folder, check_struct_sizes, loaded

__all__ = [
    "InstructionSet",
    "Kernels",
    "NativeStatus",
    "cache_folder",
    "check_struct_sizes",
    "cpu_flags",
    "instruction_set",
    "loaded",
    "native_status",
]
