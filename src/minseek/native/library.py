"""Kernels in C: built once for this processor, kept in the user's cache folder, loaded through ctypes."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fopenmp", "-shared", "-fPIC", "-std=gnu11")


@dataclass(frozen=True)
class Kernels:
    """Sources that become one library.

    Attributes
    ----------
    name : str
        What its file is called, before a hash of everything it was built from.
    folder : Path
        Where the sources lie, and the headers they include.
    sources : tuple of str
        Files in `folder`.
    flags : tuple of str
        For the compiler, besides the usual ones.
    """

    name: str
    folder: Path
    sources: tuple[str, ...]
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class NativeStatus:
    """Whether kernels can be used, and why not."""

    library: ctypes.CDLL | None
    reason: str


_building = threading.Lock()


def loaded(kernels: Kernels) -> NativeStatus:
    """Find or build a library.

    ``MINSEEK_NATIVE=0`` in the environment turns it off.
    """
    if os.environ.get("MINSEEK_NATIVE") == "0":
        return NativeStatus(None, "turned off by MINSEEK_NATIVE=0")
    with _building:
        return _find_or_build(kernels)


@cache
def _find_or_build(kernels: Kernels) -> NativeStatus:
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)
    processor = " ".join((platform.machine(), *sorted(cpu_flags())))  # what -march=native depends on
    texts = [file.read_text() for file in sorted(kernels.folder.iterdir()) if file.suffix in (".c", ".h")]
    key = hashlib.sha256("\0".join((*texts, *_FLAGS, *kernels.flags, processor, str(compiler))).encode())
    path = cache_folder() / "kernels" / f"{kernels.name}-{key.hexdigest()[:20]}.so"
    if not path.exists():
        if compiler is None:
            return NativeStatus(None, "no C compiler (cc, gcc or clang) was found")
        failure = _build(compiler, kernels, path)
        if failure:
            return NativeStatus(None, failure)
    try:
        return NativeStatus(ctypes.CDLL(str(path)), f"built by {compiler}")
    except OSError as error:
        return NativeStatus(None, f"{path} could not be loaded: {error}")


def _build(compiler: str, kernels: Kernels, path: Path) -> str:
    """Compile into a temporary file and put it in place whole; what went wrong, or nothing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            built = Path(folder) / path.name
            sources = [str(kernels.folder / name) for name in kernels.sources]
            command = [compiler, *_FLAGS, *kernels.flags, *sources, "-o", str(built), "-lm"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            if done.returncode:
                return f"{compiler} failed: {(done.stderr.strip() or 'no message').splitlines()[0]}"
            built.replace(path)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"it could not be built: {error}"
    return ""


def cpu_flags() -> set[str]:
    """Features of the processor as Linux names them; nothing elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith(("flags", "Features"))), "").split())


def cache_folder() -> Path:
    """``$MINSEEK_CACHE``, else ``minseek`` in the user's cache folder; made by whoever writes into it."""
    own = os.environ.get("MINSEEK_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minseek"
