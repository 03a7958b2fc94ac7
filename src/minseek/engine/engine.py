"""Continuous batching: jobs take slots, every pass feeds all of them, and a finished job's slot is reused at once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from minseek.cache import KVCache, Slot
from minseek.engine.batch_plan import MAX_BATCHED_TOKENS, PROMPT_CHUNK, BatchPlan
from minseek.engine.generation import Job
from minseek.errors import InputError
from minseek.models import Model, SequenceChunk


@dataclass
class Progress:
    """Counters of an engine.

    Attributes
    ----------
    prefill_tokens, decode_tokens : int
        Tokens of prompts fed; tokens fed that a job chose (its last token is chosen without being fed).
    prefill_seconds, decode_seconds : float
        Duration of the passes that fed any token of a prompt, and of all other passes.
    decode_only_tokens : int
        Tokens fed in the passes of `decode_seconds`; their quotient is the decoding speed.
    in_use, evictions : int
        Slots in use now; evictions so far.
    """

    prefill_tokens: int = 0
    decode_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    decode_only_tokens: int = 0
    in_use: int = 0
    evictions: int = 0


@dataclass(frozen=True)
class FinishedJob:
    """A job that has released its slot: it finished, or `error` ended it."""

    job: Job
    error: Exception | None = None


@dataclass(eq=False)
class _Running:
    """A slot and the job that runs in it."""

    slot: Slot
    job: Job
    cache: KVCache
    pending: deque[int] = field(default_factory=deque)
    prefilling: bool = True
    error: Exception | None = None


class Engine:
    """Runs jobs in the slots of a plan.

    Every pass feeds a chunk of each running sequence, up to `MAX_BATCHED_TOKENS` tokens, so that prompts are prefilled
    in the same passes in which other sequences decode. A chunk ends where an eviction is due or after 128 tokens,
    independently of the other sequences: results are batch-invariant.

    `run` processes a list of jobs. A caller whose jobs arrive over time calls `admit`, `step` and `cancel` instead, all
    from one thread, and never from within a job.

    Attributes
    ----------
    progress : Progress
        Counters so far.
    passing : bool
        True while a pass runs.
    before_pass : callable or None
        Called before every pass. An exception that it raises ends the run; finished jobs are not lost.
    """

    def __init__(self, model: Model, plan: BatchPlan) -> None:
        self._model, self.plan = model, plan
        self.pool = model.make_slot_pool(plan.slot, plan.slots, window=plan.policy.window if plan.policy else 0)
        self.progress = Progress()
        self.passing = False
        self.before_pass: Callable[[], None] | None = None
        self._running: list[_Running] = []
        self._free = list(reversed(self.pool.slots))

    @property
    def free(self) -> int:
        """Number of free slots."""
        return len(self._free)

    def run(self, jobs: Iterable[Job]) -> Iterator[Job]:
        """Run all jobs and yield each one when it has finished. An error in a job ends the run after that pass."""
        waiting, admitted = iter(jobs), dict[int, Job]()
        more = True
        try:
            while more or self._running:
                while self._free and more:
                    job = next(waiting, None)
                    more = job is not None
                    if job is not None:
                        self.admit(job)
                        admitted[id(job)] = job
                ended_now = self.step()
                for ended in ended_now:
                    admitted.pop(id(ended.job), None)
                for ended in ended_now:
                    if ended.error is None:
                        yield ended.job
                for ended in ended_now:
                    if ended.error is not None:  # raised last, so that no finished job is lost
                        raise ended.error
        finally:  # slots are released if the caller stops early
            for job in admitted.values():
                self.cancel(job)

    def admit(self, job: Job) -> None:
        """Start a job in a free slot; the next `step` feeds it.

        Raises
        ------
        RuntimeError
            If no slot is free.
        InputError
            If the job has nothing to feed, or a token outside the vocabulary. The slot stays free, as it does if
            `Job.start` raises.
        """
        if not self._free:
            raise RuntimeError(f"all {len(self.pool.slots)} slots are taken: admit jobs while `free` is not 0")
        slot = self._free[-1]
        slot.clear()
        tokens = job.start(slot)
        if not tokens:
            raise InputError("there is nothing to feed: a job begins with at least one token")
        self._model.check_token_ids(tokens)
        self._running.append(_Running(self._free.pop(), job, job.cache, deque(tokens)))
        self.progress.in_use = len(self._running)

    def step(self) -> list[FinishedJob]:
        """Run one pass over all running jobs; return those that ended in it, with their slots released.

        An error raised by a job ends only that job. An error of the pass itself, such as a failed allocation, is
        raised; the caches of all running jobs are then undefined, and the caller must cancel them.
        """
        if not self._running:
            return []
        if self.before_pass is not None:
            self.before_pass()
        self.passing = True
        try:
            ended = self._pass()
            for entry in ended:
                self._release(entry)
        finally:
            self.passing = False
        return [FinishedJob(entry.job, entry.error) for entry in ended]

    def cancel(self, job: Job) -> None:
        """Release a job's slot at once, without finishing the job; no effect if it has none."""
        for entry in self._running:
            if entry.job is job:
                self._release(entry)
                return

    def _release(self, entry: _Running) -> None:
        self._running.remove(entry)
        self._free.append(entry.slot)
        self.progress.in_use = len(self._running)

    def _pass(self) -> list[_Running]:
        """Feed a chunk of every sequence; return the entries whose jobs have ended."""
        began = time.perf_counter()
        fed, budget, ended = list[tuple[_Running, SequenceChunk]](), MAX_BATCHED_TOKENS, list[_Running]()
        for entry in sorted(self._running, key=lambda r: r.prefilling):  # decoding never waits for prefill
            if entry.job.evicts and not entry.slot.free_tokens:
                self._evict(entry.slot)
            count = min(len(entry.pending), PROMPT_CHUNK, entry.cache.free_tokens)
            if count == 0:
                entry.error = InputError(f"the slot of {entry.cache.length} tokens is full: take less, or larger slots")
                ended.append(entry)
                continue
            if count > budget:
                continue
            budget -= count
            if entry.job.evicts and entry.slot.position + count > self._model.max_positions:
                entry.slot.reencode()
            tokens = [entry.pending.popleft() for _ in range(count)]
            fed.append((entry, SequenceChunk(tokens, entry.cache, num_logits=int(not entry.pending))))
        if not fed:
            return ended
        fed.sort(key=lambda pair: -len(pair[1].tokens))  # whole blocks of columns first
        logits, _ = self._model.forward_batch([chunk for _, chunk in fed])
        rows = iter(logits.cpu())  # one synchronization with a GPU, not one per sequence
        chosen = [self._next_tokens(entry, next(rows)) if chunk.num_logits else None for entry, chunk in fed]
        self._count(fed, time.perf_counter() - began)
        for (entry, _), following in zip(fed, chosen, strict=True):
            if following is not None:
                entry.prefilling = False
                entry.pending.extend(following)
                if not entry.pending:
                    ended.append(entry)
        served = {id(entry) for entry, _ in fed}
        self._running.sort(key=lambda entry: id(entry) in served)  # skipped sequences go first in the next pass
        return ended

    def _next_tokens(self, entry: _Running, logits: Tensor) -> Sequence[int]:
        """Tokens that a job wants fed next; none if it has ended."""
        try:
            tokens = entry.job.next_tokens(logits)
            if tokens:
                self._model.check_token_ids(tokens)
            return tokens
        except Exception as error:  # any error in a job ends only that job
            entry.error = error
            return ()

    def _evict(self, slot: Slot) -> None:
        policy = self.plan.policy
        assert policy is not None, "a job with evicts=True needs a plan with a policy"
        policy.evict(slot)
        self.progress.evictions += 1

    def _count(self, fed: Sequence[tuple[_Running, SequenceChunk]], seconds: float) -> None:
        prefilled = sum(len(chunk.tokens) for entry, chunk in fed if entry.prefilling)
        decoded = sum(len(chunk.tokens) for entry, chunk in fed if not entry.prefilling)
        p = self.progress
        p.prefill_tokens, p.decode_tokens = p.prefill_tokens + prefilled, p.decode_tokens + decoded
        if prefilled:
            p.prefill_seconds += seconds
        else:
            p.decode_seconds += seconds
            p.decode_only_tokens += decoded
