"""Thoughts, strategies, the reasoning loop and its events."""

from minseek.reasoning.api import reason, stream
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
from minseek.reasoning.limits import Limits
from minseek.reasoning.strategies import BudgetForcing, MinSeek, Standard, Strategy, Verdict

__all__ = [
    "AnswerToken",
    "BudgetForcing",
    "Event",
    "Finished",
    "InterimAnswer",
    "Limits",
    "MinSeek",
    "Result",
    "Standard",
    "Stats",
    "Strategy",
    "Thought",
    "ThoughtEnded",
    "ThoughtStarted",
    "ThoughtToken",
    "Verdict",
    "reason",
    "stream",
]
