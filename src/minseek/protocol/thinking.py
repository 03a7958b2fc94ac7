"""Fields of a request that say how to think: of batch files, and of the server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minseek.errors import InputError
from minseek.protocol.fields import FieldError, parse_count, shown
from minseek.reasoning.limits import Limits
from minseek.reasoning.strategies import STRATEGIES, MinSeek, Standard, Strategy

LIMIT_FIELDS = ("budget_tokens", "answer_tokens", "min_thought_tokens", "max_thought_tokens")
LONGEST_ANSWER = 1024  # tokens, as in `Limits`


def strategy_of(options: Mapping[str, Any]) -> Strategy:
    """The strategy that a request describes.

    Parameters
    ----------
    options : mapping
        The fields of ``thinking`` in a request.

    Raises
    ------
    FieldError
        If an option is wrong, or has no effect on that strategy.
    """
    name = options.get("strategy", "min-seek")
    if not isinstance(name, str) or name not in STRATEGIES:
        raise FieldError(
            f"thinking.strategy must be one of {', '.join(STRATEGIES)}, not {shown(name)}", param="thinking.strategy"
        )
    for option in MinSeek.options():
        if option in options and option not in STRATEGIES[name].options():
            raise FieldError(
                f"thinking.{option} has no effect with the strategy {name}: leave it out", param=f"thinking.{option}"
            )
    if name == "standard":
        return Standard()
    given = {option: options[option] for option in MinSeek.options() if option in options}
    if given.get("thoughts") == "unbounded":
        given["thoughts"] = None
    elif "thoughts" in given and (isinstance(given["thoughts"], bool) or not isinstance(given["thoughts"], int)):
        raise FieldError(
            f"thinking.thoughts must be a number or 'unbounded', not {shown(given['thoughts'])}",
            param="thinking.thoughts",
        )
    for option in ("keep", "stop_when_stable"):
        if option in given:
            parse_count(f"thinking.{option}", given[option])
    if not isinstance(given.get("vote", False), bool):
        raise FieldError(f"thinking.vote must be true or false, not {shown(given['vote'])}", param="thinking.vote")
    for option in ("rule", "answer"):
        if option in given and not isinstance(given[option], str):
            raise FieldError(
                f"thinking.{option} must be a text, not {shown(given[option])}", param=f"thinking.{option}"
            )
    try:
        return STRATEGIES[name](**given)
    except InputError as error:
        raise FieldError(str(error), param="thinking") from None


def limits_of(options: Mapping[str, Any], new_tokens: int | None) -> Limits:
    """The limits of a run; of `new_tokens` in all, some are the answer's: see `Limits.total_tokens`."""
    given = {name: parse_count(f"thinking.{name}", options[name]) for name in LIMIT_FIELDS if name in options}
    budget, answer = given.pop("budget_tokens", None), given.pop("answer_tokens", None)
    if new_tokens is not None:
        kept = answer or (max(1, new_tokens // 4) if budget is None else new_tokens - budget)
        thought = new_tokens - kept if budget is None else budget
        if min(kept, thought) < 1 or kept + thought > new_tokens:
            raise FieldError(
                f"of the {new_tokens} tokens to write at most, thinking and answer must both have some, and together "
                f"no more, not {thought} and {kept}: give more, or divide them otherwise",
                param="thinking",
            )
    try:
        return Limits(
            thinking_budget=budget,
            answer_tokens=answer or new_tokens or LONGEST_ANSWER,
            total_tokens=new_tokens,
            min_thought_tokens=given.get("min_thought_tokens"),
            max_thought_tokens=given.get("max_thought_tokens"),
        )
    except InputError as error:
        raise FieldError(str(error), param="thinking") from None
