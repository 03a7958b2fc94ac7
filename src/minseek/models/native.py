"""The decoding step in C: built once for this processor, kept in the user's cache folder, loaded through ctypes."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from minseek.cache import ThoughtCache
from minseek.models.hardware import cpu_flags
from minseek.models.parts import DecoderParts
from minseek.models.storage import cache_folder

_SOURCE = Path(__file__).with_name("step.c")
_FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fopenmp", "-shared", "-fPIC", "-std=gnu11")
_DTYPE_FLAGS = {torch.bfloat16: ("-DWEIGHT_BF16",), torch.float32: ()}
_LAYER_FIELDS = (
    *("norm1", "q", "k", "v", "o", "q_bias", "k_bias", "v_bias", "o_bias", "q_norm", "k_norm"),
    *("norm2", "gate", "up", "down", "gate_bias", "up_bias", "down_bias"),
)


class _Layer(Structure):
    _fields_ = [(name, c_void_p) for name in _LAYER_FIELDS] + [("window", c_int32), ("reserved", c_int32)]


class _Decoder(Structure):
    _fields_ = (
        [
            (name, c_int32)
            for name in ("layers", "hidden", "query_heads", "kv_heads", "head_dim", "inner", "vocab", "threads")
        ]
        + [("eps", c_float), ("scale", c_float)]
        + [(name, c_void_p) for name in ("embedding", "norm", "head", "head_bias")]
        + [("layer", POINTER(_Layer))]
    )


@dataclass(frozen=True)
class NativeStatus:
    """Whether the C step can be used for a dtype, and why not."""

    library: ctypes.CDLL | None
    reason: str


_building = threading.Lock()


def native_status(dtype: torch.dtype) -> NativeStatus:
    """Find or build the library for a dtype; without it, decoding takes the (slower) PyTorch path.

    ``MINSEEK_NATIVE=0`` in the environment turns it off.
    """
    if os.environ.get("MINSEEK_NATIVE") == "0":
        return NativeStatus(None, "turned off by MINSEEK_NATIVE=0")
    with _building:
        return _find_or_build(dtype)


@cache
def _find_or_build(dtype: torch.dtype) -> NativeStatus:
    if dtype not in _DTYPE_FLAGS:
        return NativeStatus(None, f"there is none for {str(dtype).removeprefix('torch.')}")
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)
    processor = " ".join((platform.machine(), *sorted(cpu_flags())))  # what -march=native depends on
    key = hashlib.sha256(
        "\0".join((_SOURCE.read_text(), *_FLAGS, *_DTYPE_FLAGS[dtype], processor, str(compiler))).encode()
    ).hexdigest()[:20]
    path = cache_folder() / "kernels" / f"step-{key}.so"
    if not path.exists():
        if compiler is None:
            return NativeStatus(None, "no C compiler (cc, gcc or clang) was found")
        failure = _build(compiler, _DTYPE_FLAGS[dtype], path)
        if failure:
            return NativeStatus(None, failure)
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        return NativeStatus(None, f"{path} could not be loaded: {error}")
    library.scratch_floats.restype = c_int64
    library.read_all.restype = c_float
    return NativeStatus(library, f"built by {compiler}")


def _build(compiler: str, flags: tuple[str, ...], path: Path) -> str:
    """Compile into a temporary file and put it in place whole; what went wrong, or nothing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            built = Path(folder) / path.name
            command = [compiler, *_FLAGS, *flags, str(_SOURCE), "-o", str(built), "-lm"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            if done.returncode:
                return f"{compiler} failed: {(done.stderr.strip() or 'no message').splitlines()[0]}"
            built.replace(path)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"it could not be built: {error}"
    return ""


class NativeStep:
    """Feeds one token at a time through a decoder whose weights lie in main memory."""

    def __init__(self, library: ctypes.CDLL, parts: DecoderParts, threads: int) -> None:
        self._library = library
        self._parts = parts  # keeps the weights alive
        layers = (_Layer * len(parts.layers))()
        for target, layer in zip(layers, parts.layers, strict=True):
            for name in _LAYER_FIELDS:
                weight: Tensor | None = getattr(layer, name)
                setattr(target, name, None if weight is None else weight.data_ptr())
            target.window = layer.window or 0
        sizes = parts.blueprint
        self._decoder = _Decoder(
            *(sizes.layers, parts.hidden, sizes.query_heads, sizes.heads, sizes.head_dim),
            *(parts.inner, parts.vocabulary, threads, sizes.eps, sizes.scale),
            *(parts.embedding.data_ptr(), parts.norm.data_ptr()),
            *(parts.head.data_ptr(), None if parts.head_bias is None else parts.head_bias.data_ptr(), layers),
        )
        self._scratch = _floats(library.scratch_floats(ctypes.byref(self._decoder)))
        self._lock = threading.Lock()  # sessions of a model share the scratch, and ctypes lets other threads run
        self._addresses: tuple[object, ...] = ()
        self._allocation = -1

    def feed(self, token: int, cache: ThoughtCache, *, logits: bool) -> Tensor | None:
        """Append one token to the cache; its logits [vocabulary], float32, if they are wanted."""
        with self._lock:
            return self._feed(token, cache, logits)

    def _feed(self, token: int, cache: ThoughtCache, logits: bool) -> Tensor | None:
        cache.reserve(1)  # the C code writes where it is told to
        if self._allocation != cache.allocation:
            self._addresses = tuple(map(_addresses, (cache.keys, cache.values, cache.raw_keys)))
            self._allocation = cache.allocation
        cos, sin = cache.rotary.at(cache.length, 1)
        out = _floats(self._parts.vocabulary) if logits else None
        self._library.step(
            *(ctypes.byref(self._decoder), c_int32(token), c_int32(cache.length), c_int32(cache.capacity)),
            *self._addresses,
            *(c_void_p(cos.data_ptr()), c_void_p(sin.data_ptr()), c_void_p(self._scratch.data_ptr())),
            c_void_p(None if out is None else out.data_ptr()),
        )
        cache.advance(1)
        return out


def _floats(count: int) -> Tensor:
    return torch.empty(count, dtype=torch.float32, device="cpu")


def _addresses(tensors: list[Tensor]) -> object:
    return (c_void_p * len(tensors))(*(t.data_ptr() for t in tensors)) if tensors else None
