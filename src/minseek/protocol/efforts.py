"""Reasoning efforts of OpenAI's API as strategies and budgets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from minseek.reasoning.strategies import MinSeek, Standard
from minseek.reasoning.strategy import Strategy

EffortName = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


@dataclass(frozen=True)
class Effort:
    """Strategy of a ``reasoning_effort``, with a thinking budget relative to the slot.

    Attributes
    ----------
    strategy : Strategy
    slot_share : int or None
        Thinking ends after a slot's tokens divided by this. 0 means no thinking, None no budget.
    """

    strategy: Strategy
    slot_share: int | None = None

    def budget(self, slot_tokens: int) -> int | None:
        """Maximum tokens of thinking; None if only the slot bounds them."""
        return None if self.slot_share is None else slot_tokens // self.slot_share if self.slot_share else 0


EFFORTS: Mapping[EffortName, Effort] = {
    "none": Effort(Standard(), slot_share=0),
    "minimal": Effort(Standard(), slot_share=8),
    "low": Effort(Standard()),
    "medium": Effort(MinSeek(2)),
    "high": Effort(MinSeek(6)),
    "xhigh": Effort(MinSeek(20)),
    "max": Effort(MinSeek(100)),
}
"""Our choice: no API defines an effort. A model whose evidence recommends another strategy has its own."""


def efforts_with(strategy: Strategy) -> Mapping[EffortName, Effort]:
    """Return the efforts of a model whose default strategy is given: those that induce thoughts do it in its way."""
    if "thoughts" not in strategy.options():
        return EFFORTS
    return {
        name: replace(effort, strategy=replace(strategy, thoughts=effort.strategy.thoughts))
        if isinstance(effort.strategy, MinSeek)
        else effort
        for name, effort in EFFORTS.items()
    }


def default_effort(opens_thinking: bool) -> Effort:
    """Return the effort of a model without any request for thinking: its own way, once or not at all."""
    return EFFORTS["low" if opens_thinking else "none"]
