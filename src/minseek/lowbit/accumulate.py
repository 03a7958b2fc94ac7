"""Matrix products that accumulate in a narrow format."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from minseek.errors import InputError
from minseek.lowbit.grid import check_fits
from minseek.lowbit.rounding import RoundingSpec, round_to

_aten = torch.ops.aten
_PRODUCTS = {_aten.mm.default, _aten.bmm.default, _aten.mv.default, _aten.dot.default, _aten.vdot.default}
_PRODUCTS_AND_SUM = {_aten.addmm.default, _aten.baddbmm.default, _aten.addmv.default}
# Other operations that sum products internally; also those that write into a given tensor, such as mm.out.
_HIDDEN_SUMS = re.compile(
    r"mm(?![a-z])|^v?dot$|mv_?$|_matmul|conv(?!ert)|attention|rnn(?!_flatten)|lstm_mps|encoder_layer|trilinear$"
    r"|(mkldnn|fbgemm|dtypes|structured)_linear|linear_backward"
)
_MAX_STEPS = 2.0**51  # steps from zero to a format's largest value; float64 holds two bits more


def accumulate(
    a: Tensor, b: Tensor, rounded: RoundingSpec, *, every: int = 1, generator: torch.Generator | None = None
) -> Tensor:
    """Matrix product whose running sums are values of a format.

    From left to right along the summed dimension, `every` products are added to the running sum, and that is rounded.

    Parameters
    ----------
    a, b : Tensor
        [..., N, K] and [..., K, M], floating point.
    rounded : RoundingSpec
        Format and rounding of the running sums.
    every : int
        Products between two roundings.
    generator : torch.Generator, optional
        Source of stochastic rounding.

    Returns
    -------
    Tensor
        [..., N, M], float64.

    Notes
    -----
    Products of float32, bfloat16 or float16 numbers are exact in float64, and a sum of two float64 numbers is rounded
    to the format as if it were exact. So with ``every=1`` each step is exact but for its one rounding. The
    products of a longer chunk are summed in float64 first, in no particular order. Products of float64 numbers are
    rounded to float64.
    """
    a, b = a.double(), b.double()
    total = a.new_zeros(*a.shape[:-1], b.shape[-1])
    for chunk, other in zip(torch.split(a, every, dim=-1), torch.split(b, every, dim=-2), strict=True):
        total = add_rounded(total, chunk @ other, rounded, generator)
    return total


def add_rounded(a: Tensor, b: Tensor, rounded: RoundingSpec, generator: torch.Generator | None) -> Tensor:
    """Sum of two float64 tensors, rounded once.

    A sum that float64 cannot hold is first rounded to odd: of the two float64 numbers around it, to the one whose last
    bit is 1. That is neither a value of the format nor halfway between two, so that the second rounding gives the
    result of rounding the exact sum (Boldo & Melquiond, "Emulation of FMA and Correctly Rounded Sums: Proved
    Algorithms Using Rounding to Odd", IEEE Transactions on Computers, 2008).
    """
    total = a + b
    from_b = total - a
    error = (a - (total - from_b)) + (b - from_b)  # exact (Knuth's TwoSum); NaN where something is infinite
    even = total.view(torch.int64) & 1 == 0
    odd = torch.where((error.abs() > 0) & even, torch.nextafter(total, error * torch.inf), total)
    return apply(rounded, odd, generator, out=odd)


def apply(rounded: RoundingSpec, x: Tensor, generator: torch.Generator | None, out: Tensor | None = None) -> Tensor:
    """Round `x`; the generator is used by stochastic rounding only."""
    generator = generator if rounded.rounding == "stochastic" else None
    return round_to(x, rounded.fmt, rounded.rounding, generator=generator, random_bits=rounded.random_bits, out=out)


@contextmanager
def accumulating(rounded: RoundingSpec, *, every: int = 1, generator: torch.Generator | None = None) -> Iterator[None]:
    """Accumulate all matrix products of PyTorch in this block in a format, those of backward passes too.

    These are mm, bmm, mv, dot, addmm, baddbmm, addmv, and functions made of them: matmul, linear, einsum, attention.
    A bias is added to the product last, and the sum is rounded once more. Other sums, such as sum,
    mean and softmax, and products of integers or complex numbers stay as they are.

    Parameters
    ----------
    rounded, every, generator
        Parameters of `accumulate`.

    Raises
    ------
    InputError
        If `every` is not positive or the format is nearly as fine as float64; in the block, if a tensor's dtype lacks
        values of the format, or an operation sums products internally: convolutions, fused recurrent
        layers, sparse products, results written into a given tensor.
    """
    if every < 1:
        raise InputError(f"accumulate_every must be 1 or more, not {every}")
    largest = torch.tensor(rounded.fmt.largest, dtype=torch.float64)
    if float(largest / rounded.fmt.ulp(largest)) >= _MAX_STEPS:
        raise InputError(f"{rounded.fmt.name} is too fine to accumulate in: take one of 51 significant bits or fewer")
    # Attention as products and a softmax, not as one fused operation.
    with sdpa_kernel(SDPBackend.MATH), _BiasLast(), _Accumulating(rounded, every, generator):
        yield


class _BiasLast(TorchFunctionMode):
    """Linear layers as addmm: PyTorch adds the bias in a separate, unrounded sum for some shapes and strides."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not linear:
            return func(*args, **(kwargs or {}))
        return _linear(*args, **(kwargs or {}))


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if bias is None or input.dim() in (0, 2):
        return linear(input, weight, bias)
    flat = linear(input.flatten(0, -2) if input.dim() > 1 else input[None], weight, bias)
    return flat.reshape(input.shape[:-1] + flat.shape[-1:])


class _Accumulating(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Computes all products that reach PyTorch's kernels."""

    def __init__(self, rounded: RoundingSpec, every: int, generator: torch.Generator | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rounded, self._every, self._generator = rounded, every, generator

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        if func in _PRODUCTS | _PRODUCTS_AND_SUM and all(tensor.layout == torch.strided for tensor in tensors):
            if not _same_kind(tensors):
                return func(*args, **kwargs)  # integers, or PyTorch's own refusal
            return (self._product if func in _PRODUCTS else self._product_and_sum)(func, *args, **kwargs)
        if torch.is_inference_mode_enabled() and func.has_kernel_for_dispatch_key(
            torch._C.DispatchKey.CompositeImplicitAutograd
        ):
            with self:  # outside inference mode autograd has decomposed it already
                return func.decompose(*args, **kwargs)
        name = func.overloadpacket.__name__
        if _HIDDEN_SUMS.search(name) and (not tensors or tensors[0].is_floating_point()):
            raise InputError(
                f"{name} sums products where accumulations cannot be rounded: leave accumulations out, "
                "or compute it from plain matrix products"
            )
        return func(*args, **kwargs)

    def _product(self, func: Callable[..., Tensor], a: Tensor, b: Tensor) -> Tensor:
        like = _on_meta(func, a, b)
        return self._sum(a, b).reshape(like.shape).to(like.dtype)

    def _product_and_sum(
        self, func: Callable[..., Tensor], addend: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1
    ) -> Tensor:
        like = _on_meta(func, addend, a, b)
        total = self._sum(a, b).reshape(like.shape) * alpha
        last = torch.zeros_like(total) if beta == 0 else addend.double() * beta
        if beta != 0 or alpha != 1:
            total = add_rounded(total, last.expand(like.shape), self._rounded, self._generator)
        return total.to(like.dtype)

    def _sum(self, a: Tensor, b: Tensor) -> Tensor:
        check_fits(self._rounded.fmt, a.dtype)  # the sums are float64, which fits
        a = a if a.dim() > 1 else a[None]
        b = b if b.dim() > 1 else b[:, None]
        return accumulate(a, b, self._rounded, every=self._every, generator=self._generator)


def _same_kind(tensors: list[Tensor]) -> bool:
    """True for floating-point tensors of one dtype on one device."""
    return len({(x.dtype, x.device) for x in tensors}) == 1 and tensors[0].is_floating_point()


def _on_meta(func: Callable[..., Tensor], *args: Tensor) -> Tensor:
    """Shape and dtype of the result; raises PyTorch's own error if the shapes do not match."""
    return func(*(arg.to("meta") for arg in args))
