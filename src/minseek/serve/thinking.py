"""How a request wants to think: efforts, budgets of tokens and strategies, as a strategy and its limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from minseek.errors import InputError
from minseek.protocol.fields import FieldError, parse_max_tokens, shown
from minseek.protocol.thinking import strategy_of
from minseek.reasoning import Limits, MinSeek, Standard, Strategy
from minseek.serve.bodies import ChatRequest

BUDGETS = ("thinking_token_budget", "thinking_budget_tokens", "reasoning_budget_tokens")
"""Names of one and the same budget; ``thinking.budget_tokens`` is the fourth."""
_HOW = ("strategy", "thoughts", "keep", "rule", "answer", "stop_when_stable", "vote")


@dataclass(frozen=True)
class Effort:
    """What a ``reasoning_effort`` means.

    Attributes
    ----------
    strategy : Strategy
    slot_share : int or None
        Thinking ends after a slot's tokens divided by this; 0 is no thinking, None the strategy's own end.
    """

    strategy: Strategy
    slot_share: int | None = None

    def budget(self, slot_tokens: int) -> int | None:
        """Tokens of thinking at most; None where nothing but the slot bounds them."""
        return None if self.slot_share is None else slot_tokens // self.slot_share if self.slot_share else 0


EFFORTS: Mapping[str, Effort] = {
    "none": Effort(Standard(), slot_share=0),
    "minimal": Effort(Standard(), slot_share=8),
    "low": Effort(Standard()),
    "medium": Effort(MinSeek(2)),
    "high": Effort(MinSeek(6)),
    "xhigh": Effort(MinSeek(20)),
    "max": Effort(MinSeek(100)),
}
"""Ours: no API says how much an effort is."""


@dataclass(frozen=True)
class Defaults:
    """What holds where a request does not say.

    Attributes
    ----------
    effort : Effort
        How to think.
    slot_tokens : int
        Of a slot.
    most_tokens : int
        Generated ones of a choice, whatever the request says.
    """

    effort: Effort
    slot_tokens: int
    most_tokens: int


def thinking_of(body: ChatRequest, defaults: Defaults) -> tuple[Strategy, Limits]:
    """The strategy and the limits that a request asks for.

    Of the tokens to write at most some are kept for the answer, so that one always comes; see `Limits.total_tokens`.

    Raises
    ------
    FieldError
        If two fields contradict each other, or one has no effect.
    """
    options = body.thinking.model_dump(exclude_none=True) if body.thinking else {}
    kind = options.pop("type", None)
    named, budget = _budget(body, options)
    how = {name: options[name] for name in _HOW if options.get(name, False) is not False}  # no vote asks for nothing
    off = _off(body, kind, how, named, budget)
    if body.reasoning_effort and how:
        raise FieldError(
            f"reasoning_effort and thinking.{next(iter(how))} both say how to think: leave one out",
            param="reasoning_effort",
        )
    effort = EFFORTS["none"] if off else EFFORTS[body.reasoning_effort] if body.reasoning_effort else defaults.effort
    if how:
        effort = Effort(strategy_of(how))
    elif not off and body.reasoning_effort is None and (budget or kind == "enabled") and effort.slot_share == 0:
        effort = EFFORTS["low"]  # whoever turns it on or gives a budget wants thinking
    bounds = [bound for bound in (budget, effort.budget(defaults.slot_tokens)) if bound is not None]
    answers = _answers(options, effort.strategy)
    return effort.strategy, _limits(body, min(bounds, default=None), options, answers, defaults.most_tokens)


def _off(body: ChatRequest, kind: str | None, how: Mapping[str, Any], named: str, budget: int | None) -> str | None:
    """The field that turns thinking off, if there is one and no other field asks for it."""
    effort = body.reasoning_effort
    off = "reasoning_effort" if effort == "none" else "thinking.type" if kind == "disabled" else None
    if off is None and budget == 0:
        off = named
    asking = [f"thinking.{name}" for name in how]
    if budget:
        asking.append(named)
    if kind == "enabled":
        asking.append("thinking.type")
    if off == "thinking.type" and effort not in (None, "none"):  # a budget of 0 beside an effort only bounds it
        asking.append("reasoning_effort")
    if off and asking:
        raise FieldError(
            f"{off} turns thinking off, and another field, {asking[0]}, asks for it: leave one out", param=off
        )
    return off


def _budget(body: ChatRequest, options: Mapping[str, Any]) -> tuple[str, int | None]:
    """The budget, and the name that it goes by."""
    given = {name: getattr(body, name) for name in BUDGETS if getattr(body, name) is not None}
    if "budget_tokens" in options:
        given["thinking.budget_tokens"] = options["budget_tokens"]
    if len(set(given.values())) > 1:
        listed = ", ".join(f"{name}={value}" for name, value in given.items())
        raise FieldError(f"{listed} mean the same and differ: give one", param=list(given)[-1])
    return next(iter(given.items()), ("", None))


def _answers(options: Mapping[str, Any], strategy: Strategy) -> int:
    """How many answers a run writes, those included that it only compares."""
    uses = [name for name in ("stop_when_stable", "vote") if options.get(name)]
    if not uses:
        return 1
    for name, wrong in (("thoughts", strategy.thoughts is None), ("answer", strategy.answer != "direct")):
        if wrong:
            raise FieldError(
                f"thinking.{name} {shown(options[name])} is not supported together with {uses[0]}, whose answers count "
                "as generated tokens: give a number of thoughts and direct answers",
                param=f"thinking.{name}",
            )
    return (strategy.thoughts or 0) + 1


def _limits(body: ChatRequest, budget: int | None, options: Mapping[str, Any], answers: int, most: int) -> Limits:
    """The limits of a run whose thinking and answers together never exceed what may be written."""
    named = {"max_completion_tokens": body.max_completion_tokens, "max_tokens": body.max_tokens}
    asked = parse_max_tokens({name: value for name, value in named.items() if value is not None})
    total = min(most, asked or most)
    answer = min(options.get("answer_tokens", total), total)
    if answers > 1:  # those that are only compared come on top of `total_tokens`: half is for all of them together
        reserved = min(answer, max(1, total // (2 * answers)))
        left = total - answers * reserved
        if left < 0:
            raise FieldError(
                f"{answers} answers, one after each thought, do not fit into {total} tokens: allow more, or fewer "
                "thoughts",
                param="thinking",
            )
        budget = left if budget is None else min(left, budget)
        answer = min(answer, (total - budget) // answers)
    try:
        return Limits(
            max_tokens=total,
            total_tokens=total,
            thinking_budget=budget,
            answer_tokens=answer,
            min_thought_tokens=options.get("min_thought_tokens"),
            max_thought_tokens=options.get("max_thought_tokens"),
        )
    except InputError as error:
        raise FieldError(str(error), param="thinking") from None
