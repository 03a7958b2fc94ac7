"""The instruction set that kernels are compiled for."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from minseek.errors import InputError

_X86 = ("x86_64", "AMD64")
_AVX2 = frozenset({"avx2", "fma", "bmi2", "f16c"})
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_AVX512_BF16 = _AVX512 | {"avx512_bf16"}
_BF16_FLAGS = ("-march=x86-64-v4", "-mavx512bf16")
# From the lowest to the highest: name, compiler flags, features the processor must have.
_LEVELS = (
    ("portable", ("-march=x86-64",), frozenset[str]()),
    ("avx2", ("-march=x86-64-v3",), _AVX2),
    ("avx512", ("-march=x86-64-v4",), _AVX512),
    ("avx512bf16", _BF16_FLAGS, _AVX512_BF16),
    ("amx", (*_BF16_FLAGS, "-mamx-tile", "-mamx-bf16"), _AVX512_BF16 | {"amx_tile", "amx_bf16"}),
)
NAMES = tuple(name for name, _, _ in _LEVELS)
_BASELINES = {"aarch64": ("-march=armv8-a",), "arm64": ("-march=armv8-a",)}  # of other architectures


@dataclass(frozen=True)
class InstructionSet:
    """An instruction set.

    Attributes
    ----------
    name : str
        One of `NAMES`, or the machine's architecture where that is not x86-64.
    flags : tuple of str
        Compiler flags for kernels that are built on this machine.
    reason : str
        Why it was chosen.
    """

    name: str
    flags: tuple[str, ...]
    reason: str


def instruction_set() -> InstructionSet:
    """Choose the instruction set: everything the processor has, or the level that ``MINSEEK_ISA`` names.

    ``MINSEEK_ISA=portable`` is x86-64 as it was in 2003 (SSE2), ``avx2`` is x86-64-v3, ``avx512`` is x86-64-v4,
    ``avx512bf16`` adds products of bfloat16, and ``amx`` tiles of them. Results of different levels differ by rounding,
    as sums are split differently; the lower ones serve to compare machines and to debug.

    Raises
    ------
    InputError
        If ``MINSEEK_ISA`` is unknown or this processor does not have it.
    """
    requested = os.environ.get("MINSEEK_ISA", "")
    if not requested:
        best = available_levels()[-1] if _is_x86() else platform.machine()
        return InstructionSet(best, ("-march=native",), "all features of this processor")
    if requested not in NAMES:
        raise InputError(f"MINSEEK_ISA={requested} is unknown: use {', '.join(NAMES[:-1])} or {NAMES[-1]}")
    if not _is_x86():
        raise InputError(f"MINSEEK_ISA={requested} is for x86-64, not for {platform.machine()}: leave it out")
    if requested not in available_levels():
        missing = ", ".join(sorted(_LEVELS[NAMES.index(requested)][2] - cpu_flags()))
        has = " or ".join(available_levels())
        raise InputError(f"MINSEEK_ISA={requested} needs {missing}, which this processor does not have: use {has}")
    return InstructionSet(requested, level_flags(requested), f"MINSEEK_ISA={requested}")


def available_levels() -> tuple[str, ...]:
    """Levels that this processor has, from the lowest to the highest; none if it is not x86-64."""
    return tuple(name for name, _, needed in _LEVELS if _is_x86() and needed <= cpu_flags())


def level_flags(name: str) -> tuple[str, ...]:
    """Compiler flags for any processor of a level, or of another architecture; empty if that is unknown."""
    return {**_BASELINES, **{level: flags for level, flags, _ in _LEVELS}}.get(name, ())


def _is_x86() -> bool:
    return platform.machine() in _X86


@cache
def cpu_flags() -> frozenset[str]:
    """Features of the processor by their Linux names; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith(("flags", "Features"))), "").split())
