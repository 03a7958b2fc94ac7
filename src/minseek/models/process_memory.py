"""Main memory that this process holds, as the system counts it."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any, cast

_STATUS = Path("/proc/self/status")


def resident_bytes() -> int | None:
    """Bytes resident in main memory now; None where the system does not tell (it is not Linux)."""
    return _read_status("VmRSS")


def peak_resident_bytes() -> int | None:
    """Most bytes that were resident so far; None where the system does not tell."""
    return _read_status("VmHWM")


def trim_heap() -> None:
    """Give freed memory of the C heap back to the system; no effect with C libraries other than glibc."""
    call_libc("malloc_trim", 0)


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
