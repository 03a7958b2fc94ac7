"""A planned evaluation: the trials that remain, their memory, and the run that ends in a summary."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minseek.engine import BatchPlan, Engine
from minseek.engine.engine import Progress
from minseek.engine.interrupts import finish_pass_first
from minseek.evaluation.accuracy_cells import EvalCell, summarize
from minseek.evaluation.eval_file import EvalFileWriter, EvalResults, read_eval_results
from minseek.evaluation.eval_records import EvalRecord
from minseek.evaluation.eval_settings import EvalSettings
from minseek.evaluation.sweep import sweep
from minseek.evaluation.tasks import Task
from minseek.evaluation.trials import Trial
from minseek.evaluation.verifier import require_math_verify
from minseek.models import Model
from minseek.units import format_count


@dataclass(frozen=True)
class EvalRun:
    """Trials, generated tokens and seconds of one call, and the slots that it had."""

    trials: int
    generated: int
    seconds: float
    slots: int


@dataclass(frozen=True)
class EvalSummary:
    """Result of an evaluation.

    Attributes
    ----------
    cells : list of EvalCell
        Accuracy with its interval, tokens, bytes and seconds for every strategy and number of thoughts.
    records : list of EvalRecord
        Results of all trials.
    settings : dict
        Settings that the results depend on.
    run : EvalRun or None
        Cost of this call; None if all trials had their results already.
    """

    cells: list[EvalCell]
    records: list[EvalRecord]
    settings: dict[str, Any]
    run: EvalRun | None

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without the records."""
        run = None if self.run is None else vars(self.run)
        return {**self.settings, "run": run, "cells": [cell.as_dict() for cell in self.cells]}


class Evaluation:
    """A planned evaluation: everything is checked, and nothing has run.

    Attributes
    ----------
    tasks : list of Task
    trials, remaining : list of Trial
        All trials, and those without a result.
    plan : BatchPlan
        Memory of the trials in flight.
    settings : dict
        Settings that the results depend on.
    progress : Progress or None
        Figures of the engine, once the evaluation runs.
    """

    def __init__(
        self,
        model: Model,
        tasks: list[Task],
        trials: list[Trial],
        eval_settings: EvalSettings,
        plan: BatchPlan,
        results: Path | None = None,
        overwrite: bool = False,
    ) -> None:
        self.tasks, self.trials, self.plan = tasks, trials, plan
        self.settings = eval_settings.as_dict(model)
        self.progress: Progress | None = None
        self._model, self._eval_settings, self._file, self._overwrite = model, eval_settings, results, overwrite
        self._earlier = EvalResults() if results is None or overwrite else read_eval_results(results, self.settings)
        self.remaining = [trial for trial in trials if not self._earlier.has(trial)]

    def __str__(self) -> str:
        names, seeds = len({trial.variant.name for trial in self.trials}), len({trial.seed for trial in self.trials})
        return (
            f"{format_count(len(self.trials), 'trial')}: {format_count(len(self.tasks), 'task')}, "
            f"{names} {'strategy' if names == 1 else 'strategies'}, {format_count(seeds, 'seed')}"
        )

    def run(self, on_progress: Callable[[EvalRecord], None] | None = None) -> EvalSummary:
        """Run the remaining trials.

        The first Ctrl-C takes effect after the current pass of the engine, a second one at once; finished trials are
        in the result file.

        Parameters
        ----------
        on_progress : callable, optional
            Called with the record of every trial that has finished.

        Raises
        ------
        InputError
            If math-verify is not installed.
        KeyboardInterrupt
            After Ctrl-C.
        """
        run = None
        if self.remaining:
            require_math_verify()
            began = time.perf_counter()
            engine = Engine(self._model, self.plan)
            self.progress = engine.progress
            records = list[EvalRecord]()
            with self._writer() as writer, finish_pass_first(engine):
                for record in sweep(self._model, engine, self.remaining, self._eval_settings):
                    writer.write(record)
                    self._earlier.records[record.key] = record
                    records.append(record)
                    if on_progress is not None:
                        on_progress(record)
            generated = sum(record.generated for record in records)
            run = EvalRun(len(records), generated, time.perf_counter() - began, self.plan.slots)
            self.remaining = []
        found = [self._earlier.records[trial.key] for trial in self.trials]
        return EvalSummary(summarize(found), found, self.settings, run)

    def _writer(self) -> EvalFileWriter:
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
        return EvalFileWriter(self._file, self._earlier, self.settings, overwrite=self._overwrite)
