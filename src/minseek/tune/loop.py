"""The course of a run: steps, measurements and checkpoints, from the beginning or from where it was stopped."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from minseek.errors import InputError, MinseekWarning
from minseek.tune.checkpoint import read_checkpoint, write_checkpoint, write_model
from minseek.tune.folder import RunFolder
from minseek.tune.log import LogEntry, Outcome
from minseek.tune.memory import Gauge
from minseek.tune.trainer import Trainer
from minseek.units import format_bytes


class TrainingLoop:
    """Carries a run out.

    Parameters
    ----------
    model
        With its weights.
    trainer : Trainer
        Of that model.
    folder : RunFolder
        Its checkpoint is taken up, if there is one, and what was logged after it is forgotten.
    steps : int
        Of the run.
    eval_every : int or None
        Steps between measurements of the held-out loss, besides the first and the last.
    gauge : Gauge
    budget : int or None
        Bytes, by that gauge.
    on_entry : callable
        Called with every entry of the log.
    """

    def __init__(
        self,
        model: Any,
        trainer: Trainer,
        folder: RunFolder,
        *,
        steps: int,
        eval_every: int | None,
        gauge: Gauge,
        budget: int | None,
        on_entry: Callable[[LogEntry], None],
    ) -> None:
        self._model, self._trainer, self._folder = model, trainer, folder
        self._steps, self._eval_every, self._gauge, self._budget = steps, eval_every, gauge, budget
        self._on_entry = on_entry
        self._over = False
        trainer.after_pass = self._watch
        machine = f"torch {torch.__version__}, {torch.get_num_threads()} threads, {model.device.type}"
        self._progress: dict[str, Any] = {"step": 0, "tokens": 0, "seconds": 0.0, "log": 0, "machine": machine}
        self._progress |= read_checkpoint(folder.checkpoint, model, trainer.optimiser) or {}
        if self._progress["machine"] != machine:
            warnings.warn(
                f"this run was begun with {self._progress['machine']} and goes on with {machine}: its last digits will "
                "not be those of an uninterrupted one",
                MinseekWarning,
                stacklevel=3,
            )
        folder.cut_log(self._progress["log"])
        self._began = time.perf_counter() - self._progress["seconds"]

    def run(
        self, *, tokenizer: Any, source: Path, planned: int, checkpoint_every: int | None, stop: Callable[[], bool]
    ) -> Outcome:
        """Train to the end, or until `stop` says so, and write the model.

        Parameters
        ----------
        tokenizer, source : object, path
            For the tuned model's directory; see `write_model`.
        planned : int
            Bytes of the plan, for the log.
        checkpoint_every : int or None
            Steps between checkpoints.
        stop : callable
            Asked after every step.

        Raises
        ------
        InputError
            If the memory budget was passed; the step is finished, and a checkpoint written.
        """
        progress = self._progress
        if progress["step"] == 0:
            self._measure()
        while progress["step"] < self._steps:
            self._step()
            if self._over:
                self._keep()
                assert self._budget is not None
                raise InputError(
                    f"the run has taken {format_bytes(self._gauge.peak() or 0)} and its memory budget is "
                    f"{format_bytes(self._budget)}: it was stopped after step {progress['step']}, which "
                    f"{self._folder.path} keeps, and goes on from there with a larger budget"
                )
            if progress["step"] == self._steps:
                break
            if stop():
                self._keep()
                return self._outcome(finished=False)
            if checkpoint_every is not None and progress["step"] % checkpoint_every == 0:
                self._keep()
        self._measure()
        write_model(self._folder.path, self._model, tokenizer, source)
        self._enter("end", planned=planned)
        self._folder.finish()
        return self._outcome(finished=True)

    def _step(self) -> None:
        progress, every = self._progress, self._eval_every
        rate = self._trainer.rate(progress["step"])
        progress["loss"], tokens = self._trainer.step(progress["step"])
        progress["step"] += 1
        progress["tokens"] += tokens
        self._enter("step", learning_rate=rate, loss=progress["loss"])
        if every is not None and progress["step"] % every == 0 and progress["step"] < self._steps:
            self._measure()

    def _measure(self) -> None:
        loss = self._trainer.held_out_loss()
        if loss is not None:
            self._progress.setdefault("before", loss)
            self._progress["after"] = loss
            self._enter("held-out", held_out_loss=loss)

    def _enter(self, event: str, **values: Any) -> None:
        p = self._progress
        p["seconds"] = time.perf_counter() - self._began
        entry = LogEntry(
            event, p["step"], self._steps, p["tokens"], round(p["seconds"], 3), self._gauge.peak(), **values
        )
        p["log"] = self._folder.log(entry.as_dict())
        self._on_entry(entry)

    def _watch(self) -> None:
        if self._budget is not None and (self._gauge.peak() or 0) > self._budget:
            self._over = True

    def _keep(self) -> None:
        write_checkpoint(self._folder.checkpoint, self._model, self._trainer.optimiser, self._progress)

    def _outcome(self, *, finished: bool) -> Outcome:
        p = self._progress
        return Outcome(
            finished=finished,
            steps=p["step"],
            tokens=p["tokens"],
            seconds=p["seconds"],
            loss=p.get("loss"),
            held_out_before=p.get("before"),
            held_out_after=p.get("after"),
            memory=self._gauge.peak(),
        )
