"""The instruction set that kernels are compiled for."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_X86 = ("x86_64", "AMD64")
_AVX2 = frozenset({"avx2", "fma", "bmi2", "f16c"})
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_AMX = _AVX512 | {"amx_tile", "amx_bf16"}
# From the lowest to the highest: name, compiler flag, features the processor must have.
_LEVELS = (
    ("portable", "-march=x86-64", frozenset[str]()),
    ("avx2", "-march=x86-64-v3", _AVX2),
    ("avx512", "-march=x86-64-v4", _AVX512),
    ("amx", "-march=native", _AMX),
)
NAMES = tuple(name for name, _, _ in _LEVELS)


@dataclass(frozen=True)
class InstructionSet:
    """An instruction set, or the reason why there is none.

    Attributes
    ----------
    name : str
        One of `NAMES`, or the machine's architecture where that is not x86-64.
    flags : tuple of str
        Compiler flags that select it; empty if it cannot be used.
    reason : str
        Why it was chosen or, without flags, why it cannot be used.
    """

    name: str
    flags: tuple[str, ...]
    reason: str


def instruction_set() -> InstructionSet:
    """Choose the instruction set: everything the processor has, or the level that ``MINSEEK_ISA`` names.

    ``MINSEEK_ISA=portable`` is x86-64 as it was in 2003 (SSE2), ``avx2`` is x86-64-v3, ``avx512`` is x86-64-v4, and
    ``amx`` is everything of a processor that has AMX tiles for bfloat16. Results of different levels differ by
    rounding, as sums are split differently; the lower ones serve to compare machines and to debug.
    """
    x86, features = platform.machine() in _X86, cpu_flags()
    requested = os.environ.get("MINSEEK_ISA", "")
    if not requested:
        best = [name for name, _, needed in _LEVELS if needed <= features][-1] if x86 else platform.machine()
        return InstructionSet(best, ("-march=native",), "all features of this processor")
    if requested not in NAMES:
        return InstructionSet(requested, (), f"MINSEEK_ISA={requested} is unknown: use {', '.join(NAMES[:-1])} or amx")
    if not x86:
        return InstructionSet(requested, (), f"MINSEEK_ISA={requested} is for x86-64, not for {platform.machine()}")
    _, flag, needed = _LEVELS[NAMES.index(requested)]
    missing = sorted(needed - features)
    if missing:
        reason = f"MINSEEK_ISA={requested} needs a processor with {', '.join(missing)}, which this one does not have"
        return InstructionSet(requested, (), reason)
    return InstructionSet(requested, (flag,), f"MINSEEK_ISA={requested}")


@cache
def cpu_flags() -> frozenset[str]:
    """Features of the processor by their Linux names; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith(("flags", "Features"))), "").split())
