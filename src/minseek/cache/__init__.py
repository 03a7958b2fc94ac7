"""Key/value storage and rotary re-encoding."""

from minseek.cache.pairs import Pairs
from minseek.cache.rotary import Rotary, rotate
from minseek.cache.slots import Slot, SlotPool, SlotShape
from minseek.cache.thought_cache import CacheFullError, CacheShape, KeyStorage, ThoughtCache

__all__ = [
    "CacheFullError",
    "CacheShape",
    "KeyStorage",
    "Pairs",
    "Rotary",
    "Slot",
    "SlotPool",
    "SlotShape",
    "ThoughtCache",
    "rotate",
]
