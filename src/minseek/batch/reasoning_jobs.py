"""Requests of a batch that ask for a strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minseek.batch.request_jobs import RequestJob
from minseek.batch.results import Outcome
from minseek.protocol.fields import FieldError, refuse_unknown

if TYPE_CHECKING:
    from minseek.batch.requests import Request
    from minseek.engine import BatchPlan
    from minseek.models import Model
    from minseek.models.chat.prompts import Question
    from minseek.reasoning import Result


def make_thinking_job(model: Model, plan: BatchPlan, request: Request) -> RequestJob:
    """The attempt of a request with ``thinking``.

    Raises
    ------
    InputError
        If its options, its messages or its length cannot be honoured.
    """
    from minseek.protocol.thinking import LIMIT_FIELDS, limits_of, strategy_of
    from minseek.reasoning.options import RunOptions
    from minseek.reasoning.strategies import MinSeek
    from minseek.reasoning.thinking_job import ThinkingJob

    options = request.thinking or {}
    refuse_unknown(options, ("strategy", *MinSeek.options(), *LIMIT_FIELDS), "thinking.")
    strategy = strategy_of(options)
    uses = [name for name in ("stop_when_stable", "vote") if options.get(name)]
    if uses and request.max_new_tokens is not None:
        raise FieldError(
            f"thinking.{uses[0]} writes an answer after every thought, which a limit on all new tokens cannot divide "
            "among them: give thinking.budget_tokens and thinking.answer_tokens instead of it",
            param=f"thinking.{uses[0]}",
        )
    job = ThinkingJob(
        model,
        _question(request),
        RunOptions(
            strategy=strategy,
            sampling=request.sampling,
            limits=limits_of(options, request.max_new_tokens),
            stop=request.stop,
        ),
        plan=plan,
    )
    return RequestJob(request, job, lambda: outcome_of(job.result()))


def outcome_of(result: Result) -> Outcome:
    """A run's result as the outcome of a request."""
    stats = result.stats
    return Outcome(
        text=result.answer,
        finish_reason="stop" if stats.answer_ended_by in ("end", "stop") else "length",
        prompt_tokens=stats.prompt_tokens,
        completion_tokens=stats.tokens,
        reasoning="\n".join(thought.text.strip("\n") for thought in result.thoughts),
        reasoning_tokens=stats.thinking_tokens,
        thoughts=[{"index": t.index, "tokens": t.length, "kept": t.kept} for t in result.thoughts],
    )


def _question(request: Request) -> Question:
    """The prompt as a question, or the conversation."""
    if request.prompt is None:
        return request.messages
    if not request.prompt.strip():
        raise FieldError("the question is empty: there is nothing to answer", param="prompt", code="empty_prompt")
    return request.prompt
