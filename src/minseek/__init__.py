"""minseek: think long, serve many and tune inside a memory budget fixed beforehand."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minseek.decode import Sampling
    from minseek.engine import BatchPlan, Completion, generate, plan
    from minseek.models import FORMATS, PLAIN, THINK, Model, ThinkingFormat, load
    from minseek.reasoning import (
        AnswerToken,
        BudgetForcing,
        Event,
        Finished,
        InterimAnswer,
        Limits,
        MinSeek,
        Result,
        Standard,
        Stats,
        Strategy,
        Thought,
        ThoughtEnded,
        ThoughtStarted,
        ThoughtToken,
        reason,
        stream,
    )

from minseek.errors import InputError, MinseekWarning

__version__ = "0.1.0"

_PACKAGES = {
    "minseek.engine": ("BatchPlan", "Completion", "generate", "plan"),
    "minseek.decode": ("Sampling",),
    "minseek.models": ("FORMATS", "PLAIN", "THINK", "Model", "ThinkingFormat", "load"),
    "minseek.reasoning": (
        *("AnswerToken", "BudgetForcing", "Event", "Finished", "InterimAnswer", "Limits", "MinSeek", "Result"),
        *("Standard", "Stats", "Strategy", "Thought", "ThoughtEnded", "ThoughtStarted", "ThoughtToken"),
        *("reason", "stream"),
    ),
}
_HOMES = {name: package for package, names in _PACKAGES.items() for name in names}

__all__ = [
    "FORMATS",
    "PLAIN",
    "THINK",
    "AnswerToken",
    "BatchPlan",
    "BudgetForcing",
    "Completion",
    "Event",
    "Finished",
    "InputError",
    "InterimAnswer",
    "Limits",
    "MinSeek",
    "MinseekWarning",
    "Model",
    "Result",
    "Sampling",
    "Standard",
    "Stats",
    "Strategy",
    "ThinkingFormat",
    "Thought",
    "ThoughtEnded",
    "ThoughtStarted",
    "ThoughtToken",
    "generate",
    "load",
    "plan",
    "reason",
    "stream",
]


def __getattr__(name: str) -> Any:  # imports of torch and transformers happen where they are needed
    if name not in _HOMES:
        raise AttributeError(f"module 'minseek' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
