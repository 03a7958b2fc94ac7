"""Where minseek keeps what it built or converted."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$MINSEEK_CACHE``, else ``minseek`` in the user's cache folder; made by whoever writes into it."""
    own = os.environ.get("MINSEEK_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minseek"
