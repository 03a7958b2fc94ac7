"""Kernels that a wheel carries, one library for each level, so that no compiler is needed.

They lie in ``prebuilt/`` beside this file, with GCC's OpenMP runtime for machines that have none, and are used only if
they were built from the very sources of this installation. `scripts/build_wheel.py` makes such a wheel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from minseek.native.isa import level_flags
from minseek.native.sources import Kernels

FOLDER = Path(__file__).with_name("prebuilt")


def prebuilt_file(kernels: Kernels, level: str) -> Path:
    """Path of the library for a level; None if this installation does not have it."""
    return FOLDER / f"{level}-{kernels.file_name(*level_flags(level))}"


def prebuild(kernels: Kernels, level: str, folder: Path, compiler: str, run: Callable[[Sequence[str]], object]) -> Path:
    """Compile the library for a level into `folder`; it finds the OpenMP runtime that lies beside it."""
    library = folder / prebuilt_file(kernels, level).name
    run([*kernels.command(compiler, level_flags(level), library), "-s", "-Wl,-rpath,$ORIGIN"])
    return library
