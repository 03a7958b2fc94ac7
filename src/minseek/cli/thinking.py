"""Requests of a batch that ask for a strategy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from minseek.batch.attempts import Attempt
from minseek.batch.fields import FieldError, count_of, refuse_unknown, shown
from minseek.batch.records import Outcome
from minseek.errors import InputError

if TYPE_CHECKING:
    from minseek.batch import BatchPlan
    from minseek.batch.requests import Request
    from minseek.models import Model
    from minseek.reasoning import Limits, Result, Strategy

_STRATEGIES = {
    "min-seek": ("thoughts", "keep", "rule", "answer"),
    "budget-forcing": ("thoughts",),
    "standard": (),
}
"""The strategies and the options that have an effect on each."""
_LIMITS = ("budget_tokens", "answer_tokens", "min_thought_tokens", "max_thought_tokens")
_LONGEST_ANSWER = 1024  # tokens, as in `Limits`


def thinking_attempt(model: Model, plan: BatchPlan, request: Request) -> Attempt:
    """The attempt of a request with ``thinking``.

    Raises
    ------
    InputError
        If its options, its messages or its length cannot be honoured.
    """
    from minseek.reasoning.jobs import ThinkingJob

    options = request.thinking or {}
    refuse_unknown(options, ("strategy", *_STRATEGIES["min-seek"], *_LIMITS), "thinking.")
    if request.stop:
        raise FieldError('stop has no effect on thinking: leave it out, or give "stop": []', param="stop")
    system, question = _question(request)
    job = ThinkingJob(
        model,
        question,
        plan=plan,
        strategy=strategy_of(options),
        sampling=request.sampling,
        limits=limits_of(options, request.max_new_tokens),
        system=system,
    )
    return Attempt(request, job, lambda: outcome_of(job.result()))


def strategy_of(options: Mapping[str, Any]) -> Strategy:
    """The strategy that a request describes."""
    from minseek.reasoning import BudgetForcing, MinSeek, Standard

    name = options.get("strategy", "min-seek")
    if not isinstance(name, str) or name not in _STRATEGIES:
        raise FieldError(
            f"thinking.strategy must be one of {', '.join(_STRATEGIES)}, not {shown(name)}", param="thinking.strategy"
        )
    for option in _STRATEGIES["min-seek"]:
        if option in options and option not in _STRATEGIES[name]:
            raise FieldError(
                f"thinking.{option} has no effect with the strategy {name}: leave it out", param=f"thinking.{option}"
            )
    if name == "standard":
        return Standard()
    given = {option: options[option] for option in _STRATEGIES["min-seek"] if option in options}
    if given.get("thoughts") == "unbounded":
        given["thoughts"] = None
    elif "thoughts" in given and (isinstance(given["thoughts"], bool) or not isinstance(given["thoughts"], int)):
        raise FieldError(
            f"thinking.thoughts must be a number or 'unbounded', not {shown(given['thoughts'])}",
            param="thinking.thoughts",
        )
    if "keep" in given:
        count_of("thinking.keep", given["keep"])
    for option in ("rule", "answer"):
        if option in given and not isinstance(given[option], str):
            raise FieldError(
                f"thinking.{option} must be a text, not {shown(given[option])}", param=f"thinking.{option}"
            )
    try:
        return MinSeek(**given) if name == "min-seek" else BudgetForcing(**given)
    except InputError as error:
        raise FieldError(str(error), param="thinking") from None


def limits_of(options: Mapping[str, Any], new_tokens: int | None) -> Limits:
    """The limits of a run; of `new_tokens` in all, a quarter is the answer's unless the request divides them itself."""
    from minseek.reasoning import Limits

    given = {name: count_of(f"thinking.{name}", options[name]) for name in _LIMITS if name in options}
    budget, answer = given.pop("budget_tokens", None), given.pop("answer_tokens", None)
    if new_tokens is not None:
        if answer is None:
            answer = max(1, min(_LONGEST_ANSWER, new_tokens // 4)) if budget is None else new_tokens - budget
        if budget is None:
            budget = new_tokens - answer
        if min(answer, budget) < 1 or answer + budget > new_tokens:
            raise FieldError(
                f"of the {new_tokens} tokens to write at most, thinking and answer must both have some, and together "
                f"no more, not {budget} and {answer}: give more, or divide them otherwise",
                param="thinking",
            )
    try:
        return Limits(
            thinking_budget=budget,
            answer_tokens=_LONGEST_ANSWER if answer is None else answer,
            min_thought_tokens=given.get("min_thought_tokens"),
            max_thought_tokens=given.get("max_thought_tokens"),
        )
    except InputError as error:
        raise FieldError(str(error), param="thinking") from None


def outcome_of(result: Result) -> Outcome:
    """A run's result as the outcome of a request."""
    stats = result.stats
    return Outcome(
        text=result.answer,
        finish_reason="stop" if stats.answer_ended_by == "end" else "length",
        prompt_tokens=stats.prompt_tokens,
        completion_tokens=stats.tokens,
        reasoning="\n".join(thought.text.strip("\n") for thought in result.thoughts),
        reasoning_tokens=stats.thinking_tokens,
        thoughts=[{"index": t.index, "tokens": t.length, "kept": t.kept} for t in result.thoughts],
    )


def _question(request: Request) -> tuple[str | None, str]:
    """The system message, if there is one, and the question."""
    if request.prompt is not None:
        if not request.prompt.strip():
            raise FieldError("the question is empty: there is nothing to answer", param="prompt", code="empty_prompt")
        return None, request.prompt
    contents = [message["content"] for message in request.messages]
    if [message["role"] for message in request.messages] == ["user"]:
        return None, contents[0]
    if [message["role"] for message in request.messages] == ["system", "user"]:
        return contents[0], contents[1]
    raise FieldError(
        f"thinking takes one message of the user, after a system message if there is one, not {len(contents)} messages",
        param="messages",
    )
