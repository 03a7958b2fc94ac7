"""Defaults of a run for which no strategy was chosen: it ends soon, with an answer."""

from __future__ import annotations

from dataclasses import replace

from minseek.models import Model
from minseek.models.chat.prompts import Question
from minseek.reasoning.options import RunOptions
from minseek.reasoning.run import Run
from minseek.reasoning.run_plan import RunPlan
from minseek.reasoning.strategies import MinSeek, Standard
from minseek.reasoning.strategy import Strategy

PLAIN_THOUGHT_TOKENS = 128
"""Most tokens of a thought of a model without thinking tags (measured, see the lab notes)."""


def default_strategy(model: Model) -> Strategy:
    """The strategy of a run that names none: the paper's, or for a model without tags its own way, once."""
    return MinSeek() if model.thinking.open else Standard()


def default_run(model: Model, question: Question, options: RunOptions) -> Run:
    """Make the run of options without a strategy: thoughts are bounded, and the answer has a visible character."""
    options = replace(options, strategy=default_strategy(model), needs_answer=True)
    run = Run(model, question, options)
    most = default_thought_tokens(model, run.plan, options)
    if most is None:
        return run
    return Run(model, question, replace(options, limits=replace(options.limits, max_thought_tokens=most)))


def default_thought_tokens(model: Model, plan: RunPlan, options: RunOptions) -> int | None:
    """Most tokens of a thought: an equal share, for all thoughts that are held at once, of the tokens for thinking.

    None if the limits given bound thoughts or thinking already, or if nothing bounds the cache.
    """
    limits, strategy = options.limits, options.strategy
    if limits.max_thought_tokens is not None or limits.max_thinking_tokens is not None:
        return None
    most = None if model.thinking.open else PLAIN_THOUGHT_TOKENS
    if plan.thinking_capacity is not None and strategy.keep is not None:
        held = 1 + strategy.keep + (not strategy.independent)  # the first thought, kept ones, and the current one
        share = (plan.thinking_capacity - plan.prompt_tokens) // held
        most = share if most is None else min(share, most)
    return None if most is None else max(most, limits.min_thought_tokens or 1)
