"""Where a run stands, written whole or not at all; and the tuned model at its end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minseek.errors import InputError
from minseek.models.loading.transformers_quirks import quiet
from minseek.tune.weights import read_weights

_WEIGHTS, _STATE = "model.safetensors", "state.pt"


def write_checkpoint(folder: Path, model: Any, optimiser: torch.optim.Optimizer, progress: Mapping[str, Any]) -> None:
    """Put a checkpoint in the place of the one before.

    Parameters
    ----------
    folder : Path
        Where it lies then; beside it, names with ``.new`` and ``.old`` behind are used on the way.
    model
        Its weights with ``requires_grad`` are kept.
    progress : mapping
        Plain values, to be given back by `read_checkpoint`.
    """
    from safetensors.torch import save_file

    made, old = folder.with_name(f"{folder.name}.new"), folder.with_name(f"{folder.name}.old")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    save_file(_trained(model), made / _WEIGHTS)
    torch.save({"optimiser": optimiser.state_dict(), "progress": dict(progress)}, made / _STATE)
    for name in (_WEIGHTS, _STATE):
        _settle(made / name)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    made.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def read_checkpoint(folder: Path, model: Any, optimiser: torch.optim.Optimizer) -> dict[str, Any] | None:
    """Take up a checkpoint: its progress; None if there is none.

    Raises
    ------
    InputError
        If it is damaged.
    """
    old = folder.with_name(f"{folder.name}.old")
    if not folder.exists():
        if not old.exists():
            return None
        old.rename(folder)  # the run was ended between two renames
    try:
        state = torch.load(folder / _STATE, map_location="cpu", weights_only=True)
        read_weights([folder / _WEIGHTS], _trained(model))
        optimiser.load_state_dict(state["optimiser"])
        return dict(state["progress"])
    except InputError:
        raise
    except Exception as error:  # of a damaged archive: torch has one kind of error for each way
        raise InputError(f"the checkpoint in {folder} is damaged: overwrite to begin anew") from error


def write_model(folder: Path, model: Any, tokenizer: Any, source: Path) -> None:
    """A plain transformers directory; the weights come last, and whole."""
    from safetensors.torch import save_file

    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    made = folder / f"{_WEIGHTS}.new"
    save_file(weights, made, metadata={"format": "pt"})
    _settle(made)
    model.config.dtype = model.dtype
    with quiet():
        model.config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    if (source / "generation_config.json").is_file():
        shutil.copyfile(source / "generation_config.json", folder / "generation_config.json")
    else:
        model.generation_config.save_pretrained(folder)
    os.replace(made, folder / _WEIGHTS)


def _trained(model: Any) -> dict[str, Tensor]:
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}


def _settle(file: Path) -> None:
    """Wait until a file is on the disk: a rename may get there before its contents."""
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())
