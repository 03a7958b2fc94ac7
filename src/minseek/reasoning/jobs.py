"""Thinking in a batch: a run whose tokens are fed together with those of other sequences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from minseek.cache import Slot, ThoughtCache
from minseek.decode import Sampling
from minseek.engine import BatchPlan
from minseek.models import Model
from minseek.models.chat.prompts import Question
from minseek.reasoning.chain import NeedLogits
from minseek.reasoning.events import Event, Finished, Result
from minseek.reasoning.interim import AnswerAfter
from minseek.reasoning.limits import Limits
from minseek.reasoning.run import Run
from minseek.reasoning.strategies import MinSeek, Strategy
from minseek.units import parse_bytes


class ThinkingJob:
    """One question in a slot of the engine; the run is the one of `minseek.reason`.

    The slot's memory holds a `ThoughtCache`: thoughts are dropped by the strategy, and no policy evicts anything.

    Parameters
    ----------
    model, question, strategy, sampling, limits, induce, system, stop, logprobs, answer_after
        As for `minseek.stream`; a slot bounds the run's cache as a KV budget does.
    plan : BatchPlan
        Of the engine that will run it.
    told : callable, optional
        What is called with every event as it happens, in the engine's thread.

    Raises
    ------
    InputError
        If the question is empty, is no conversation, or does not fit into a slot.
    """

    evicts = False

    def __init__(
        self,
        model: Model,
        question: Question,
        *,
        plan: BatchPlan,
        strategy: Strategy | None = None,
        sampling: Sampling | None = None,
        limits: Limits | None = None,
        induce: str | None = None,
        system: str | None = None,
        stop: Sequence[str] = (),
        logprobs: int | None = None,
        answer_after: AnswerAfter = None,
        told: Callable[[Event], None] | None = None,
    ) -> None:
        room, limits = plan.slot.capacity * model.token_bytes(), limits or Limits()
        if limits.kv_budget is not None:
            room = min(room, parse_bytes(limits.kv_budget))
        self._run = Run(
            model,
            question,
            strategy=strategy or MinSeek(),
            sampling=sampling or Sampling(),
            limits=replace(limits, kv_budget=room),
            induce=induce,
            system=system,
            stop=stop,
            logprobs=logprobs,
            answer_after=answer_after,
            slot_tokens=plan.slot.capacity,
        )
        self._told = told
        self._result: Result | None = None

    def start(self, slot: Slot) -> Sequence[int]:
        """The prompt."""
        self.cache = ThoughtCache.over(slot)
        self._steps = self._run.steps(self._run.model.session(cache=self.cache))
        return self._until_read(None)

    def next_tokens(self, logits: Tensor) -> Sequence[int]:
        """The next token, or the words that induce a thought."""
        return self._until_read(logits)

    def _until_read(self, logits: Tensor | None) -> Sequence[int]:
        while True:
            step = self._steps.send(logits)
            logits = None
            if isinstance(step, NeedLogits):
                return step.tokens
            if self._told is not None:
                self._told(step)
            if isinstance(step, Finished):
                self._result = step.result
                return ()

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return len(self._run.prompt)

    def result(self) -> Result:
        """What came of it, once the job has finished."""
        assert self._result is not None, "the job has not finished"
        return self._result
