"""Continuous batching: jobs take slots, every pass feeds all of them, a finished job's slot goes to the next one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from minseek.cache import KVCache, Slot, SlotPool
from minseek.engine.generation import Job
from minseek.engine.plan import MAX_BATCHED_TOKENS, BatchPlan
from minseek.errors import InputError
from minseek.models import Model
from minseek.models.forward.chunk import SequenceChunk

_CHUNK = 128  # tokens of one prompt in one pass


@dataclass
class Progress:
    """What the engine has done so far.

    Attributes
    ----------
    read, written : int
        Tokens of prompts; tokens that a job chose (its last one is chosen without being fed).
    prefill_seconds, decode_seconds : float
        Of passes with any token of a prompt in them; of the others.
    decode_only_tokens : int
        Tokens written in the passes of `decode_seconds`: what the speed of decoding is.
    in_use, evictions : int
        Slots in use now; evictions so far.
    """

    read: int = 0
    written: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    decode_only_tokens: int = 0
    in_use: int = 0
    evictions: int = 0


@dataclass(frozen=True)
class FinishedJob:
    """A job that has left its slot: it finished, or `error` ended it."""

    job: Job
    error: Exception | None = None


@dataclass(eq=False)
class _Running:
    """A slot and who has it."""

    slot: Slot
    job: Job
    cache: KVCache
    pending: deque[int] = field(default_factory=deque)
    reading: bool = True  # the prompt
    error: Exception | None = None


class Engine:
    """Runs jobs in the slots of a plan.

    Every pass takes a chunk of each sequence that has something to feed, up to `MAX_BATCHED_TOKENS` tokens: prompts are read
    beside sequences that are being written. Chunks end where an eviction is due or after 128 tokens, whatever else is
    in the pass, so that what a sequence gives does not depend on its company.

    Attributes
    ----------
    progress : Progress
        What has been done so far.
    passing : bool
        Whether a pass is under way.
    before_pass : callable or None
        Called before every pass; an exception of its own ends the run, with nothing lost that had finished.

    `run` works a list of jobs off. Who has jobs that come and go calls `admit`, `step` and `withdraw`, all from one
    thread, and none of them out of a job.
    """

    def __init__(self, model: Model, plan: BatchPlan) -> None:
        self._model, self.plan = model, plan
        self.pool = SlotPool(plan.slot, model.parts.rotary, plan.slots, device=model.parts.embedding.device)
        for slot in self.pool.slots:
            slot.window = plan.policy.window if plan.policy else 0
        self.progress = Progress()
        self.passing = False
        self.before_pass: Callable[[], None] | None = None
        self._seats: list[_Running] = []
        self._free = list(reversed(self.pool.slots))

    @property
    def free(self) -> int:
        """Slots that nobody has."""
        return len(self._free)

    def run(self, jobs: Iterable[Job]) -> Iterator[Job]:
        """Run all jobs; each is given back when it has finished. The first one's error ends the run, after its pass."""
        waiting, own = iter(jobs), dict[int, Job]()
        more = True
        try:
            while more or self._seats:
                while self._free and more:
                    job = next(waiting, None)
                    more = job is not None
                    if job is not None:
                        self.admit(job)
                        own[id(job)] = job
                over = self.step()
                for ended in over:
                    own.pop(id(ended.job), None)
                for ended in over:
                    if ended.error is None:
                        yield ended.job
                for ended in over:
                    if ended.error is not None:  # last, so that nothing is lost that had finished
                        raise ended.error
        finally:  # whoever stops in the middle leaves no slot taken
            for job in own.values():
                self.cancel(job)

    def admit(self, job: Job) -> None:
        """Give a job a free slot; it is fed from the next `step` on.

        Raises
        ------
        RuntimeError
            If no slot is free.
        InputError
            If the job has nothing to feed, or a token that the model does not have. The slot stays free, as it does
            where `begin` itself raises an error.
        """
        if not self._free:
            raise RuntimeError(f"all {len(self.pool.slots)} slots are taken: admit jobs while `free` is not 0")
        slot = self._free[-1]
        slot.clear()
        tokens = job.begin(slot)
        if not tokens:
            raise InputError("there is nothing to feed: a job begins with at least one token")
        self._check(tokens)
        self._seats.append(_Running(self._free.pop(), job, job.cache, deque(tokens)))
        self.progress.in_use = len(self._seats)

    def step(self) -> list[FinishedJob]:
        """One pass over all who sit, if anybody does: the jobs that ended in it, their slots free again.

        An error that a job raises ends that job alone. An error of the pass itself, such as memory that cannot be had,
        is raised: what the jobs in it have in their slots is no longer sound, so they must be withdrawn.
        """
        if not self._seats:
            return []
        if self.before_pass is not None:
            self.before_pass()
        self.passing = True
        try:
            gone = self._pass()
            for seat in gone:
                self._leave(seat)
        finally:
            self.passing = False
        return [FinishedJob(seat.job, seat.error) for seat in gone]

    def cancel(self, job: Job) -> None:
        """Free a job's slot at once, whatever the job was doing; nothing happens if it has none."""
        for seat in self._seats:
            if seat.job is job:
                self._leave(seat)
                return

    def _leave(self, seat: _Running) -> None:
        self._seats.remove(seat)
        self._free.append(seat.slot)
        self.progress.in_use = len(self._seats)

    def _check(self, tokens: Sequence[int]) -> None:
        """Refuse a token that would stop the whole pass."""
        rows = len(self._model.parts.embedding)
        if not 0 <= min(tokens) <= max(tokens) < rows:
            wrong = min(tokens) if min(tokens) < 0 else max(tokens)
            raise InputError(f"the token {wrong} has no place in an embedding of {rows}: the tokenizer does not fit")

    def _pass(self) -> list[_Running]:
        """Feed a chunk of every sequence; those whose jobs have ended."""
        began = time.perf_counter()
        fed, room, gone = list[tuple[_Running, SequenceChunk]](), MAX_BATCHED_TOKENS, list[_Running]()
        for seat in sorted(self._seats, key=lambda s: s.reading):  # who writes does not wait for who reads
            if seat.job.evicts and not seat.slot.room:
                self._evict(seat.slot)
            count = min(len(seat.pending), _CHUNK, seat.cache.room)
            if count == 0:
                seat.error = InputError(f"the slot of {seat.cache.length} tokens is full: take less, or larger slots")
                gone.append(seat)
                continue
            if count > room:
                continue
            room -= count
            if seat.job.evicts and seat.slot.position + count > self._model.max_positions:
                seat.slot.reencode()
            tokens = [seat.pending.popleft() for _ in range(count)]
            fed.append((seat, SequenceChunk(tokens, seat.cache, wanted=int(not seat.pending))))
        if not fed:
            return gone
        fed.sort(key=lambda pair: -len(pair[1].tokens))  # whole blocks of columns first
        logits, _ = self._model.forward_batch([feed for _, feed in fed])
        rows = iter(logits.cpu())  # a GPU is waited for once, not once a sequence
        answers = [self._ask(seat, next(rows)) if feed.wanted else None for seat, feed in fed]
        self._count(fed, time.perf_counter() - began)
        for (seat, _), answer in zip(fed, answers, strict=True):
            if answer is not None:
                seat.reading = False
                seat.pending.extend(answer)
                if not seat.pending:
                    gone.append(seat)
        served = {id(seat) for seat, _ in fed}
        self._seats.sort(key=lambda seat: id(seat) in served)  # who had to wait goes first next time
        return gone

    def _ask(self, seat: _Running, logits: Tensor) -> Sequence[int]:
        """What a job wants to be fed next; nothing if it is over."""
        try:
            tokens = seat.job.next_tokens(logits)
            if tokens:
                self._check(tokens)
            return tokens
        except Exception as error:  # whatever it is, it is that job's alone
            seat.error = error
            return ()

    def _evict(self, slot: Slot) -> None:
        policy = self.plan.policy
        assert policy is not None, "a job that may be evicted from needs a policy"
        policy.evict(slot)
        self.progress.evictions += 1

    def _count(self, fed: Sequence[tuple[_Running, SequenceChunk]], seconds: float) -> None:
        read = sum(len(feed.tokens) for seat, feed in fed if seat.reading)
        written = sum(len(feed.tokens) for seat, feed in fed if not seat.reading)
        p = self.progress
        p.read, p.written = p.read + read, p.written + written
        if read:
            p.prefill_seconds += seconds
        else:
            p.decode_seconds += seconds
            p.decode_only_tokens += written
