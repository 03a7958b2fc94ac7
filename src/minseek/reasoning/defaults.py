"""Defaults of a run for which no strategy was chosen: it ends soon, with an answer."""

from __future__ import annotations

from dataclasses import dataclass, replace

from minseek.errors import InputError
from minseek.models import Model
from minseek.models.chat.prompts import Question
from minseek.reasoning.options import RunOptions
from minseek.reasoning.run import Run
from minseek.reasoning.run_plan import RunPlan
from minseek.reasoning.strategies import STRATEGIES, MinSeek, Standard
from minseek.reasoning.strategy import Strategy

PLAIN_THOUGHT_TOKENS = 128
"""Most tokens of a thought of a model without thinking tags (measured, see the lab notes)."""


_PAPER = "the paper's rule, not measured with this model: arXiv 2601.09855"
_PLAIN = "measured with SmolLM2: docs/lab-notes.md, thoughts of a model that does not think"


@dataclass(frozen=True)
class DefaultStrategy:
    """The strategy of a run that names none.

    Attributes
    ----------
    strategy : Strategy
    evidence : str
        Where the evidence for it stands.
    is_measured : bool
        True if the model itself comes with that evidence.
    """

    strategy: Strategy
    evidence: str
    is_measured: bool = False


def choose_default(model: Model) -> DefaultStrategy:
    """Choose the strategy that the evidence on a model recommends.

    Without such evidence it is the paper's, or for a model without thinking tags its own way, once.

    Raises
    ------
    InputError
        If the file that recommends a strategy is wrong.
    """
    recommended = model.recommended
    if recommended is not None and recommended.format == model.thinking.name:
        if recommended.strategy not in STRATEGIES:
            raise InputError(
                f"{recommended.file} recommends the unknown strategy {recommended.strategy!r}: "
                f"choose {', '.join(STRATEGIES)}"
            )
        try:
            return DefaultStrategy(STRATEGIES[recommended.strategy](**recommended.options), recommended.evidence, True)
        except (InputError, TypeError) as error:
            raise InputError(f"the options in {recommended.file} are wrong: {error}") from None
    return DefaultStrategy(MinSeek(), _PAPER) if model.thinking.open else DefaultStrategy(Standard(), _PLAIN)


def default_run(model: Model, question: Question, options: RunOptions) -> Run:
    """Make the run of options without a strategy: the answer has a visible character, and thoughts are bounded.

    A recommended strategy runs as it was measured, without a bound of its own.
    """
    default = choose_default(model)
    options = replace(options, strategy=default.strategy, needs_answer=True)
    run = Run(model, question, options)
    most = None if default.is_measured else default_thought_tokens(model, run.plan, options)
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
        held = 1 + strategy.keep + 1  # the first thought, kept ones, and the current one
        share = (plan.thinking_capacity - plan.prompt_tokens) // held
        most = share if most is None else min(share, most)
    return None if most is None else max(most, limits.min_thought_tokens or 1)
