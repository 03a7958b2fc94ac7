"""What holds for every trial of a sweep."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from minseek.decode import Sampling
from minseek.engine import BatchPlan, plan
from minseek.errors import InputError
from minseek.evaluation.grid import Thoughts, shown
from minseek.models import Model
from minseek.reasoning.limits import Limits
from minseek.units import format_bytes, parse_bytes


@dataclass(frozen=True)
class Settings:
    """How all trials run.

    Attributes
    ----------
    grid : tuple of int or None
        Numbers of thoughts, ascending; None, unbounded, is the last.
    sampling : Sampling
        Its seed is replaced by each trial's.
    limits : Limits
        A slot bounds the cache besides.
    system : str or None
        A system message.
    cache_tokens : int or None
        Tokens of cache that a trial may take; None is the model's context, and more of them than that are used only
        where the limits allow it (`Limits.beyond_context`).
    """

    grid: tuple[Thoughts, ...]
    sampling: Sampling = field(default_factory=Sampling)
    limits: Limits = field(default_factory=Limits)
    system: str | None = None
    cache_tokens: int | None = None

    def room(self, model: Model) -> int:
        """Tokens of cache for each trial."""
        wanted = model.max_positions if self.cache_tokens is None else self.cache_tokens
        return wanted if self.limits.beyond_context else min(wanted, model.max_positions)

    def as_dict(self, model: Model) -> dict[str, Any]:
        """What results depend on, and what must not change from one run into a file to the next."""
        sampling = {name: value for name, value in asdict(self.sampling).items() if name != "seed"}
        return {
            "model": model.name,
            "weights": model.fingerprint(),
            "dtype": str(model.placement.dtype).removeprefix("torch."),
            "format": model.thinking.name,
            "thoughts": [shown(thoughts) for thoughts in self.grid],
            **sampling,
            **{name: value for name, value in asdict(self.limits).items() if name != "kv_budget"},
            "system": self.system,
            "drawn_by": "seed and task",
            "cache_tokens": self.room(model),
        }


def slots_for(model: Model, settings: Settings, *, kv_budget: int | str | None, sequences: int) -> BatchPlan:
    """The memory of a sweep: as many slots as are wanted and fit, each with the room of a trial.

    Parameters
    ----------
    kv_budget : int, str or None
        Bytes that all slots may take; None is up to four fifths of the memory.
    sequences : int
        Trials wanted in flight.

    Raises
    ------
    InputError
        If no slot fits, or a trial is to have more cache than the context without leave to go beyond it.
    """
    most = model.max_positions
    if settings.cache_tokens is not None and settings.cache_tokens > most and not settings.limits.beyond_context:
        raise InputError(
            f"--cache-tokens {settings.cache_tokens} is more than the model's context of {most} tokens: give fewer, "
            "or --beyond-context as well"
        )
    room = settings.room(model)
    needed = room * model.token_bytes()
    if kv_budget is not None and needed > parse_bytes(kv_budget):
        raise InputError(
            f"the KV budget of {format_bytes(parse_bytes(kv_budget))} does not hold one trial's cache of {room} "
            f"tokens, {format_bytes(needed)}: give a larger budget or fewer --cache-tokens"
        )
    beyond = settings.limits.beyond_context
    return plan(model, kv_budget=kv_budget, policy=None, lengths=(room,), sequences=sequences, beyond_context=beyond)
