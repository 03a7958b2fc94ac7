"""Key/value storage, rotary re-encoding, and in `minseek.cache.policies` what an eviction leaves."""

from minseek.cache.base import CacheFullError, Pairs
from minseek.cache.cache_shape import CacheShape, KeyStorage
from minseek.cache.candidates import Candidates
from minseek.cache.decode_batch import FIXED, Singles, numbers_of, slot_of
from minseek.cache.rotary import Rotary, rotate
from minseek.cache.slot_memory import SlotStore
from minseek.cache.slot_shape import SlotShape, caps_by_layer
from minseek.cache.slots import Slot, SlotPool
from minseek.cache.thought_cache import ThoughtCache

__all__ = [
    "FIXED",
    "CacheFullError",
    "CacheShape",
    "Candidates",
    "KeyStorage",
    "Pairs",
    "Rotary",
    "Singles",
    "Slot",
    "SlotPool",
    "SlotShape",
    "SlotStore",
    "ThoughtCache",
    "caps_by_layer",
    "numbers_of",
    "rotate",
    "slot_of",
]
