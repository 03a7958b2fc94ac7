"""The kernels in C for one kind of data: which sources and flags they are built from."""

from __future__ import annotations

import ctypes
import threading
from ctypes import c_double, c_int64
from functools import cache
from pathlib import Path

from minseek.native import Kernels, loaded

_FOLDER = Path(__file__).with_name("kernels")
# As fast as -O3 here, and built in two thirds of the time. Results stay what IEEE says, but for contraction.
_FLAGS = (
    *("-O2", "-ftree-vectorize", "-fvect-cost-model=dynamic"),
    *("-fno-math-errno", "-fno-trapping-math", "-mprefer-vector-width=512"),
)


def library_for(*, sparse: bool, double: bool) -> ctypes.CDLL | None:
    """The library for CSR or dense data of float64 or float32; None where there is no compiler or MINSEEK_NATIVE=0."""
    kind = (*(("-DSPARSE",) if sparse else ()), *(("-DDATA_DOUBLE",) if double else ()))
    library = loaded(Kernels("cluster", _FOLDER, ("cluster.c",), (*_FLAGS, *kind))).library
    if library is None:
        return None
    library.spread.restype = c_double
    for name in ("assign", "sweep", "distinct", "work_bytes", "calc_bytes", *(() if sparse else ("survey",))):
        getattr(library, name).restype = c_int64
    return library


@cache
def build_ahead() -> None:
    """Begin to build what most data need, where it was never built: beside the imports of a first use."""
    threading.Thread(target=library_for, kwargs={"sparse": False, "double": True}, daemon=True).start()
