"""Dense copies of GGUF files that minseek kept before it read the files themselves."""

from __future__ import annotations

import shutil
from pathlib import Path

from minseek.native import cache_folder


def old_copies() -> dict[Path, int]:
    """Folder of each copy -> its bytes; nothing reads them any more."""
    folders = sorted(folder for folder in (cache_folder() / "dense").glob("*") if folder.is_dir())
    return {folder: sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) for folder in folders}


def remove_old_copies() -> dict[Path, int]:
    """Remove all copies, and return what they were."""
    found = old_copies()
    for folder in found:
        shutil.rmtree(folder)
    return found
