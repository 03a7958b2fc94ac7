"""What the processor can do."""

from __future__ import annotations

from pathlib import Path


def cpu_flags() -> set[str]:
    """Features of the processor as Linux names them; nothing elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith(("flags", "Features"))), "").split())
