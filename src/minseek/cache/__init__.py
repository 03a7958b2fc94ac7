"""Key/value storage and rotary re-encoding."""

from minseek.cache.rotary import Rotary, rotate
from minseek.cache.thought_cache import CacheFullError, CacheShape, KeyStorage, ThoughtCache

__all__ = ["CacheFullError", "CacheShape", "KeyStorage", "Rotary", "ThoughtCache", "rotate"]
