"""A trial: a chain of thoughts that is measured on its way, as a job of the engine around the one that thinks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from minseek.cache import Slot, ThoughtCache
from minseek.engine import BatchPlan
from minseek.evaluation.checking import is_right
from minseek.evaluation.grid import Thoughts, Trial, order
from minseek.evaluation.points import Point, Record
from minseek.evaluation.settings import Settings
from minseek.models import Model
from minseek.reasoning.events import Event, Finished, InterimAnswer, ThoughtEnded
from minseek.reasoning.options import RunOptions
from minseek.reasoning.thinking_job import ThinkingJob


class TrialJob:
    """Runs a trial, writes down its answers on the way, and is charged its share of every pass.

    Parameters
    ----------
    plan : BatchPlan
        Of the engine that will run it.

    Raises
    ------
    InputError
        If the task's prompt does not fit into a slot.
    """

    evicts = False

    def __init__(self, model: Model, trial: Trial, settings: Settings, plan: BatchPlan) -> None:
        self.trial = trial
        self._token_bytes, self._whole = model.token_bytes(), plan.slot.capacity == model.max_positions
        self._after = frozenset(n for n in trial.points if n is not None and n != trial.thoughts)
        self._job = ThinkingJob(
            model,
            trial.task.prompt,
            RunOptions(
                strategy=trial.variant.strategy(trial.thoughts),
                sampling=replace(settings.sampling, seed=trial.own_seed),
                limits=settings.limits,
                system=settings.system,
                answer_after=self._after or None,
            ),
            plan=plan,
            on_event=self._hear,
        )
        self._points: list[Point] = []
        self._heard: list[tuple[InterimAnswer, str]] = []
        self._latest: InterimAnswer | None = None
        self._thought_ended_by = "thoughts"  # unless a limit cut the latest one off
        self._over = False
        self._aside = self._aside_before = False  # whether an answer on the way is being written, now and in the pass
        self._seconds = self._aside_seconds = self._all_seconds = 0.0
        self._fed = self._length = 0

    @property
    def cache(self) -> ThoughtCache:
        """The job's."""
        return self._job.cache

    def start(self, slot: Slot) -> Sequence[int]:
        """The prompt."""
        return self._job.start(slot)

    def next_tokens(self, logits: Tensor) -> Sequence[int]:
        """The next tokens of a thought or of an answer."""
        self._fed += self.cache.length - self._length
        tokens = self._job.next_tokens(logits)
        self._length = self.cache.length
        return tokens

    def take_fed(self) -> int:
        """Tokens that were fed since this was last asked: the measure of its share of a pass."""
        fed = self._fed + self.cache.length - self._length
        self._fed, self._length = 0, self.cache.length
        return fed

    def charge(self, seconds: float) -> None:
        """Its share of the pass that has just been made: the chain's own time, or that of an answer on the way."""
        self._all_seconds += seconds
        if self._aside_before:
            self._aside_seconds += seconds
        else:
            self._seconds += seconds
        for answer, ended_by in self._heard:
            self._points.append(self._point_on_the_way(answer, ended_by))
        if self._heard and not self._over:
            self._aside_seconds = 0.0
        self._heard.clear()
        self._aside_before = self._aside

    def record(self) -> Record:
        """What came of it, once it has finished and was charged."""
        there = {point.thoughts for point in self._points}
        points = [*self._points, *(self._last_point(n) for n in self.trial.points if n not in there)]
        stats, trial = self._job.result().stats, self.trial
        return Record(
            strategy=trial.variant.name,
            thoughts=trial.thoughts,
            task=trial.task.id,
            digest=trial.task.digest,
            seed=trial.seed,
            points=tuple(sorted(points, key=lambda point: order(point.thoughts))),
            generated=stats.tokens,
            seconds=self._all_seconds,
        )

    def _hear(self, event: Event) -> None:
        if isinstance(event, ThoughtEnded):
            thought = event.thought
            self._thought_ended_by = "thoughts" if thought.finished else self._bound(thought.ended_by)
            self._aside = (thought.finished or not thought.kept) and thought.index in self._after
        elif isinstance(event, InterimAnswer):
            self._latest = event
            if event.index in self._after:
                self._heard.append((event, self._thought_ended_by))
                self._aside = False
        elif isinstance(event, Finished):
            self._over = True

    def _point_on_the_way(self, answer: InterimAnswer, ended_by: str) -> Point:
        return Point(
            thoughts=answer.index,
            reached=answer.index,
            answer=answer.answer,
            right=self._is_right(answer.answer),
            tokens=answer.thinking_tokens + len(answer.tokens),
            thinking_tokens=answer.thinking_tokens,
            answer_tokens=len(answer.tokens),
            kv_tokens_peak=answer.kv_tokens_peak,
            kv_bytes_peak=answer.kv_tokens_peak * self._token_bytes,
            seconds=self._seconds + self._aside_seconds,
            ended_by=ended_by,
            answer_ended_by=self._bound(answer.ended_by),
        )

    def _last_point(self, thoughts: Thoughts) -> Point:
        """The final answer: at the trial's end, and at all points that it did not reach."""
        result = self._job.result()
        stats = result.stats
        # A strategy's own answers on the way count, ours do not; the last of ours is the final one.
        own = 0 if self._after else stats.interim_tokens
        peak = self._latest.kv_tokens_peak if self._after and self._latest else stats.kv_tokens_peak
        return Point(
            thoughts=thoughts,
            reached=stats.thoughts,
            answer=result.answer,
            right=self._is_right(result.answer),
            tokens=stats.thinking_tokens + stats.answer_tokens + own,
            thinking_tokens=stats.thinking_tokens,
            answer_tokens=stats.answer_tokens,
            kv_tokens_peak=peak,
            kv_bytes_peak=peak * self._token_bytes,
            seconds=self._seconds + self._aside_seconds,
            ended_by=self._bound(stats.ended_by),
            answer_ended_by=self._bound(stats.answer_ended_by),
        )

    def _is_right(self, answer: str) -> bool:
        return is_right(answer, self.trial.task.answer, len(self.trial.task.choices))

    def _bound(self, ended_by: str) -> str:
        """Why something ended; a slot as long as the context is the context."""
        return "context" if ended_by == "kv-budget" and self._whole else ended_by
