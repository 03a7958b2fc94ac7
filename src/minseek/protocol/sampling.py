"""Sampling of a request."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from minseek.decode import Sampling
from minseek.protocol.requests import Shared

_FIELDS = ("temperature", "top_p", "top_k", "min_p", "seed")
_NUM_SEEDS = 2**63


def parse_sampling(body: Shared, default: Sampling, choice: int = 0) -> Sampling:
    """Return the sampling of one choice: the request's fields over the default; choice *i* adds *i* to the seed."""
    fields: dict[str, Any] = {name: getattr(body, name) for name in _FIELDS if getattr(body, name) is not None}
    if "seed" in fields:
        fields["seed"] %= _NUM_SEEDS
    sampling = replace(default, **fields)
    if sampling.seed is None or choice == 0:
        return sampling
    return replace(sampling, seed=(sampling.seed + choice) % _NUM_SEEDS)
