"""Checkpoints of a run, written whole or not at all, and the tuned model at its end."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minseek.errors import InputError
from minseek.models.loading.transformers_quirks import quiet
from minseek.tune.weights import read_weights
from minseek.units import format_bytes

_WEIGHTS, _STATE = "model.safetensors", "state.pt"


def write_checkpoint(
    folder: Path, model: Any, optimizer: torch.optim.Optimizer, progress: Mapping[str, Any], *, weights: bool = True
) -> None:
    """Replace the previous checkpoint by a new one.

    Parameters
    ----------
    folder : Path
        Its directory; names with ``.new`` and ``.old`` appended are used meanwhile.
    model
        Its weights with ``requires_grad`` are written.
    progress : mapping
        Plain values that `read_checkpoint` returns.
    weights : bool
        False leaves out the weights, which are those of the tuned model in the parent directory.
    """
    new, old = folder.with_name(f"{folder.name}.new"), folder.with_name(f"{folder.name}.old")
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir()
        if weights:
            _save(_trained(model), new / _WEIGHTS)
            _fsync(new / _WEIGHTS)
        torch.save({"optimizer": optimizer.state_dict(), "progress": dict(progress)}, new / _STATE)
        _fsync(new / _STATE)
    except BaseException as error:
        shutil.rmtree(new, ignore_errors=True)
        raise _as_os_error(error) from error
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def read_checkpoint(folder: Path, model: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
    """Load a checkpoint and return its progress; None if there is none.

    Raises
    ------
    InputError
        If it is damaged.
    """
    old = folder.with_name(f"{folder.name}.old")
    if not folder.exists():
        if not old.exists():
            return None
        old.rename(folder)  # the run was killed between two renames
    try:
        state = torch.load(folder / _STATE, map_location="cpu", weights_only=True)
        if (folder / _WEIGHTS).exists():
            read_weights([folder / _WEIGHTS], _trained(model))
        else:
            read_weights([folder.parent / _WEIGHTS], {name: w.detach() for name, w in model.named_parameters()})
        optimizer.load_state_dict(state["optimizer" if "optimizer" in state else "optimiser"])  # 0.0 wrote the latter
        return dict(state["progress"])
    except InputError:
        raise
    except Exception as error:  # torch raises many kinds of errors for a damaged archive
        raise InputError(f"the checkpoint in {folder} is damaged: overwrite it to start again") from error


def write_model(folder: Path, model: Any, tokenizer: Any, source: Path) -> None:
    """Write a plain transformers directory; the weights come last, and whole."""
    folder.mkdir(exist_ok=True)
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    new = folder / f"{_WEIGHTS}.new"
    try:
        _save(weights, new)
        _fsync(new)
    except BaseException as error:
        new.unlink(missing_ok=True)
        raise _as_os_error(error) from error
    model.config.dtype = model.dtype
    if hasattr(model.config, "transformers_weights"):  # the name of the file in the source
        del model.config.transformers_weights
    with quiet():
        model.config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    if (source / "generation_config.json").is_file():
        shutil.copyfile(source / "generation_config.json", folder / "generation_config.json")
    else:
        model.generation_config.save_pretrained(folder)
    os.replace(new, folder / _WEIGHTS)


def check_disk(folder: Path, model: Any) -> None:
    """Refuse a run whose model does not fit on the disk.

    Raises
    ------
    InputError
        If it does not.
    """
    size = sum(weight.nbytes for weight in model.parameters())
    earlier = folder / _WEIGHTS
    free = shutil.disk_usage(folder if folder.is_dir() else folder.absolute().parent).free
    free += earlier.stat().st_size if earlier.is_file() else 0
    if free < size:
        raise InputError(
            f"the tuned model takes {format_bytes(size)} and the disk of {folder} has {format_bytes(free)} free: make "
            "more free, or give a directory on another disk"
        )


def _save(weights: dict[str, Tensor], file: Path) -> None:
    """Write a safetensors file with the permissions of a new file: the library gives them to the owner alone."""
    from safetensors.torch import save_file

    file.unlink(missing_ok=True)
    file.touch()
    mode = stat.S_IMODE(file.stat().st_mode)
    save_file(weights, file, metadata={"format": "pt"})
    file.chmod(mode)


def _as_os_error(error: BaseException) -> BaseException:
    """An `OSError` in place of the errors of PyTorch and safetensors about a file that cannot be written."""
    if isinstance(error, OSError) or not isinstance(error, Exception):
        return error
    return OSError(None, str(error).splitlines()[0] if str(error) else type(error).__name__)


def _trained(model: Any) -> dict[str, Tensor]:
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}


def _fsync(file: Path) -> None:
    """Wait until a file is on the disk: a rename may reach it before the contents."""
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())
