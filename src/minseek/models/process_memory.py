"""Main memory that this process holds, as the system counts it."""

from __future__ import annotations

import ctypes
import mmap
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np

from minseek.models.matrix import Matrix

_STATUS = Path("/proc/self/status")
_PAGEMAP = Path("/proc/self/pagemap")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_PRESENT = 1 << 63  # the bit of a page in the page map that says that it is resident


def resident_bytes() -> int | None:
    """Bytes resident in main memory now; None where the system does not tell (it is not Linux)."""
    return _read_status("VmRSS")


def peak_resident_bytes() -> int | None:
    """Most bytes that were resident so far; None where the system does not tell."""
    return _read_status("VmHWM")


def resident_part(tensors: Iterable[Matrix]) -> int:
    """Bytes of the tensors' pages that are resident; pages of a mapped file are not until they have been read.

    Where the system does not tell, all are.
    """
    total = 0
    for tensor in tensors:
        first, end = tensor.data_ptr() // mmap.PAGESIZE, -(-(tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE)
        try:
            with _PAGEMAP.open("rb") as file:
                file.seek(8 * first)
                pages = np.frombuffer(file.read(8 * (end - first)), dtype=np.uint64)
        except OSError:
            total += tensor.nbytes
            continue
        total += min(tensor.nbytes, int((pages & np.uint64(_PRESENT) != 0).sum()) * mmap.PAGESIZE)
    return total


def trim_heap() -> None:
    """Give freed memory of the C heap back to the system; no effect with C libraries other than glibc."""
    call_libc("malloc_trim", 0)


def return_freed_memory(threshold: int = 2**20) -> None:
    """Let glibc return freed blocks of `threshold` bytes and more to the system at once.

    By default it raises its threshold to the size of freed blocks, up to 32 MB, so that temporaries stay with the
    process. No effect with other C libraries.
    """
    call_libc("mallopt", _MMAP_THRESHOLD, threshold)
    call_libc("mallopt", _TRIM_THRESHOLD, threshold)


def call_libc(name: str, *args: int) -> None:
    """Call a function of the C library, if it has it."""
    try:
        cast("Any", getattr(ctypes.CDLL(None), name))(*args)
    except (AttributeError, OSError, TypeError):  # another C library
        return


def _read_status(name: str) -> int | None:
    """A value of the process's status file in bytes; None if it is missing."""
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
