"""Many trials at once, in the slots of an engine."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from minseek.engine import Engine
from minseek.evaluation.grid import Trial
from minseek.evaluation.points import Record
from minseek.evaluation.settings import Settings
from minseek.evaluation.trial import TrialJob
from minseek.models import Model


def sweep(model: Model, engine: Engine, trials: Iterable[Trial], settings: Settings) -> Iterator[Record]:
    """Run trials, each as `minseek.reason` would by itself; records come as they finish.

    A pass's seconds are divided among the trials in it by the tokens that each fed: on its own, a trial would take
    longer than its share, as passes of one sequence read all weights for one token.

    Raises
    ------
    InputError
        If a task's prompt does not fit into a slot.
    """
    waiting, seated = iter(trials), list[TrialJob]()
    try:
        while True:
            while engine.free and (trial := next(waiting, None)) is not None:
                job = TrialJob(model, trial, settings, engine.plan)
                engine.admit(job)
                seated.append(job)
            if not seated:
                return
            began = time.perf_counter()
            ended = engine.step()
            seconds = time.perf_counter() - began
            fed = [job.take_fed() for job in seated]
            share = seconds / max(1, sum(fed))
            for job, tokens in zip(seated, fed, strict=True):
                job.charge(share * tokens)
            over = {id(each.job) for each in ended}
            for each in ended:
                if each.error is not None:
                    raise each.error
            for job in [job for job in seated if id(job) in over]:
                seated.remove(job)
                yield job.record()
    finally:
        for job in seated:
            engine.cancel(job)
