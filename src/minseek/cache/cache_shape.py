"""Bytes that one token of a cache takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from minseek.errors import InputError

KeyStorage = Literal["re-rotated", "unrotated"]


@dataclass(frozen=True)
class CacheShape:
    """Sizes of one token's keys and values: a key and a value of D dimensions for each of H heads in L layers."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype

    def token_bytes(self, key_storage: KeyStorage = "re-rotated") -> int:
        """Bytes of one token's keys and values; *unrotated* storage holds a second copy of the keys."""
        if key_storage not in get_args(KeyStorage):
            raise InputError(f"keys can be stored {' or '.join(get_args(KeyStorage))}, not {key_storage!r}")
        copies = 3 if key_storage == "unrotated" else 2
        return self.num_layers * self.num_kv_heads * self.head_dim * copies * self.dtype.itemsize
