"""Main memory of this machine, as far as the control groups of the process allow its use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_V2_MOUNTS = ("sys/fs/cgroup", "sys/fs/cgroup/unified")  # alone, and next to version 1
_V1_MOUNT = "sys/fs/cgroup/memory"


def main_memory_bytes(root: Path = Path("/")) -> int:
    """Bytes of main memory that this process may use: the machine's, or the smallest limit of its control groups.

    Parameters
    ----------
    root : Path
        Root of the file system that holds ``/proc`` and ``/sys``.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_limits(root)])


def _limits(root: Path) -> Iterator[int]:
    """Memory limits of the process's control groups and of their parents, in versions 1 and 2."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux, or /proc is hidden
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0" and not controllers:
            files = [(mount, "memory.max") for mount in _V2_MOUNTS]
        elif "memory" in controllers.split(","):
            files = [(_V1_MOUNT, "memory.limit_in_bytes")]
        else:
            continue
        path = PurePosixPath(group.lstrip("/"))  # in a container, it may not exist; the mount is then the group's own
        for mount, name in files:
            for folder in (path, *path.parents):
                limit = _read_limit(root / mount / folder / name)
                if limit is not None:
                    yield limit


def _read_limit(file: Path) -> int | None:
    """Limit in a file; None without a file or limit."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() and int(text) > 0 else None  # version 2 writes "max"
