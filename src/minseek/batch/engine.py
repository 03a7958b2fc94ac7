"""Continuous batching: jobs take slots, every pass feeds all of them, a finished job's slot goes to the next one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from minseek.batch.job import Job
from minseek.batch.plan import PASS_TOKENS, BatchPlan
from minseek.cache import Candidates, Pairs, Slot, SlotPool
from minseek.models import Model
from minseek.models.feed import Feed

_CHUNK = 128  # tokens of one prompt in one pass


@dataclass
class Progress:
    """What the engine has done so far.

    Attributes
    ----------
    read, written : int
        Tokens of prompts; tokens that a job chose (its last one is chosen without being fed).
    read_seconds, write_seconds : float
        Of passes with any token of a prompt in them; of the others.
    written_alone : int
        Tokens written in the passes of `write_seconds`: what the speed of decoding is.
    in_use, evictions : int
        Slots in use now; evictions so far.
    """

    read: int = 0
    written: int = 0
    read_seconds: float = 0.0
    write_seconds: float = 0.0
    written_alone: int = 0
    in_use: int = 0
    evictions: int = 0


@dataclass
class _Seat:
    """A slot and who has it."""

    slot: Slot
    job: Job
    cache: Pairs
    pending: deque[int] = field(default_factory=deque)
    reading: bool = True  # the prompt


class Engine:
    """Runs jobs in the slots of a plan.

    Every pass takes a chunk of each sequence that has something to feed, up to `PASS_TOKENS` tokens: prompts are read
    beside sequences that are being written. Chunks end where an eviction is due or after 128 tokens, whatever else is
    in the pass, so that what a sequence gives does not depend on its company.
    """

    def __init__(self, model: Model, plan: BatchPlan) -> None:
        self._model, self.plan = model, plan
        self.pool = SlotPool(plan.slot, model.parts.rotary, plan.slots, device=model.parts.embedding.device)
        for slot in self.pool.slots:
            slot.window = plan.policy.window if plan.policy else 0
        self.progress = Progress()
        self._seats: list[_Seat] = []

    def run(self, jobs: Iterable[Job]) -> Iterator[Job]:
        """Run all jobs; each is given back when it has finished."""
        waiting, free = iter(jobs), list(reversed(self.pool.slots))
        more = True
        while more or self._seats:
            while free and more:
                job = next(waiting, None)
                more = job is not None
                if job is not None:
                    self._seats.append(self._seat(free.pop(), job))
            if not self._seats:
                break
            for seat in self._pass():
                self._seats.remove(seat)
                free.append(seat.slot)
                yield seat.job
        self.progress.in_use = 0

    def _seat(self, slot: Slot, job: Job) -> _Seat:
        slot.clear()
        tokens = job.begin(slot)
        return _Seat(slot, job, job.cache, deque(tokens))

    def _pass(self) -> list[_Seat]:
        """Feed a chunk of every sequence; those whose jobs have finished."""
        began = time.perf_counter()
        fed, room = [], PASS_TOKENS
        for seat in sorted(self._seats, key=lambda s: s.reading):  # who writes does not wait for who reads
            if seat.job.evicts and seat.slot.full:
                self._evict(seat.slot)
            count = min(len(seat.pending), _CHUNK, seat.cache.capacity - seat.cache.length)
            if count > room:
                continue
            room -= count
            if seat.job.evicts and seat.slot.position + count > self._model.max_positions:
                seat.slot.reencode()
            tokens = [seat.pending.popleft() for _ in range(count)]
            fed.append((seat, Feed(tokens, seat.cache, wanted=int(not seat.pending))))
        fed.sort(key=lambda pair: -len(pair[1].tokens))  # whole blocks of columns first
        logits, _ = self._model.feed_many([feed for _, feed in fed])
        finished, rows = [], iter(logits)
        answers = [seat.job.proceed(next(rows)) if feed.wanted else None for seat, feed in fed]
        self._count(fed, time.perf_counter() - began)
        for (seat, _), answer in zip(fed, answers, strict=True):
            if answer is not None:
                seat.reading = False
                seat.pending.extend(answer)
                if not seat.pending:
                    finished.append(seat)
        served = {id(seat) for seat, _ in fed}
        self._seats.sort(key=lambda seat: id(seat) in served)  # who had to wait goes first next time
        return finished

    def _evict(self, slot: Slot) -> None:
        policy = self.plan.policy
        assert policy is not None, "a job that may be evicted from needs a policy"
        slot.keep(policy.choose(Candidates(slot), self.plan.cap))
        self.progress.evictions += 1

    def _count(self, fed: Sequence[tuple[_Seat, Feed]], seconds: float) -> None:
        read = sum(len(feed.tokens) for seat, feed in fed if seat.reading)
        written = sum(len(feed.tokens) for seat, feed in fed if not seat.reading)
        p = self.progress
        p.read, p.written = p.read + read, p.written + written
        p.in_use = len(self._seats)
        if read:
            p.read_seconds += seconds
        else:
            p.write_seconds += seconds
            p.written_alone += written
