"""A reasoning run in a slot of the engine, decoded in one batch with other sequences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from minseek.cache import Slot, ThoughtCache
from minseek.engine import BatchPlan
from minseek.errors import InputError
from minseek.models import Model
from minseek.models.chat.prompts import Question
from minseek.reasoning.chain import NeedLogits
from minseek.reasoning.events import Event, Finished, Result
from minseek.reasoning.options import RunOptions
from minseek.reasoning.run import Run
from minseek.units import parse_bytes


class ThinkingJob:
    """One question in a slot of the engine; the run is the one of `minseek.reason`.

    The slot's memory holds a `ThoughtCache`: the strategy drops thoughts, and no policy evicts anything.

    Parameters
    ----------
    model, question
        As for `minseek.stream`.
    options : RunOptions, optional
        The slot bounds the run's cache as a KV budget does.
    plan : BatchPlan
        Plan of the engine that will run the job.
    on_event : callable, optional
        Called with every event as it happens, in the engine's thread.

    Raises
    ------
    InputError
        If the question is empty, is not a conversation, or does not fit into a slot.
    """

    evicts = False

    def __init__(
        self,
        model: Model,
        question: Question,
        options: RunOptions | None = None,
        *,
        plan: BatchPlan,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        options = options or RunOptions()
        if options.key_storage != "re-rotated":
            raise InputError(f"a slot stores keys re-rotated, not {options.key_storage}: leave key_storage out")
        budget = plan.slot.capacity * model.token_bytes()
        if options.limits.kv_budget is not None:
            budget = min(budget, parse_bytes(options.limits.kv_budget))
        options = replace(options, limits=replace(options.limits, kv_budget=budget))
        self._run = Run(model, question, options, slot_tokens=plan.slot.capacity)
        self._on_event = on_event
        self._result: Result | None = None

    def start(self, slot: Slot) -> Sequence[int]:
        """Start in a slot; returns the prompt."""
        self.cache = ThoughtCache.over(slot)
        self._steps = self._run.steps(self._run.model.session(cache=self.cache))
        return self._advance(None)

    def next_tokens(self, logits: Tensor) -> Sequence[int]:
        """The next token, or the tokens that induce a thought; none once the run has finished."""
        return self._advance(logits)

    def _advance(self, logits: Tensor | None) -> Sequence[int]:
        """Run up to the next tokens that must be fed."""
        while True:
            step = self._steps.send(logits)
            logits = None
            if isinstance(step, NeedLogits):
                return step.tokens
            if self._on_event is not None:
                self._on_event(step)
            if isinstance(step, Finished):
                self._result = step.result
                return ()

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return len(self._run.prompt)

    def result(self) -> Result:
        """The result of a finished job."""
        assert self._result is not None, "the job has not finished"
        return self._result
