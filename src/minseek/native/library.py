"""Kernels in C: compiled once for this processor, kept in the user's cache folder, loaded through ctypes.

Environment variables: ``MINSEEK_NATIVE=0`` turns kernels off; ``MINSEEK_ISA=portable|avx2|avx512|amx`` compiles them
for that instruction set (see `isa.instruction_set`), ``CC`` names the compiler, ``MINSEEK_CACHE`` the cache folder,
``MINSEEK_CFLAGS`` adds compiler flags, for sanitizers.
"""

from __future__ import annotations

import ctypes
import hashlib
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

_SIMD = Path(__file__).with_name("simd")  # headers for all kernels: vectors as wide as the processor's
_FLAGS = ("-O3", "-ffp-contract=fast", "-fopenmp", "-shared", "-fPIC", "-std=gnu11")


@dataclass(frozen=True)
class Kernels:
    """Sources that become one library.

    Attributes
    ----------
    name : str
        Beginning of the library's file name; a hash of everything it was built from follows.
    folder : Path
        Folder of the sources and of their own headers. They may include those of `native/simd`, too.
    sources : tuple of str
        Files in `folder`.
    flags : tuple of str
        Additional compiler flags.
    """

    name: str
    folder: Path
    sources: tuple[str, ...]
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class NativeStatus:
    """A library, or the reason why there is none."""

    library: ctypes.CDLL | None
    reason: str


_building = threading.Lock()


def loaded(kernels: Kernels) -> NativeStatus:
    """Find or build a library; the reason, in one sentence, where that cannot be done or is turned off."""
    if os.environ.get("MINSEEK_NATIVE") == "0":
        return NativeStatus(None, "turned off by MINSEEK_NATIVE=0")
    isa = instruction_set()
    if not isa.flags:
        return NativeStatus(None, isa.reason)
    with _building:
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
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)
    processor = " ".join((platform.machine(), *sorted(cpu_flags())))  # what -march=native depends on
    texts = [
        file.read_text()
        for folder in (kernels.folder, _SIMD)
        for file in sorted(folder.iterdir())
        if file.suffix in (".c", ".h")
    ]
    flags = (*_FLAGS, *isa.flags, *kernels.flags, *os.environ.get("MINSEEK_CFLAGS", "").split())
    key = hashlib.sha256("\0".join((*texts, *flags, processor, str(compiler))).encode())
    path = cache_folder() / "kernels" / f"{kernels.name}-{key.hexdigest()[:20]}.so"
    if not path.exists():
        if compiler is None:
            return NativeStatus(None, "no C compiler (cc, gcc or clang) was found")
        sources = [str(kernels.folder / name) for name in kernels.sources]
        failure = _build([compiler, *flags, f"-I{_SIMD}", *sources], path)
        if failure:
            return NativeStatus(None, failure)
    try:
        return NativeStatus(ctypes.CDLL(str(path)), f"built by {compiler}")
    except OSError as error:
        return NativeStatus(None, f"{path} could not be loaded: {error}")


def _build(command: list[str], path: Path) -> str:
    """Compile into a temporary file and move it into place; the error message, empty on success."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            built = Path(folder) / path.name
            command = [*command, "-o", str(built), "-lm"]
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
