"""Selection of the weights to train."""

from __future__ import annotations

import re
import warnings
from typing import Any

from torch import nn

from minseek.errors import InputError, MinseekWarning

_NAMES = ("embedding", "head", "norm")


def select_layers(model: Any, layers: str | None) -> list[nn.Parameter]:
    """Mark the weights to train by ``requires_grad``, and return each once.

    Parameters
    ----------
    model
        A transformers causal language model.
    layers : str or None
        Numbers from 0, inclusive ranges, and ``embedding``, ``head``, ``norm`` (the last one), separated by commas;
        None is everything.

    Raises
    ------
    InputError
        If a name is unknown or there is no such layer.
    """
    body = model.model
    named = {"embedding": body.embed_tokens, "head": model.lm_head, "norm": body.norm}
    if layers is None:
        chosen = [model]
    else:
        chosen = [named[part] if part in named else body.layers[part] for part in _parse(layers, len(body.layers))]
        tied = model.lm_head.weight is body.embed_tokens.weight
        if tied and (named["embedding"] in chosen) != (named["head"] in chosen):
            warnings.warn(
                "this model's embedding and head are one matrix: both are tuned", MinseekWarning, stacklevel=2
            )
    model.requires_grad_(False)
    for module in chosen:
        module.requires_grad_(True)
    return [weight for weight in model.parameters() if weight.requires_grad]


def _parse(layers: str, count: int) -> list[Any]:
    """Names, and layer numbers below `count`."""
    found: list[Any] = []
    for part in layers.split(","):
        part = part.strip()
        if part in _NAMES:
            found.append(part)
            continue
        numbers = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part)
        if numbers is None:
            raise InputError(
                f"cannot read the layers {part!r}: write numbers, ranges (20-29), {', '.join(_NAMES)}, with commas"
            )
        first, last = int(numbers[1]), int(numbers[2] or numbers[1])
        if first > last:
            raise InputError(f"the layers {part!r} end before they begin: write {last}-{first}")
        if last >= count:
            raise InputError(f"there is no layer {last}: the model's layers are 0 to {count - 1}")
        found.extend(range(first, last + 1))
    return found
