"""The kernels in C: built once for this processor, kept in the user's cache folder, loaded through ctypes."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from ctypes import c_float, c_int64
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from minseek.native.processor import cpu_flags
from minseek.native.storage import cache_folder

_FOLDER = Path(__file__).with_name("kernels")
_SOURCES = ("step.c", "forward.c", "evict.c")
_FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fopenmp", "-shared", "-fPIC", "-std=gnu11")
_DTYPE_FLAGS = {torch.bfloat16: ("-DWEIGHT_BF16",), torch.float32: ()}


@dataclass(frozen=True)
class NativeStatus:
    """Whether the kernels can be used for a dtype, and why not."""

    library: ctypes.CDLL | None
    reason: str


_building = threading.Lock()


def native_status(dtype: torch.dtype) -> NativeStatus:
    """Find or build the library for a dtype; without it, decoding takes the (slower) PyTorch path.

    ``MINSEEK_NATIVE=0`` in the environment turns it off.
    """
    if os.environ.get("MINSEEK_NATIVE") == "0":
        return NativeStatus(None, "turned off by MINSEEK_NATIVE=0")
    with _building:
        return _find_or_build(dtype)


@cache
def _find_or_build(dtype: torch.dtype) -> NativeStatus:
    if dtype not in _DTYPE_FLAGS:
        return NativeStatus(None, f"there is none for {str(dtype).removeprefix('torch.')}")
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)
    processor = " ".join((platform.machine(), *sorted(cpu_flags())))  # what -march=native depends on
    texts = [file.read_text() for file in sorted(_FOLDER.iterdir()) if file.suffix in (".c", ".h")]
    key = hashlib.sha256("\0".join((*texts, *_FLAGS, *_DTYPE_FLAGS[dtype], processor, str(compiler))).encode())
    path = cache_folder() / "kernels" / f"forward-{key.hexdigest()[:20]}.so"
    if not path.exists():
        if compiler is None:
            return NativeStatus(None, "no C compiler (cc, gcc or clang) was found")
        failure = _build(compiler, _DTYPE_FLAGS[dtype], path)
        if failure:
            return NativeStatus(None, failure)
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        return NativeStatus(None, f"{path} could not be loaded: {error}")
    library.scratch_floats.restype = library.forward_bytes.restype = c_int64
    library.read_all.restype = c_float
    return NativeStatus(library, f"built by {compiler}")


def _build(compiler: str, flags: tuple[str, ...], path: Path) -> str:
    """Compile into a temporary file and put it in place whole; what went wrong, or nothing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            built = Path(folder) / path.name
            sources = [str(_FOLDER / name) for name in _SOURCES]
            command = [compiler, *_FLAGS, *flags, *sources, "-o", str(built), "-lm"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            if done.returncode:
                return f"{compiler} failed: {(done.stderr.strip() or 'no message').splitlines()[0]}"
            built.replace(path)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"it could not be built: {error}"
    return ""
