"""Random prompts of the byte-level tokenizer of `tests.helpers.tiny_models`."""

from __future__ import annotations

import torch


def tokens(length: int, seed: int) -> list[int]:
    return torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
