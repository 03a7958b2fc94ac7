"""What one token of a cache costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from minseek.errors import InputError

KeyStorage = Literal["re-rotated", "unrotated"]


@dataclass(frozen=True)
class CacheShape:
    """What one token costs: a key and a value for each of H heads of D dimensions in each of L layers."""

    layers: int
    heads: int
    head_dim: int
    dtype: torch.dtype

    def token_bytes(self, key_storage: KeyStorage = "re-rotated") -> int:
        """Bytes of one token's keys and values; *unrotated* storage holds a second copy of the keys."""
        if key_storage not in get_args(KeyStorage):
            raise InputError(f"keys can be stored {' or '.join(get_args(KeyStorage))}, not {key_storage!r}")
        copies = 3 if key_storage == "unrotated" else 2
        return self.layers * self.heads * self.head_dim * copies * self.dtype.itemsize
