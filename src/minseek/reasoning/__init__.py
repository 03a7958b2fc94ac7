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
from minseek.reasoning.strategies import BudgetForcing, Decision, MinSeek, Standard, Strategy

__all__ = [
    "AnswerToken",
    "BudgetForcing",
    "Decision",
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
    "reason",
    "stream",
]
