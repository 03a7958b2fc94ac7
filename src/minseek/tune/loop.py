"""Training loop: steps, evaluations and checkpoints, from the start of a run or from its checkpoint."""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from minseek.errors import InputError, MinseekWarning
from minseek.tune.best_weights import BestWeights
from minseek.tune.checkpoint import read_checkpoint, write_checkpoint
from minseek.tune.divergence import DivergenceCheck
from minseek.tune.folder import RunFolder
from minseek.tune.log import LogEntry, TuneResult
from minseek.tune.memory import MemoryMeter
from minseek.tune.trainer import DivergedError, Trainer
from minseek.units import format_bytes

CHECKPOINT_SECONDS = 600
"""Time between two checkpoints where no number of steps is given."""
BEST = "best"
"""Directory of the weights with the lowest held-out loss, in that of the run."""

T = TypeVar("T")


class TrainingLoop:
    """Executes a run.

    Parameters
    ----------
    model
        A transformers model with its weights.
    trainer : Trainer
        Trainer of that model.
    folder : RunFolder
        If it has a checkpoint, the run resumes from it, and later entries of the log are removed.
    steps : int
        Steps of the run; more than an earlier run had lengthen it.
    meter : MemoryMeter
    budget : int or None
        Limit of the peak that `meter` measures, bytes.
    on_entry : callable
        Called with every entry of the log.
    write_model : callable
        Writes the model to a directory.
    """

    def __init__(
        self,
        model: Any,
        trainer: Trainer,
        folder: RunFolder,
        *,
        steps: int,
        meter: MemoryMeter,
        budget: int | None,
        on_entry: Callable[[LogEntry], None],
        write_model: Callable[[Path], None],
    ) -> None:
        self._model, self._trainer, self._folder = model, trainer, folder
        self._steps, self._eval_every = steps, trainer.settings.eval_every
        self._meter, self._budget, self._on_entry, self._write_model = meter, budget, on_entry, write_model
        self._over_budget = False
        trainer.after_pass = self._check_budget
        machine = f"torch {torch.__version__}, {torch.get_num_threads()} threads, {model.device.type}"
        self._progress: dict[str, Any] = {"step": 0, "tokens": 0, "seconds": 0.0, "log": 0, "machine": machine}
        self._progress |= read_checkpoint(folder.checkpoint, model, trainer.optimizer) or {}
        if self._progress["machine"] != machine:
            warnings.warn(
                f"this run was started with {self._progress['machine']} and is resumed with {machine}: its last digits "
                "will differ from those of an uninterrupted run",
                MinseekWarning,
                stacklevel=3,
            )
        self._warn_of_schedule(self._progress.get("steps", steps))
        self._progress["steps"] = steps
        self._divergence = DivergenceCheck(trainer, model.config.vocab_size, self._progress)
        self._best = BestWeights(folder.path / BEST, write_model, self._progress)
        self._best.resume()
        folder.cut_log(self._progress["log"])
        self._start_time = time.perf_counter() - self._progress["seconds"]

    def run(self, *, planned: int, checkpoint_every: int | None, stop: Callable[[], bool]) -> TuneResult:
        """Train to the end, or until `stop` returns True, and write the model.

        Parameters
        ----------
        planned : int
            Bytes of the plan, for the log.
        checkpoint_every : int or None
            Steps between checkpoints; None writes one every ten minutes.
        stop : callable
            Called after every step.

        Raises
        ------
        InputError
            If the memory budget was exceeded, after the step and a checkpoint; if training has diverged, and then no
            model is written; or if the model cannot be written: a checkpoint keeps the run if the disk takes it.
        """
        progress, saved = self._progress, time.monotonic()
        if progress["step"] == 0:
            self._evaluate()
        while progress["step"] < self._steps:
            self._step()
            if self._over_budget:
                self._checkpoint()
                assert self._budget is not None
                raise InputError(
                    f"the run has taken {format_bytes(self._meter.peak() or 0)} and its memory budget is "
                    f"{format_bytes(self._budget)}: it was stopped after step {progress['step']}, which "
                    f"{self._folder.path} keeps, and is resumed from there with a larger budget"
                )
            if progress["step"] == self._steps:
                break
            if stop():
                self._checkpoint()
                return self._result(finished=False)
            if checkpoint_every is None:
                is_due = time.monotonic() - saved >= CHECKPOINT_SECONDS
            else:
                is_due = progress["step"] % checkpoint_every == 0
            if is_due:
                self._try_checkpoint()
                saved = time.monotonic()
        trained = dict(progress)
        self._told(self._divergence.at_end)
        self._evaluate()
        try:
            self._write_model(self._folder.path)
        except OSError as error:
            self._progress = trained  # without the evaluation, which is repeated
            self._checkpoint()
            raise InputError(
                f"the tuned model could not be written to {self._folder.path} ({error.strerror}): a checkpoint keeps "
                "the whole run, and the same command writes the model once there is space"
            ) from error
        self._log_entry("end", planned=planned)
        self._keep_state()
        self._folder.finish()
        self._best.at_end()
        return self._result(finished=True)

    def _step(self) -> None:
        progress, every = self._progress, self._eval_every
        learning_rate = self._trainer.learning_rate(progress["step"])
        progress["loss"], tokens = self._told(lambda: self._trainer.step(progress["step"]))
        progress["step"] += 1
        progress["tokens"] += tokens
        self._log_entry("step", learning_rate=learning_rate, loss=progress["loss"])
        self._told(lambda: self._divergence.after_step(progress["loss"]))
        if every is not None and progress["step"] % every == 0 and progress["step"] < self._steps:
            self._evaluate()

    def _evaluate(self) -> None:
        loss = self._trainer.held_out_loss()
        if loss is not None:
            self._progress.setdefault("before", loss)
            self._progress["after"] = loss
            self._log_entry("held-out", held_out_loss=loss)
            self._best.add(loss, is_last=self._progress["step"] == self._steps)

    def _log_entry(self, event: str, **values: Any) -> None:
        p = self._progress
        p["seconds"] = time.perf_counter() - self._start_time
        entry = LogEntry(
            event, p["step"], self._steps, p["tokens"], round(p["seconds"], 3), self._meter.peak(), **values
        )
        p["log"] = self._folder.log(entry.as_dict())
        self._on_entry(entry)

    def _check_budget(self) -> None:
        if self._budget is not None and (self._meter.peak() or 0) > self._budget:
            self._over_budget = True

    def _told(self, work: Callable[[], T]) -> T:
        """Do something; if the run has diverged, say what is kept of it."""
        try:
            return work()
        except DivergedError as error:
            kept = f"; {self._best.where()}" if self._best.where() else ""
            raise DivergedError(
                f"training has diverged: {error}, and no model is written: give a smaller learning rate{kept}"
            ) from None

    def _warn_of_schedule(self, before: int) -> None:
        """Warn if the learning rates so far were those of a run of another length."""
        if before != self._steps and self._trainer.settings.schedule != "constant":
            warnings.warn(
                f"this run had {before} steps and now has {self._steps}: the learning rates of the schedule "
                f"{self._trainer.settings.schedule} were those of the shorter run so far",
                MinseekWarning,
                stacklevel=4,
            )

    def _keep_state(self) -> None:
        """Keep the state of a finished run, so that it can be lengthened, if the disk takes it."""
        try:
            write_checkpoint(
                self._folder.checkpoint, self._model, self._trainer.optimizer, self._progress, weights=False
            )
        except OSError as error:
            shutil.rmtree(self._folder.checkpoint, ignore_errors=True)
            warnings.warn(
                f"the state of the optimizer could not be written to {self._folder.checkpoint} ({error.strerror}): the "
                "run is finished, and cannot be lengthened",
                MinseekWarning,
                stacklevel=3,
            )

    def _checkpoint(self) -> None:
        try:
            write_checkpoint(self._folder.checkpoint, self._model, self._trainer.optimizer, self._progress)
        except OSError as error:
            kept = "the one before is kept" if self._folder.checkpoint.exists() else "there is none before it"
            raise InputError(
                f"the checkpoint after step {self._progress['step']} could not be written to "
                f"{self._folder.checkpoint} ({error.strerror}): {kept}"
            ) from error

    def _try_checkpoint(self) -> None:
        """Write a checkpoint; a full disk is a warning, as it may have space for the next one."""
        try:
            self._checkpoint()
        except InputError as error:
            warnings.warn(f"{error}, and training continues", MinseekWarning, stacklevel=2)

    def _result(self, *, finished: bool) -> TuneResult:
        p = self._progress
        return TuneResult(
            finished=finished,
            steps=p["step"],
            tokens=p["tokens"],
            seconds=p["seconds"],
            loss=p.get("loss"),
            held_out_before=p.get("before"),
            held_out_after=p.get("after"),
            memory=self._meter.peak(),
        )
