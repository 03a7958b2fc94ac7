"""Settings that hold for every trial of a sweep, and the memory plan of its slots."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from minseek.decode import Sampling
from minseek.engine import BatchPlan, plan
from minseek.errors import InputError
from minseek.evaluation.thought_counts import Thoughts, format_thoughts
from minseek.models import Model
from minseek.reasoning.limits import Limits
from minseek.units import format_bytes, parse_bytes

_NO_SETTINGS = ("kv_budget", "loop_detection", "answers_in_total")  # limits that no trial depends on


@dataclass(frozen=True)
class EvalSettings:
    """Settings of all trials of a sweep.

    Attributes
    ----------
    grid : tuple of int or None
        Numbers of thoughts, ascending; None, unbounded, is the last.
    sampling : Sampling
        Sampling parameters; the seed is replaced by each trial's.
    limits : Limits
        Limits of each trial; a slot bounds the cache besides. Loops are never ended: the strategies are measured as
        they are published.
    system : str or None
        A system message.
    cache_tokens : int or None
        Tokens of cache of each trial; None is the model's context. More than the context is used only if the limits
        allow it (`Limits.beyond_context`).
    """

    grid: tuple[Thoughts, ...]
    sampling: Sampling = field(default_factory=Sampling)
    limits: Limits = field(default_factory=Limits)
    system: str | None = None
    cache_tokens: int | None = None

    def slot_tokens(self, model: Model) -> int:
        """Tokens of cache for each trial."""
        tokens = model.max_positions if self.cache_tokens is None else self.cache_tokens
        return tokens if self.limits.beyond_context else min(tokens, model.max_positions)

    def as_dict(self, model: Model) -> dict[str, Any]:
        """Everything that results depend on; runs that add to one file must agree in it."""
        penalties = ("repetition_penalty", "frequency_penalty", "presence_penalty", "logit_bias")
        sampling = {
            name: value
            for name, value in asdict(self.sampling).items()
            # an absent penalty is left out, as in the files of versions without penalties
            if name != "seed" and not (name in penalties and value == getattr(Sampling, name, None))
        }
        return {
            "model": model.name,
            "weights": model.fingerprint(),
            "dtype": str(model.placement.dtype).removeprefix("torch."),
            "format": model.thinking.name,
            "thoughts": [format_thoughts(thoughts) for thoughts in self.grid],
            **sampling,
            **{name: value for name, value in asdict(self.limits).items() if name not in _NO_SETTINGS},
            "system": self.system,
            "drawn_by": "seed and task",
            "cache_tokens": self.slot_tokens(model),
        }


def plan_trial_slots(
    model: Model,
    settings: EvalSettings,
    *,
    kv_budget: int | str | None,
    sequences: int,
    memory: int | str | None = None,
) -> BatchPlan:
    """Plan the memory of a sweep: up to `sequences` slots, each with the cache of one trial.

    Parameters
    ----------
    kv_budget : int, str or None
        Bytes that all slots may take; None is the default of `minseek.plan`.
    sequences : int
        Largest number of trials in flight.
    memory : int, str or None
        Bytes that the whole process may take, as for `minseek.plan`.

    Raises
    ------
    InputError
        If no slot fits, or a trial is to have more cache than the context and the limits do not allow it.
    """
    context, beyond = model.max_positions, settings.limits.beyond_context
    if settings.cache_tokens is not None and settings.cache_tokens > context and not beyond:
        raise InputError(
            f"a cache of {settings.cache_tokens} tokens is more than the model's context of {context} tokens: give "
            "fewer, or let it grow beyond the context as well"
        )
    tokens = settings.slot_tokens(model)
    needed = tokens * model.token_bytes()
    if kv_budget is not None and needed > parse_bytes(kv_budget):
        raise InputError(
            f"the KV budget of {format_bytes(parse_bytes(kv_budget))} does not hold one trial's cache of {tokens} "
            f"tokens, {format_bytes(needed)}: give a larger budget or fewer tokens"
        )
    return plan(
        model,
        kv_budget=kv_budget,
        policy=None,
        lengths=(tokens,),
        sequences=sequences,
        beyond_context=beyond,
        memory=memory,
    )
