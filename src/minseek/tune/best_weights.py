"""The weights with the lowest held-out loss of a run, where these are not the last ones."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

from minseek.errors import MinseekWarning


class BestWeights:
    """Keeps the model of the lowest held-out loss between the first and the last step in a directory.

    Parameters
    ----------
    folder : Path
        The directory; it can be loaded as any other model.
    write_model : callable
        Writes the current model to a directory.
    progress : mutable mapping
        Progress of the run; ``best``, the step and its loss, is kept in it. Step 0 is the model before training.
    """

    def __init__(self, folder: Path, write_model: Callable[[Path], None], progress: MutableMapping[str, Any]) -> None:
        self.folder, self._write_model, self._progress = folder, write_model, progress

    def resume(self) -> None:
        """Keep the last weights of a run that is lengthened, if they are the best so far."""
        p = self._progress
        if 0 < p["step"] == p.get("best", {}).get("step") and not self.folder.exists():
            self._write()

    def add(self, loss: float, *, is_last: bool) -> None:
        """Compare the held-out loss of the current step; the last weights are kept anyway."""
        p = self._progress
        if "best" not in p or loss < p["best"]["loss"]:
            p["best"] = {"step": p["step"], "loss": loss}
            if p["step"] > 0 and not is_last:
                self._write()

    def at_end(self) -> None:
        """Warn if the last weights are not the best ones, and delete the directory otherwise."""
        best, last = self._progress.get("best"), self._progress.get("after")
        if best is None or best["step"] == self._progress["step"] or last == best["loss"]:
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        text = (
            f"the held-out loss was lowest after step {best['step']}, {best['loss']:.4f}, and is {last:.4f} at the end"
            if best["step"]
            else f"the held-out loss has risen from {best['loss']:.4f} before training to {last:.4f}"
        )
        where = self.where() or "train less, or with a smaller learning rate"
        warnings.warn(f"{text}: {where}", MinseekWarning, stacklevel=4)

    def where(self) -> str:
        """Place of the best weights; empty if there are none but those before training."""
        best = self._progress.get("best")
        if best is None or not best["step"] or not self.folder.exists():
            return ""
        return f"the weights after step {best['step']} are in {self.folder}"

    def _write(self) -> None:
        """Write the current model; a full disk is a warning."""
        try:
            self._write_model(self.folder)
        except OSError as error:
            shutil.rmtree(self.folder, ignore_errors=True)
            warnings.warn(
                f"the weights after step {self._progress['step']}, the best so far, could not be written to "
                f"{self.folder} ({error.strerror}), and training continues",
                MinseekWarning,
                stacklevel=5,
            )
