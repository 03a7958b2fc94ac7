"""minseek: think long, serve many and tune inside a memory budget fixed beforehand."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minseek.decode import Sampling
    from minseek.engine import BatchPlan, Completion, generate, plan
    from minseek.models import FORMATS, PLAIN, THINK, Model, ThinkingFormat, load
    from minseek.reasoning import (
        AnswerToken,
        BudgetForcing,
        Event,
        Finished,
        FreshThoughts,
        InterimAnswer,
        Limits,
        MinSeek,
        Result,
        RunPlan,
        Standard,
        Stats,
        Strategy,
        Thought,
        ThoughtEnded,
        ThoughtStarted,
        ThoughtToken,
        plan_run,
        reason,
        stream,
    )

from minseek.errors import InputError, MinseekWarning
from minseek.lazy import lazy_names

__version__ = "0.1.0"

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "minseek.engine": ("BatchPlan", "Completion", "generate", "plan"),
        "minseek.decode": ("Sampling",),
        "minseek.models": ("FORMATS", "PLAIN", "THINK", "Model", "ThinkingFormat", "load"),
        "minseek.reasoning": (
            *("AnswerToken", "BudgetForcing", "Event", "Finished", "FreshThoughts"),
            *("InterimAnswer", "Limits", "MinSeek"),
            *("Result", "RunPlan"),
            *("Standard", "Stats", "Strategy", "Thought", "ThoughtEnded", "ThoughtStarted", "ThoughtToken"),
            *("plan_run", "reason", "stream"),
        ),
    },
)

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
    "FreshThoughts",
    "InputError",
    "InterimAnswer",
    "Limits",
    "MinSeek",
    "MinseekWarning",
    "Model",
    "Result",
    "RunPlan",
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
    "plan_run",
    "reason",
    "stream",
]
