"""Packing of a model into a GGUF file that minseek and llama.cpp read."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minseek.errors import InputError, MinseekWarning, check_type
from minseek.files import check_output_file
from minseek.models.export.source import Source, open_source
from minseek.models.loading.find_files import find_files
from minseek.quant import BLOCK_FORMATS, BlockFormat, block_format, pack
from minseek.quant.gguf_writer import TensorPlan, encode_entry, write_gguf
from minseek.quant.pack import format_of_matrix
from minseek.units import format_bytes, format_count

_FILE_TYPES = {  # llama.cpp's numbers of the mixtures that a format makes; they are shown, and change nothing
    **{"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q2_k": 21, "q3_k": 11, "q4_k": 14},
    **{"q5_k": 16, "q6_k": 18, "iq4_nl": 25, "iq4_xs": 30, "bf16": 32, "mxfp4": 38},
}
_OUTER = ("token_embd.weight", "output.weight")
_WEIGHTS_AT_ONCE = 2**20


@dataclass(frozen=True)
class PackingPlan:
    """The format of every tensor of a model.

    Attributes
    ----------
    source : Source
        The model.
    format : BlockFormat
        The format that was asked for.
    tensors : list of TensorPlan
        In the order of the file.
    """

    source: Source
    format: BlockFormat
    tensors: list[TensorPlan]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def describe(self) -> str:
        """Formats, with the reason for each that was not asked for, and the size."""
        matrices = [tensor for tensor in self.tensors if len(tensor.shape) > 1]
        counts = Counter(tensor.format.name for tensor in matrices if tensor.name not in _OUTER)
        parts = [
            f"{format_count(count, 'matrix').replace('matrixs', 'matrices')} in {name}"
            for name, count in counts.items()
        ]
        outer = {tensor.format.name for tensor in matrices if tensor.name in _OUTER}
        parts.append(f"the embedding in {' and '.join(sorted(outer))}")
        odd = sorted({t.shape[-1] for t in matrices if t.shape[-1] % self.format.block_size})
        widths = " and ".join(map(str, odd))
        reason = f"; rows of {widths} are no whole blocks of {self.format.block_size}" if odd else ""
        weights = sum(int(np.prod(tensor.shape)) for tensor in self.tensors)
        return f"{', '.join(parts)}{reason}: {format_bytes(self.nbytes)}, {8 * self.nbytes / weights:.2f} bits a weight"


def plan_packing(model: str | Path, weights: str) -> PackingPlan:
    """Choose the format of every tensor: as asked for, or as llama.cpp does where that does not go.

    Vectors stay in float32. Rows that are no whole number of blocks take q5_0, q5_1, q8_0 or iq4_nl, and those that are
    no multiple of 32 take f16. The embedding and the output layer, whose errors reach every token, take q6_k at least.

    Raises
    ------
    InputError
        If there is no such model or format.
    """
    check_type("model must be a name or a path", model, (str, Path))
    form = block_format(weights)
    source = open_source(find_files(str(model)), str(model))
    tensors = [TensorPlan(name, shape, _format_of(name, shape, form)) for name, shape in source.shapes.items()]
    return PackingPlan(source, form, tensors)


def quantize(
    model: str | Path,
    out: str | Path,
    *,
    weights: str,
    overwrite: bool = False,
    on_tensor: Callable[[str, int, int], Any] = lambda name, done, total: None,
) -> Path:
    """Pack a model into a GGUF file that minseek and llama.cpp read.

    Parameters
    ----------
    model : str or Path
        A name as for `minseek.load`.
    out : str or Path
        The file, which ends in ``.gguf``; it appears when it is whole.
    weights : str
        A format, such as "q4_k" or "q8_0"; see `minseek.quant.BLOCK_FORMATS` and `plan_packing`.
    overwrite : bool
        Replace a file that is there.
    on_tensor : callable
        Called with the name of each tensor before it is packed, its number, and the number of all.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        If the model cannot be read or packed, or the file cannot be written; the disk's room is checked first.
    """
    check_type("out must be a path", out, (str, Path))
    path = Path(out).expanduser()
    check_target(path, overwrite=overwrite)
    return write_packed(plan_packing(model, weights), path, on_tensor)


def check_target(path: Path, *, overwrite: bool) -> None:
    """Refuse a path that is none of a GGUF file, is taken, or cannot be written.

    Raises
    ------
    InputError
        With the reason.
    """
    if path.suffix != ".gguf":
        raise InputError(f"packed models are written as GGUF files: give {path.name!r} the ending .gguf")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists: give another name, or overwrite it")
    check_output_file(path)


def write_packed(
    plan: PackingPlan, path: Path, on_tensor: Callable[[str, int, int], Any] = lambda name, done, total: None
) -> Path:
    """Write what was planned; see `quantize`."""
    if packed := Counter(plan.source.formats.values()):
        (form, count), *_ = packed.most_common(1)
        warnings.warn(
            f"{format_count(count, 'tensor')} of the model {'is' if count == 1 else 'are'} packed in {form} already: "
            "packing again adds errors to those that it has",
            MinseekWarning,
            stacklevel=2,
        )
    entries = [
        *plan.source.entries(),
        encode_entry("general.file_type", "uint32", _FILE_TYPES[plan.format.name]),
        encode_entry("general.quantization_version", "uint32", 2),
    ]
    numbers = {tensor.name: number for number, tensor in enumerate(plan.tensors)}

    def rows_of(tensor: TensorPlan) -> Iterator[NDArray[np.uint8]]:
        on_tensor(tensor.name, numbers[tensor.name], len(plan.tensors))
        count = int(np.prod(tensor.shape[:-1], dtype=np.int64))
        at_once = max(1, _WEIGHTS_AT_ONCE // tensor.shape[-1])
        for first in range(0, count, at_once):
            values = plan.source.rows(tensor.name, first, min(first + at_once, count))
            try:
                yield pack(values, tensor.format).data
            except InputError as error:
                raise InputError(f"the tensor {tensor.name!r} cannot be packed: {error}") from None

    write_gguf(path, entries, plan.tensors, rows_of)
    return path


def _format_of(name: str, shape: tuple[int, ...], form: BlockFormat) -> BlockFormat:
    if len(shape) == 1:
        return BLOCK_FORMATS["f32"]
    return format_of_matrix(shape[-1], form, is_outer=name in _OUTER)
