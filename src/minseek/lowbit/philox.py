"""The random numbers of kernels/philox.h in PyTorch operations, equal on every device."""

from __future__ import annotations

import torch
from torch import Tensor

COUNTERS = 16
WORDS = 4 * COUNTERS
SPAN = 2 * WORDS
"""Elements between two draws; tensors are divided at multiples of it."""

_LOW = 0xFFFFFFFF
_FACTORS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


def draw_seed(generator: torch.Generator | None) -> int:
    """Draw a seed of 64 bits from a generator, by default PyTorch's global one."""
    device = "cpu" if generator is None else generator.device
    drawn = torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64, generator=generator, device=device)
    return int(drawn) & (2**64 - 1)


def philox(counters: Tensor, seed: int, stream: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four words of each counter, int64 below 2^32: Philox 4x32 with 10 rounds (Salmon et al., SC 2011)."""
    a, b = counters & _LOW, (counters >> 32) & _LOW
    c, d = torch.full_like(a, stream & _LOW), torch.full_like(a, stream >> 32)
    low, high = seed & _LOW, seed >> 32
    for _ in range(10):
        p, q = a * _FACTORS[0], c * _FACTORS[1]  # overflow is masked below
        a, b, c, d = ((q >> 32) & _LOW) ^ b ^ low, q & _LOW, ((p >> 32) & _LOW) ^ d ^ high, p & _LOW
        low, high = (low + _KEY_STEPS[0]) & _LOW, (high + _KEY_STEPS[1]) & _LOW
    return a, b, c, d


def draws(count: int, bits: int, seed: int, stream: int, first: int, device: torch.device) -> Tensor:
    """Numbers of `bits` bits, int64 [count], for the elements from span `first` on.

    Element j of a chunk of 64 gets word j // 16 of counter j % 16. Up to 16 bits, a chunk serves a whole span: its
    words' lower halves the first 64 elements, their upper halves the others.
    """
    spans = -(-count // SPAN)
    chunks, begin = (spans, first) if bits <= 16 else (2 * spans, 2 * first)
    counters = torch.arange(begin * COUNTERS, (begin + chunks) * COUNTERS, device=device).view(chunks, COUNTERS)
    words = torch.stack(philox(counters, seed, stream), dim=1).view(chunks, WORDS)
    if bits > 16:
        return words.view(-1)[:count] >> (32 - bits)
    halves = torch.stack((words & 0xFFFF, words >> 16), dim=1)
    return halves.view(-1)[:count] >> (16 - bits)
