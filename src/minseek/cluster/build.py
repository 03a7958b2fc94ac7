"""Compilation of the C kernels for one kind of data."""

from __future__ import annotations

import ctypes
import threading
from contextlib import suppress
from ctypes import c_double, c_int64
from functools import cache
from pathlib import Path

from minseek.errors import InputError
from minseek.native import Kernels, loaded

_FOLDER = Path(__file__).with_name("kernels")
# These flags give the speed of -O3 here, compiled in two thirds of the time. Results stay IEEE, except for contraction.
_FLAGS = ("-O2", "-ftree-vectorize", "-fvect-cost-model=dynamic", "-fno-math-errno", "-fno-trapping-math")
KERNELS = {
    (sparse, double): Kernels(
        "cluster",
        _FOLDER,
        ("cluster.c",),
        (*_FLAGS, *(("-DSPARSE",) if sparse else ()), *(("-DDATA_DOUBLE",) if double else ())),
    )
    for sparse in (False, True)
    for double in (False, True)
}
_RETURN_INT64 = ("assign", "nearest", "sweep", "unique_rows", "real_bytes", "thread_scratch_bytes")


def kernel_library(*, sparse: bool, double: bool) -> ctypes.CDLL | None:
    """Load the library for CSR or dense data of float64 or float32; None if there is none or MINSEEK_NATIVE=0."""
    library = loaded(KERNELS[sparse, double]).library
    if library is None:
        return None
    library.inertia.restype = c_double
    for name in (*_RETURN_INT64, *(() if sparse else ("column_stats",))):
        getattr(library, name).restype = c_int64
    return library


@cache
def compile_in_background() -> None:
    """Start compiling the kernels for dense float64, unless compiled before, while other modules are imported."""

    def compile_quietly() -> None:
        with suppress(InputError):  # the fit says so
            kernel_library(sparse=False, double=True)

    threading.Thread(target=compile_quietly, daemon=True).start()
