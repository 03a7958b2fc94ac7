"""Main memory under the limits of control groups, in a root directory of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from minseek.models import main_memory
from minseek.models.device import memory_bytes
from minseek.models.main_memory import main_memory_bytes

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
UNLIMITED = "9223372036854771712"  # version 1 writes the largest multiple of a page


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/"}, None),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/memory.max": "5000"}, 5000),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/memory.max": "max"}, None),
        (
            {
                "proc/self/cgroup": "0::/a/b",
                "sys/fs/cgroup/a/b/memory.max": "max",
                "sys/fs/cgroup/a/memory.max": "4000",
            },
            4000,
        ),
        ({"proc/self/cgroup": "0::/gone/in/a/container", "sys/fs/cgroup/memory.max": "3000"}, 3000),
        ({"proc/self/cgroup": "0::/a", "sys/fs/cgroup/other/memory.max": "2000"}, None),
        (
            {
                "proc/self/cgroup": "4:cpu,memory:/x/y\n1:cpuset:/\n0::/",
                "sys/fs/cgroup/memory/x/y/memory.limit_in_bytes": UNLIMITED,
                "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "7000",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": UNLIMITED,
            },
            7000,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/x\n0::/z",
                "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "9000",
                "sys/fs/cgroup/unified/z/memory.max": "8000",
            },
            8000,
        ),
        ({"proc/self/cgroup": "0::/a", "sys/fs/cgroup/a/memory.max": str(2 * MACHINE)}, None),
    ],
)
def test_the_smallest_limit_of_all_groups_is_the_memory(
    tmp_path: Path, files: dict[str, str], limit: int | None
) -> None:
    assert main_memory_bytes(write(tmp_path, files)) == (MACHINE if limit is None else limit)


def test_limits_count_for_a_cpu_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main_memory, "_limits", lambda root: iter([12345]))
    assert memory_bytes(torch.device("cpu")) == 12345
