"""How a request wants its tokens to be chosen."""

from __future__ import annotations

from dataclasses import replace

from minseek.decode import Sampling
from minseek.protocol.fields import SAMPLING_NAMES
from minseek.serve.bodies import Shared

_SEEDS = 2**63


def sampling_of(body: Shared, default: Sampling, choice: int) -> Sampling:
    """The default with what a request asks for; each choice has a seed of its own."""
    given = {name: getattr(body, name) for name in SAMPLING_NAMES if getattr(body, name) is not None}
    if "seed" in given:
        given["seed"] = (given["seed"] + choice) % _SEEDS
    return replace(default, **{"seed": None, **given})
