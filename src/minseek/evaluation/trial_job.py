"""A trial as a job of the engine: a reasoning run that is measured at every wanted number of thoughts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from minseek.cache import Slot, ThoughtCache
from minseek.engine import BatchPlan
from minseek.evaluation.checking import is_correct
from minseek.evaluation.eval_records import EvalRecord, TrialPoint
from minseek.evaluation.eval_settings import EvalSettings
from minseek.evaluation.thought_counts import Thoughts, thoughts_order
from minseek.evaluation.trials import Trial
from minseek.models import Model
from minseek.reasoning.events import Event, Finished, InterimAnswer, ThoughtEnded
from minseek.reasoning.options import RunOptions
from minseek.reasoning.thinking_job import ThinkingJob


class TrialJob:
    """Runs a trial, records its answers, and accounts for its share of the time of every pass.

    Parameters
    ----------
    plan : BatchPlan
        Plan of the engine that will run the job.

    Raises
    ------
    InputError
        If the task's prompt does not fit into a slot.
    """

    evicts = False

    def __init__(self, model: Model, trial: Trial, settings: EvalSettings, plan: BatchPlan) -> None:
        self.trial = trial
        self._token_bytes, self._slot_is_context = model.token_bytes(), plan.slot.capacity == model.max_positions
        self._after = frozenset(n for n in trial.points if n is not None and n != trial.thoughts)
        self._job = ThinkingJob(
            model,
            trial.task.question,
            RunOptions(
                strategy=trial.variant.strategy(trial.thoughts),
                sampling=replace(settings.sampling, seed=trial.sampling_seed),
                limits=replace(settings.limits, loop_detection=False),
                system=settings.system,
                answer_after=self._after or None,
            ),
            plan=plan,
            on_event=self._on_event,
        )
        self._points: list[TrialPoint] = []
        self._pending: list[tuple[InterimAnswer, str]] = []
        self._latest: InterimAnswer | None = None
        self._thought_ended_by = "thoughts"  # unless a limit cut off the latest one
        self._finished = False
        self._in_interim = self._was_in_interim = False  # writing an interim answer, now and in the current pass
        self._seconds = self._interim_seconds = self._all_seconds = 0.0
        self._fed = self._length = 0

    @property
    def cache(self) -> ThoughtCache:
        """Cache of the run."""
        return self._job.cache

    def start(self, slot: Slot) -> Sequence[int]:
        """Start in a slot; returns the prompt."""
        return self._job.start(slot)

    def next_tokens(self, logits: Tensor) -> Sequence[int]:
        """The next tokens of a thought or of an answer."""
        self._fed += self.cache.length - self._length
        tokens = self._job.next_tokens(logits)
        self._length = self.cache.length
        return tokens

    def take_fed(self) -> int:
        """Tokens fed since the last call, the measure of the trial's share of a pass."""
        fed = self._fed + self.cache.length - self._length
        self._fed, self._length = 0, self.cache.length
        return fed

    def charge(self, seconds: float) -> None:
        """Add the trial's share of the last pass to the time of the chain, or of the interim answer being written."""
        self._all_seconds += seconds
        if self._was_in_interim:
            self._interim_seconds += seconds
        else:
            self._seconds += seconds
        for answer, ended_by in self._pending:
            self._points.append(self._interim_point(answer, ended_by))
        if self._pending and not self._finished:
            self._interim_seconds = 0.0
        self._pending.clear()
        self._was_in_interim = self._in_interim

    def record(self) -> EvalRecord:
        """The record, once the job has finished and its last pass was charged."""
        recorded = {point.thoughts for point in self._points}
        points = [*self._points, *(self._last_point(n) for n in self.trial.points if n not in recorded)]
        stats, trial = self._job.result().stats, self.trial
        return EvalRecord(
            strategy=trial.variant.name,
            thoughts=trial.thoughts,
            task=trial.task.id,
            digest=trial.task.digest,
            seed=trial.seed,
            points=tuple(sorted(points, key=lambda point: thoughts_order(point.thoughts))),
            generated=stats.tokens,
            seconds=self._all_seconds,
        )

    def _on_event(self, event: Event) -> None:
        if isinstance(event, ThoughtEnded):
            thought = event.thought
            self._thought_ended_by = "thoughts" if thought.finished else self._reason(thought.ended_by)
            self._in_interim = (thought.finished or not thought.kept) and thought.index in self._after
        elif isinstance(event, InterimAnswer):
            self._latest = event
            if event.index in self._after:
                self._pending.append((event, self._thought_ended_by))
                self._in_interim = False
        elif isinstance(event, Finished):
            self._finished = True

    def _interim_point(self, answer: InterimAnswer, ended_by: str) -> TrialPoint:
        return TrialPoint(
            thoughts=answer.index,
            reached=answer.index,
            answer=answer.answer,
            right=self._is_correct(answer.answer),
            tokens=answer.thinking_tokens + len(answer.tokens),
            thinking_tokens=answer.thinking_tokens,
            answer_tokens=len(answer.tokens),
            kv_tokens_peak=answer.kv_tokens_peak,
            kv_bytes_peak=answer.kv_tokens_peak * self._token_bytes,
            seconds=self._seconds + self._interim_seconds,
            ended_by=ended_by,
            answer_ended_by=self._reason(answer.ended_by),
        )

    def _last_point(self, thoughts: Thoughts) -> TrialPoint:
        """The point of the final answer, also used for all numbers of thoughts that the run did not reach."""
        result = self._job.result()
        stats = result.stats
        # Interim answers that the strategy needs count, those that the trial asks for do not.
        strategy_tokens = 0 if self._after else stats.interim_tokens
        peak = self._latest.kv_tokens_peak if self._after and self._latest else stats.kv_tokens_peak
        return TrialPoint(
            thoughts=thoughts,
            reached=stats.thoughts,
            answer=result.answer,
            right=self._is_correct(result.answer),
            tokens=stats.thinking_tokens + stats.answer_tokens + strategy_tokens,
            thinking_tokens=stats.thinking_tokens,
            answer_tokens=stats.answer_tokens,
            kv_tokens_peak=peak,
            kv_bytes_peak=peak * self._token_bytes,
            seconds=self._seconds + self._interim_seconds,
            ended_by=self._reason(stats.ended_by),
            answer_ended_by=self._reason(stats.answer_ended_by),
        )

    def _is_correct(self, answer: str) -> bool:
        return is_correct(answer, self.trial.task.answer, len(self.trial.task.choices))

    def _reason(self, ended_by: str) -> str:
        """The reason for an end; the end of a slot that is as long as the context counts as the context's."""
        return "context" if ended_by == "kv-budget" and self._slot_is_context else ended_by
