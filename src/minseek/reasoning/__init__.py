"""Thoughts, strategies, the reasoning loop and its events.

The names are imported at first use: the command line reads the names of strategies and rules without loading torch.
"""

from typing import TYPE_CHECKING

from minseek.lazy import lazy_names

if TYPE_CHECKING:
    from minseek.reasoning.api import plan_run, reason, stream
    from minseek.reasoning.defaults import DefaultStrategy, choose_default
    from minseek.reasoning.events import (
        AnswerToken,
        Event,
        Finished,
        InterimAnswer,
        Result,
        Stats,
        Thought,
        ThoughtEnded,
        ThoughtStarted,
        ThoughtToken,
    )
    from minseek.reasoning.fresh_thoughts import FreshThoughts
    from minseek.reasoning.limits import Limits
    from minseek.reasoning.options import RunOptions
    from minseek.reasoning.run_plan import RunPlan
    from minseek.reasoning.strategies import BudgetForcing, MinSeek, Standard, register
    from minseek.reasoning.strategy import Decision, Strategy

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "minseek.reasoning.api": ("plan_run", "reason", "stream"),
        "minseek.reasoning.defaults": ("DefaultStrategy", "choose_default"),
        "minseek.reasoning.events": (
            *("AnswerToken", "Event", "Finished", "InterimAnswer", "Result", "Stats", "Thought"),
            *("ThoughtEnded", "ThoughtStarted", "ThoughtToken"),
        ),
        "minseek.reasoning.fresh_thoughts": ("FreshThoughts",),
        "minseek.reasoning.limits": ("Limits",),
        "minseek.reasoning.options": ("RunOptions",),
        "minseek.reasoning.run_plan": ("RunPlan",),
        "minseek.reasoning.strategies": ("BudgetForcing", "MinSeek", "Standard", "register"),
        "minseek.reasoning.strategy": ("Decision", "Strategy"),
    },
)

__all__ = [
    "AnswerToken",
    "BudgetForcing",
    "Decision",
    "DefaultStrategy",
    "Event",
    "Finished",
    "FreshThoughts",
    "InterimAnswer",
    "Limits",
    "MinSeek",
    "Result",
    "RunOptions",
    "RunPlan",
    "Standard",
    "Stats",
    "Strategy",
    "Thought",
    "ThoughtEnded",
    "ThoughtStarted",
    "ThoughtToken",
    "choose_default",
    "plan_run",
    "reason",
    "register",
    "stream",
]
