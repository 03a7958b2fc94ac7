"""A run from start to end: preparation, memory plan, training or resuming, and the tuned model."""

from __future__ import annotations

import gc
import hashlib
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch

from minseek.errors import InputError, MinseekWarning
from minseek.models import check_token_ids
from minseek.models.device import resolve_device
from minseek.models.loading.find_files import find_files
from minseek.models.loading.weight_files import weight_files
from minseek.models.process_memory import resident_bytes, return_freed_memory, trim_heap
from minseek.tune.batches import BatchSampler
from minseek.tune.checkpoint import check_disk, write_model
from minseek.tune.examples import Example, Examples, read_examples
from minseek.tune.folder import RunFolder, check_folder
from minseek.tune.log import LogEntry, TuneResult
from minseek.tune.loop import TrainingLoop
from minseek.tune.memory import DeviceMeter, MemoryMeter, ProcessMeter
from minseek.tune.model import checkpoint_layers, load_model, read_config, read_tokenizer
from minseek.tune.plan import TunePlan, check_budget, plan_tuning
from minseek.tune.schedule import check_warmup
from minseek.tune.settings import Settings
from minseek.tune.trainable import select_layers
from minseek.tune.trainer import Trainer
from minseek.units import format_bytes, parse_bytes


class TuneRun:
    """A prepared run: the data is read and the memory planned; no weight is loaded.

    Parameters
    ----------
    name : str
        A model as `minseek.load` takes it.
    data : path
        A ``.txt`` or ``.jsonl`` file; see `minseek.tune.examples.read_examples`.
    settings : Settings
    eval_data : path or None
        File for the held-out loss, in place of a share of `data`.
    device : str
        Device as in `minseek.load`.

    Attributes
    ----------
    plan : TunePlan
        Memory plan of the run.
    steps : int
        Steps of the run.

    Raises
    ------
    InputError
        If the model or the data cannot be used, or the settings do not fit them.
    """

    def __init__(
        self,
        name: str,
        data: str | Path,
        settings: Settings | None = None,
        *,
        eval_data: str | Path | None = None,
        device: str = "auto",
    ) -> None:
        self.settings = settings = settings or Settings()
        self._device = resolve_device(device, "float32").device
        self._source = find_files(name)
        self.config = read_config(name, self._source)
        if settings.max_length > self.config.max_position_embeddings:
            raise InputError(
                f"a max_length of {settings.max_length} is longer than the model's context of "
                f"{self.config.max_position_embeddings} tokens: give a smaller one"
            )
        self._tokenizer = read_tokenizer(name, self._source)
        whole = read_examples(Path(data), self._tokenizer, settings.max_length)
        separate = None if eval_data is None else read_examples(Path(eval_data), self._tokenizer, settings.max_length)
        self.examples, self.held_out = _split(whole, separate, settings)
        self._left_over = whole.left_over
        self._check_tokens(name)
        self._sampler = BatchSampler(
            len(self.examples),
            settings.batch_size,
            settings.gradient_accumulation_steps,
            steps=settings.steps,
            epochs=settings.epochs,
            seed=settings.seed,
        )
        self.steps = self._sampler.steps
        check_warmup(settings.warmup, self.steps)
        self._record = {
            "model": name,
            "model_files": _fingerprint(self._source),
            "data": whole.sha256,
            "eval_data": separate and separate.sha256,
            **asdict(settings),
        }
        longest = max(len(example.ids) for example in (*self.examples, *self.held_out))
        batch_size = min(settings.batch_size, max(self._sampler.total, len(self.held_out)))
        planned = plan_tuning(self.config, settings, length=longest, batch_size=batch_size, device=self._device)
        self.plan: TunePlan = replace(planned, interpreter=_process_bytes(self._device))

    def describe_data(self) -> str:
        """Sizes of the training and held-out data, in a sentence."""
        counts = [
            f"{len(part):,} sequences of {sum(len(example.ids) for example in part):,} tokens {purpose}"
            for part, purpose in ((self.examples, "to learn"), (self.held_out, "held out"))
            if part
        ]
        rest = f"; {self._left_over} tokens at the end, no whole block, are left out" if self._left_over else ""
        return f"{', '.join(counts)}{rest}"

    def check_budget(self, memory_budget: int | str | None = None, *, memory: int | str | None = None) -> int | None:
        """Refuse budgets that the plan exceeds, and name settings that fit.

        Parameters
        ----------
        memory_budget : int, str or None
            Bytes that the run may add to the process.
        memory : int, str or None
            Bytes that the whole process may take.

        Returns
        -------
        int or None
            Bytes that the run may add under both.
        """
        budgets = []
        for given, whole in ((memory_budget, False), (memory, True)):
            if given is not None:
                budget = parse_bytes(given)
                check_budget(self.plan, budget, self.config, self.settings, self._device, whole=whole)
                budgets.append(budget - (self.plan.interpreter if whole else 0))
        return min(budgets, default=None)

    def check_folder(self, out: str | Path, *, overwrite: bool = False) -> None:
        """Refuse a folder in which this run can neither start nor resume."""
        check_folder(Path(out), self._record, steps=self.steps, overwrite=overwrite)

    def run(
        self,
        out: str | Path,
        *,
        memory_budget: int | str | None = None,
        memory: int | str | None = None,
        checkpoint_every: int | None = None,
        overwrite: bool = False,
        on_entry: Callable[[LogEntry], None] = lambda _: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> TuneResult:
        """Train from the beginning, or from where an earlier run has stopped or ended, and write the tuned model.

        Parameters
        ----------
        out : path
            Directory for the tuned model in the format of transformers, with ``tune.json`` and ``log.jsonl``.
        memory_budget : int, str or None
            Bytes the run may take: it is refused if the plan is larger, and stopped with a checkpoint if it takes more.
        memory : int, str or None
            Bytes the whole process may take, in the same way.
        checkpoint_every : int or None
            Steps between two checkpoints; None writes one every ten minutes. A stopped run always writes one.
        overwrite : bool
            Delete an earlier run in `out`.
        on_entry : callable
            Called with every entry of the log.
        stop : callable
            Called after every step; True writes a checkpoint and ends the run.

        Raises
        ------
        InputError
            If the budget is too small, is exceeded, or cannot be checked on this system, if `out` cannot be used, or
            if training diverges.
        """
        if checkpoint_every is not None and checkpoint_every < 1:
            raise InputError(f"checkpoint_every must be 1 or more, not {checkpoint_every}")
        self.check_folder(out, overwrite=overwrite)
        budget = self.check_budget(memory_budget, memory=memory)
        meter = _make_meter(self._device, budget)
        if budget is not None and meter.peak() is None:
            raise InputError(
                f"a memory budget of {format_bytes(budget)} cannot be kept here, as this system does not report the "
                "memory of a process: leave it out, or run on Linux or a CUDA device"
            )
        model = load_model(self._source, self.config, self.settings.dtype, self._device)
        check_disk(Path(out), model)
        folder = RunFolder(Path(out), self._record, steps=self.steps, overwrite=overwrite)
        try:
            trained = select_layers(model, self.settings.layers)
            if self.settings.gradient_checkpointing:
                checkpoint_layers(model)
            loop = TrainingLoop(
                model,
                Trainer(model, trained, self.examples, self.held_out, self._sampler, self.settings),
                folder,
                steps=self.steps,
                meter=meter,
                budget=budget,
                on_entry=on_entry,
                write_model=lambda path: write_model(path, model, self._tokenizer, self._source),
            )
            return loop.run(
                planned=self.plan.total,
                checkpoint_every=checkpoint_every,
                stop=stop,
            )
        except torch.OutOfMemoryError:
            raise InputError(
                f"the device does not have the {format_bytes(self.plan.total)} of the plan: give it more memory, and "
                f"the run resumes from the last checkpoint in {out}, or starts again"
            ) from None
        finally:
            folder.close()

    def _check_tokens(self, name: str) -> None:
        highest = [int(example.ids.max()) for example in (*self.examples, *self.held_out)]
        check_token_ids(highest, self.config.vocab_size, f" of {name!r}'s tokenizer")


def tune(
    name: str,
    data: str | Path,
    out: str | Path,
    settings: Settings | None = None,
    *,
    eval_data: str | Path | None = None,
    device: str = "auto",
    memory_budget: int | str | None = None,
    memory: int | str | None = None,
    checkpoint_every: int | None = None,
    overwrite: bool = False,
) -> TuneResult:
    """Tune a model on a file of text, inside a memory budget, and write it; a stopped run is resumed.

    Parameters
    ----------
    name : str
        A model as `minseek.load` takes it.
    data : path
        A ``.txt`` or ``.jsonl`` file; see `minseek.tune.examples.read_examples`.
    out : path
        Directory for the tuned model in the format of transformers, with ``tune.json`` and ``log.jsonl``. If it holds a
        stopped run of the same settings, model and data, that run is resumed; one of fewer steps is lengthened. The
        directory ``best`` in it has the weights with the lowest held-out loss, if these are not the last ones.
    settings : Settings, optional
        Everything that determines the weights.
    eval_data : path, optional
        File for the held-out loss, in place of a share of `data`.
    device : str
        Device as in `minseek.load`.
    memory_budget : int or str, optional
        Bytes the run may take, such as "900MB": it is refused if the plan is larger, and stopped with a checkpoint if
        it takes more.
    memory : int or str, optional
        Bytes the whole process may take, in the same way: interpreter and libraries, and the run.
    checkpoint_every : int, optional
        Steps between two checkpoints; without it, one is written every ten minutes.
    overwrite : bool
        Lose an earlier run in `out`.

    Returns
    -------
    TuneResult
        Steps, tokens, seconds, losses and the memory taken.

    Raises
    ------
    InputError
        If the model, the data, the settings or `out` cannot be used, if the budget is too small, is exceeded, or cannot
        be checked on this system, or if training diverges.
    """
    tuning = TuneRun(name, data, settings, eval_data=eval_data, device=device)
    return tuning.run(
        out, memory_budget=memory_budget, memory=memory, checkpoint_every=checkpoint_every, overwrite=overwrite
    )


def _process_bytes(device: torch.device) -> int:
    """Bytes of the process without the run; 0 on a GPU and where the system does not tell."""
    if device.type == "cuda":
        return 0
    gc.collect()
    trim_heap()
    return resident_bytes() or 0


def _split(whole: Examples, separate: Examples | None, settings: Settings) -> tuple[list[Example], list[Example]]:
    """Training and held-out examples."""
    if separate is not None:
        return whole.items, separate.items
    share, count = settings.eval_share or 0.0, len(whole.items)
    if share and count < 2:
        warnings.warn(
            "the data makes a single sequence, so nothing is held out: give more, or a file to evaluate on",
            MinseekWarning,
            stacklevel=4,
        )
    held = min(count - 1, max(1, round(share * count))) if share else 0
    return whole.items[: count - held], whole.items[count - held :]


def _make_meter(device: torch.device, budget: int | None) -> MemoryMeter:
    if device.type == "cuda":
        if budget is not None:
            whole = torch.cuda.get_device_properties(device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, budget / whole), device)
        return DeviceMeter(device)
    # Freed activations would stay in fragments: 6 % more memory at the peak of SmolLM2 with 256 tokens.
    # Requesting the pages again takes a third more time there, and less for wider models.
    return_freed_memory(2**17)
    return ProcessMeter()


def _fingerprint(source: Path) -> str:
    """Hash of a model's configuration and of the sizes of its weight files."""
    files, text = ([source], "") if source.is_file() else (weight_files(source), (source / "config.json").read_text())
    sizes = [(file.name, file.stat().st_size) for file in files]
    return hashlib.sha256(f"{text}{sizes}".encode()).hexdigest()[:16]
