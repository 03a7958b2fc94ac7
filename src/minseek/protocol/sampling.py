"""Sampling of a request."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from minseek.decode import Sampling
from minseek.errors import InputError
from minseek.models import Model
from minseek.protocol.fields import FieldError
from minseek.protocol.requests import Shared

_FIELDS = (
    *("temperature", "top_p", "top_k", "min_p", "seed"),
    *("repetition_penalty", "frequency_penalty", "presence_penalty"),
)
_NUM_SEEDS = 2**63


def parse_sampling(model: Model, body: Shared, default: Sampling, choice: int = 0) -> Sampling:
    """Return the sampling of one choice: the request's fields over the default; choice *i* adds *i* to the seed.

    Raises
    ------
    FieldError
        If a token with a bias is outside the model's vocabulary.
    """
    fields: dict[str, Any] = {name: getattr(body, name) for name in _FIELDS if getattr(body, name) is not None}
    if fields.get("top_k", 1) < 1:  # -1 and 0: no such filter, as in vLLM and llama.cpp
        fields["top_k"] = None
    if "seed" in fields:
        fields["seed"] %= _NUM_SEEDS
    if body.logit_bias is not None:
        fields["logit_bias"] = {int(token): bias for token, bias in body.logit_bias.items()}
        try:
            model.check_token_ids(tuple(fields["logit_bias"]), " of logit_bias")
        except InputError as error:
            raise FieldError(str(error), param="logit_bias") from None
    sampling = replace(default, **fields)
    if sampling.seed is None or choice == 0:
        return sampling
    return replace(sampling, seed=(sampling.seed + choice) % _NUM_SEEDS)
