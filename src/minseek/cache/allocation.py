"""What allocations of all caches have in common."""

from __future__ import annotations

from itertools import count

allocations = count()  # unique over all caches: whoever holds addresses can tell when they are stale


class CacheFullError(RuntimeError):
    """More tokens were appended than the cache may hold; the reasoning loop ends a thought before this happens."""
