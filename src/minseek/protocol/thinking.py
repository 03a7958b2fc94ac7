"""Thinking fields of a request as a strategy and the limits of its run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from minseek.errors import InputError, is_instance
from minseek.protocol.efforts import EFFORTS, Effort, EffortName, efforts_with
from minseek.protocol.fields import FieldError, parse_same, preview
from minseek.reasoning.limits import Limits
from minseek.reasoning.strategies import OPTIONS, STRATEGIES, MinSeek, check_keep, with_options
from minseek.reasoning.strategy import Strategy

if TYPE_CHECKING:
    from minseek.protocol.requests import ChatRequest

BUDGET_FIELDS = ("thinking_token_budget", "thinking_budget_tokens", "reasoning_budget_tokens")
"""Synonyms of one budget, of which ``thinking.budget_tokens`` is the fourth."""
THINKING_FIELDS = ("thinking", "reasoning_effort", *BUDGET_FIELDS)
MAX_COMPLETION_TOKENS = 32768
"""Default maximum of generated tokens of one choice, thinking included."""
_STRATEGY_FIELDS = ("strategy", *OPTIONS)


@dataclass(frozen=True)
class ThinkingDefaults:
    """Values for what a request leaves open.

    Attributes
    ----------
    effort : Effort
        Strategy of a request that names none.
    slot_tokens : int
        Tokens of a slot.
    max_tokens : int
        Upper bound of the generated tokens of one choice.
    strategy : Strategy
        The model's default strategy, in whose way efforts induce thoughts.
    """

    effort: Effort
    slot_tokens: int
    max_tokens: int
    strategy: Strategy = field(default_factory=MinSeek)


def parse_strategy(options: Mapping[str, Any], default: Strategy | None = None) -> Strategy:
    """Build the strategy that the options of ``thinking`` describe.

    Parameters
    ----------
    options : mapping
        ``strategy`` and its options.
    default : Strategy, optional
        The strategy that options without a name change, if it has them; else they are those of "min-seek".

    Raises
    ------
    FieldError
        If an option is wrong, or has no effect on that strategy.
    """
    name = options.get("strategy", MinSeek.name)
    if not isinstance(name, str) or name not in STRATEGIES:
        raise FieldError(
            f"thinking.strategy must be one of {', '.join(STRATEGIES)}, not {preview(name)}", param="thinking.strategy"
        )
    given = {option: options[option] for option in OPTIONS if option in options}
    for option in given:
        if option not in STRATEGIES[name].options():
            raise FieldError(
                f"thinking.{option} has no effect with the strategy {name}: leave it out", param=f"thinking.{option}"
            )
    thoughts = given.get("thoughts")
    if thoughts == "unbounded":
        given["thoughts"] = None
    elif "thoughts" in given and not is_instance(thoughts, int):
        raise FieldError(
            f"thinking.thoughts must be a number or 'unbounded', not {preview(thoughts)}", param="thinking.thoughts"
        )
    try:
        if default is not None and "strategy" not in options:
            strategy = with_options(default, given)
        else:
            strategy = STRATEGIES[name](**given)
    except TypeError as error:
        field = str(error).partition(" ")[0]
        if field not in given:
            raise
        raise FieldError(f"thinking.{error}", param=f"thinking.{field}") from None
    except InputError as error:
        raise FieldError(str(error), param="thinking") from None
    try:
        check_keep(strategy, strategy.thoughts, "thinking.keep", "thinking.thoughts")
    except InputError as error:
        raise FieldError(str(error), param="thinking.keep") from None
    return strategy


def parse_thinking(body: ChatRequest, defaults: ThinkingDefaults) -> tuple[Strategy, Limits]:
    """Return the strategy and the limits of a chat request.

    Some of the tokens to generate are reserved for the answer, so that there always is one; see `Limits.total_tokens`.

    Raises
    ------
    FieldError
        If two fields contradict each other, or one has no effect.
    """
    options, budget, effort = parse_effort(body, defaults.strategy)
    if effort is None:
        effort = defaults.effort
        if effort.slot_share == 0 and (budget or options.get("type") == "enabled"):
            effort = EFFORTS["low"]  # a budget, or "enabled", asks for thinking
    total = min(defaults.max_tokens, body.limit or defaults.max_tokens)
    if body.reasoning_effort and effort is EFFORTS[body.reasoning_effort]:
        effort = _effort_within(total, body.reasoning_effort, defaults.strategy)
    bounds = [bound for bound in (budget, effort.budget(defaults.slot_tokens)) if bound is not None]
    answers = _count_answers(options, effort.strategy)
    return effort.strategy, _limits(options, min(bounds, default=None), answers, total)


def _effort_within(total: int, name: EffortName, default: Strategy) -> Effort:
    """The effort of a model with that default strategy, with so few thoughts that answers after all of them fit."""
    effort = efforts_with(default)[name]
    strategy = effort.strategy
    if not strategy.compares_answers or strategy.thoughts is None:
        return effort
    return replace(effort, strategy=replace(strategy, thoughts=min(strategy.thoughts, max(0, total // 2 - 1))))


def parse_effort(
    body: ChatRequest, default: Strategy | None = None
) -> tuple[dict[str, Any], int | None, Effort | None]:
    """Return the options of ``thinking``, the budget, and the requested effort or strategy, each if given.

    Raises
    ------
    FieldError
        If two fields contradict each other, or one has no effect.
    """
    options = body.thinking.model_dump(exclude_none=True) if body.thinking else {}
    values = {name: getattr(body, name) for name in BUDGET_FIELDS}
    values["thinking.budget_tokens"] = options.get("budget_tokens")
    budget = parse_same(values)
    budget_name = next((name for name, value in values.items() if value is not None), "")
    chosen = {name: options[name] for name in _STRATEGY_FIELDS if options.get(name, False) is not False}
    off = _turned_off_by(body, options.get("type"), chosen, budget_name, budget)
    if body.reasoning_effort and chosen:
        raise FieldError(
            f"reasoning_effort and thinking.{next(iter(chosen))} both choose a strategy: leave one out",
            param="reasoning_effort",
        )
    if chosen:
        return options, budget, Effort(parse_strategy(chosen, default))
    if off:
        return options, budget, EFFORTS["none"]
    return options, budget, EFFORTS[body.reasoning_effort] if body.reasoning_effort else None


def _turned_off_by(
    body: ChatRequest, kind: str | None, chosen: Mapping[str, Any], budget_name: str, budget: int | None
) -> str | None:
    """Name of the field that turns thinking off, if any; no other field may then ask for it."""
    effort = body.reasoning_effort
    off = "reasoning_effort" if effort == "none" else "thinking.type" if kind == "disabled" else None
    if off is None and budget == 0:
        off = budget_name
    requesting = [f"thinking.{name}" for name in chosen]
    if budget:
        requesting.append(budget_name)
    if kind == "enabled":
        requesting.append("thinking.type")
    if off == "thinking.type" and effort not in (None, "none"):  # a budget of 0 only bounds an effort
        requesting.append("reasoning_effort")
    if off and requesting:
        raise FieldError(
            f"{off} turns thinking off, and another field, {requesting[0]}, asks for it: leave one out", param=off
        )
    return off


def _count_answers(options: Mapping[str, Any], strategy: Strategy) -> int | None:
    """Number of answers that a run generates, including those that are only compared; None if it is open."""
    if not strategy.compares_answers:
        return 1
    if strategy.answer != "direct":
        uses = [name for name in ("stop_when_stable", "vote") if options.get(name)] or [f"the strategy {strategy.name}"]
        raise FieldError(
            f"thinking.answer {preview(strategy.answer)} is not supported together with {uses[0]}, whose answers count "
            "as generated tokens: give direct answers",
            param="thinking.answer",
        )
    return None if strategy.thoughts is None else strategy.thoughts + 1


def _limits(options: Mapping[str, Any], budget: int | None, answers: int | None, total: int) -> Limits:
    """Limits of a run whose thinking and answers together never exceed `total` tokens."""
    try:
        return Limits.from_total(
            total,
            thinking_budget=budget,
            answer_tokens=options.get("answer_tokens"),
            answers=answers,
            min_thought_tokens=options.get("min_thought_tokens"),
            max_thought_tokens=options.get("max_thought_tokens"),
            loop_detection=options.get("loop_detection", True),
        )
    except InputError as error:
        raise FieldError(str(error), param="thinking") from None
