"""KV caches, rotary re-encoding and, in `minseek.cache.policies`, eviction policies."""

from minseek.cache.base import CacheFullError, KVCache
from minseek.cache.cache_shape import CacheShape, KeyStorage
from minseek.cache.candidates import Candidates
from minseek.cache.decode_batch import NUM_FIXED, DecodeBatch, input_row, slot_of
from minseek.cache.observer import AttentionObserver
from minseek.cache.rotary import Rotary, rotate
from minseek.cache.slot_memory import SlotMemory
from minseek.cache.slot_shape import SlotShape, caps_by_layer
from minseek.cache.slots import Slot, SlotPool
from minseek.cache.thought_cache import ThoughtCache

__all__ = [
    "NUM_FIXED",
    "AttentionObserver",
    "CacheFullError",
    "CacheShape",
    "Candidates",
    "DecodeBatch",
    "KVCache",
    "KeyStorage",
    "Rotary",
    "Slot",
    "SlotMemory",
    "SlotPool",
    "SlotShape",
    "ThoughtCache",
    "caps_by_layer",
    "input_row",
    "rotate",
    "slot_of",
]
