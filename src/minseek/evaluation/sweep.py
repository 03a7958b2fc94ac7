"""Runs many trials at once in the slots of an engine."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from minseek.engine import Engine
from minseek.evaluation.eval_records import EvalRecord
from minseek.evaluation.eval_settings import EvalSettings
from minseek.evaluation.trial_job import TrialJob
from minseek.evaluation.trials import Trial
from minseek.models import Model


def sweep(model: Model, engine: Engine, trials: Iterable[Trial], settings: EvalSettings) -> Iterator[EvalRecord]:
    """Run trials, each with the result that `minseek.reason` gives by itself, and yield records as they finish.

    The seconds of a pass are divided among its trials by the tokens that each fed. A trial alone would take longer
    than its share, because each of its passes would read all weights for one token.

    Raises
    ------
    InputError
        If a task's prompt does not fit into a slot.
    """
    waiting, running = iter(trials), list[TrialJob]()
    try:
        while True:
            while engine.free and (trial := next(waiting, None)) is not None:
                job = TrialJob(model, trial, settings, engine.plan)
                engine.admit(job)
                running.append(job)
            if not running:
                return
            began = time.perf_counter()
            finished = engine.step()
            seconds = time.perf_counter() - began
            fed = [job.take_fed() for job in running]
            share = seconds / max(1, sum(fed))
            for job, tokens in zip(running, fed, strict=True):
                job.charge(share * tokens)
            for each in finished:
                if each.error is not None:
                    raise each.error
            finished_ids = {id(each.job) for each in finished}
            for job in [job for job in running if id(job) in finished_ids]:
                running.remove(job)
                yield job.record()
    finally:
        for job in running:
            engine.cancel(job)
