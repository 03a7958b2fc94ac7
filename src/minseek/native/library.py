"""Kernels in C, loaded through ctypes: those that a wheel carries, else those in the user's cache folder, which are
compiled once for this processor.

Environment variables: ``MINSEEK_NATIVE=0`` turns kernels off; ``MINSEEK_ISA=portable|avx2|avx512|avx512bf16|amx`` uses
those for that instruction set (see `isa.instruction_set`), ``CC`` names the compiler, ``MINSEEK_CACHE`` the cache
folder, ``MINSEEK_CFLAGS`` adds compiler flags, for sanitizers, and has everything compiled here.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from minseek.native.isa import InstructionSet, cpu_flags, instruction_set
from minseek.native.prebuilt import prebuilt_file
from minseek.native.sources import Kernels


@dataclass(frozen=True)
class NativeStatus:
    """A library and where it comes from, or the reason why there is none, and what that costs."""

    library: ctypes.CDLL | None
    reason: str

    @property
    def cost(self) -> str:
        """Cost of this library, or of its absence, in one clause."""
        if self.library is None:
            return "a token takes about three times as long as with the kernels in C"
        if self.reason.startswith(_PREBUILT):
            return "nothing is built on this machine"
        return "once for each version of minseek, in some seconds, as a wheel that carries kernels would save"


_PREBUILT = "prebuilt in the package"
_loading = threading.Lock()


def loaded(kernels: Kernels) -> NativeStatus:
    """Find or build a library; the reason, in one sentence, where that cannot be done or is turned off.

    Raises
    ------
    InputError
        If ``MINSEEK_ISA`` is unknown or this processor does not have it.
    """
    if os.environ.get("MINSEEK_NATIVE") == "0":
        return NativeStatus(None, "turned off by MINSEEK_NATIVE=0")
    isa = instruction_set()
    with _loading:
        return _find_or_build(kernels, isa)


def check_struct_sizes(library: ctypes.CDLL, structures: Mapping[str, type[ctypes.Structure]]) -> None:
    """Compare mirrored structures with the library's own: ``int64_t sizeof_NAME(void)`` for each name.

    Raises
    ------
    RuntimeError
        If a structure's size differs, so that its fields cannot be the same.
    """
    for name, structure in structures.items():
        sizeof = getattr(library, f"sizeof_{name}")
        sizeof.restype = ctypes.c_int64
        if sizeof() != ctypes.sizeof(structure):
            sizes = f"{sizeof()} bytes in C, {ctypes.sizeof(structure)} in Python"
            raise RuntimeError(f"the fields of {name} and of {structure.__qualname__} differ: {sizes}")


@cache
def _find_or_build(kernels: Kernels, isa: InstructionSet) -> NativeStatus:
    extra = tuple(os.environ.get("MINSEEK_CFLAGS", "").split())
    prebuilt = prebuilt_file(kernels, isa.name)
    if not extra and prebuilt.exists():
        status = _load(prebuilt, f"{_PREBUILT} for {isa.name}")
        if status.library is not None:
            return status
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)
    processor = " ".join((platform.machine(), *sorted(cpu_flags())))  # what -march=native depends on
    flags = (*isa.flags, *extra)
    path = cache_folder() / "kernels" / kernels.file_name(*flags, processor, str(compiler))
    if not path.exists():
        if compiler is None:
            return NativeStatus(None, "no C compiler (cc, gcc or clang) was found")
        failure = _build(kernels, compiler, flags, path)
        if failure:
            return NativeStatus(None, failure)
    return _load(path, f"built by {compiler}")


def _load(path: Path, reason: str) -> NativeStatus:
    try:
        return NativeStatus(ctypes.CDLL(str(path)), reason)
    except OSError as error:
        return NativeStatus(None, f"{path} could not be loaded: {error}")


def _build(kernels: Kernels, compiler: str, flags: tuple[str, ...], path: Path) -> str:
    """Compile into a temporary file and move it into place; the error message, empty on success."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            built = Path(folder) / path.name
            command = kernels.command(compiler, flags, built)
            done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
            if done.returncode:
                return f"{command[0]} failed: {(done.stderr.strip() or 'no message').splitlines()[0]}"
            built.replace(path)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"it could not be built: {error}"
    return ""


def cache_folder() -> Path:
    """``$MINSEEK_CACHE``, else ``minseek`` in the user's cache folder; created by the code that writes into it."""
    configured = os.environ.get("MINSEEK_CACHE")
    if configured:
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minseek"
