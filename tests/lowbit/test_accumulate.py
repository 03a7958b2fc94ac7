"""Matrix products that accumulate in a narrow format, against exact sums of fractions."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from minseek.errors import InputError
from minseek.lowbit import Fixed, Float, Format, RoundingSpec, bf16, e4m3fn, e5m2, fp32, round_to
from minseek.lowbit.accumulate import accumulate, accumulating
from minseek.lowbit.simulate import simulate
from tests.helpers.random_tensors import normal, seeded

NEAREST = "nearest-even"
EXACT_MODES = (NEAREST, "nearest-away", "toward-zero", "up", "down")


@pytest.fixture(autouse=True)
def with_gradients() -> Iterator[None]:
    with torch.enable_grad():
        yield


@cache
def grid_of(fmt: Format) -> tuple[list[Fraction], int]:
    """Its values, and which of them is zero."""
    values = [Fraction(value) for value in fmt.grid().tolist()]
    return values, values.index(0)


def rounded_fraction(x: Fraction, fmt: Format, mode: str) -> Fraction:
    """A number within the format's range, rounded exactly."""
    values, zero = grid_of(fmt)
    at = bisect_right(values, x) - 1
    below = values[at]
    if below == x:
        return x
    above = values[at + 1]
    if mode in ("up", "down"):
        return above if mode == "up" else below
    inner, outer = (below, above) if x > 0 else (above, below)
    if mode == "toward-zero" or abs(x - inner) < abs(outer - x):
        return inner
    if mode == "nearest-away" or abs(x - inner) > abs(outer - x):
        return outer
    return below if (at - zero) % 2 == 0 else above  # codes count up from zero


def exact_product(a: Tensor, b: Tensor, fmt: Format, mode: str, every: int) -> Tensor:
    """[N, K] x [K, M] by scalars."""
    out = torch.zeros(a.shape[0], b.shape[1], dtype=torch.float64)
    for i in range(a.shape[0]):
        for j in range(b.shape[1]):
            terms = [Fraction(p) * Fraction(q) for p, q in zip(a[i].tolist(), b[:, j].tolist(), strict=True)]
            total = Fraction(0)
            for at in range(0, len(terms), every):
                total = rounded_fraction(total + sum(terms[at : at + every]), fmt, mode)
            out[i, j] = float(total)
    return out


def rounded_product(a: Tensor, b: Tensor, fmt: Format, addend: Tensor | None = None) -> Tensor:
    """A float32 product by scalars, nearest even, with `round_to` of float64 sums."""
    out = torch.zeros(a.shape[0], b.shape[1])
    for i in range(a.shape[0]):
        for j in range(b.shape[1]):
            total = torch.zeros((), dtype=torch.float64)
            for p, q in zip(a[i].double(), b[:, j].double(), strict=True):
                total = round_to(total + p * q, fmt)
            out[i, j] = total if addend is None else round_to(total + addend[j].double(), fmt)
    return out


# --- products ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(1, 5)] * 3),
    seed=st.integers(0, 10**6),
    mode=st.sampled_from(EXACT_MODES),
    fmt=st.sampled_from([bf16, Float(8, 4), Float(8, 10)]),
)
def test_running_sums_are_rounded_once_and_exactly(
    sizes: tuple[int, int, int], seed: int, mode: Any, fmt: Format
) -> None:
    rows, summed, columns = sizes
    spread = torch.randint(-40, 20, (2, 25), generator=seeded(seed)).double().exp2()  # sums that float64 cannot hold
    a = (normal(rows, summed, seed=seed) * spread[0][:summed]).float()
    b = (normal(summed, columns, seed=seed + 1) * spread[1][:columns]).float()
    got = accumulate(a, b, RoundingSpec(fmt, mode))
    assert torch.equal(got, exact_product(a, b, fmt, mode, 1))


@pytest.mark.parametrize("mode", EXACT_MODES)
@pytest.mark.parametrize("sign", [1, -1])
def test_what_float64_cannot_hold_decides(mode: Any, sign: int) -> None:
    # Each pair of products is added up to next to a value of bfloat16, or to next to halfway between two.
    cases = {
        "below a tie": (1 + 2.0**-7, 2.0**-4 + 2.0**-27, 2.0**-4 - 2.0**-27),
        "above a value": (1.0, 2.0**-60, 2.0**-60),
        "below a value": (1.0, 2.0**-60, -(2.0**-60)),
    }
    naive_is_wrong = False
    for first, p, q in cases.values():
        a, b = torch.tensor([[sign * first, p]]), torch.tensor([[1.0], [sign * q]])
        exact = exact_product(a, b, bf16, mode, 1)
        assert torch.equal(accumulate(a, b, RoundingSpec(bf16, mode)), exact)
        naive_is_wrong |= not torch.equal(round_to(a.double() @ b.double(), bf16, mode), exact)
    assert naive_is_wrong


@settings(max_examples=25, deadline=None)
@given(
    summed=st.integers(0, 9), every=st.integers(1, 10), seed=st.integers(0, 10**6), mode=st.sampled_from(EXACT_MODES)
)
def test_a_chunk_is_added_before_it_is_rounded(summed: int, every: int, seed: int, mode: Any) -> None:
    fmt = Fixed(12, 2)
    a = torch.randint(-15, 16, (3, summed), generator=seeded(seed)) / 8
    b = torch.randint(-15, 16, (summed, 2), generator=seeded(seed + 1)) / 8
    got = accumulate(a, b, RoundingSpec(fmt, mode), every=every)
    assert torch.equal(got, exact_product(a, b, fmt, mode, every))


@pytest.mark.slow
def test_small_terms_are_swamped_by_nearest_and_kept_in_the_mean_by_stochastic() -> None:
    ones = torch.ones(1, 4096)
    with accumulating(RoundingSpec(bf16, NEAREST)):
        assert float(ones @ ones.T) == 256
    with accumulating(RoundingSpec(bf16, "stochastic"), generator=seeded()):
        sums = torch.ones(256, 4096) @ ones.T
    assert torch.equal(round_to(sums, bf16), sums)
    error = (float(sums.mean()) - 4096) / (float(sums.std()) / 16)
    assert abs(error) < 4
    assert float(sums.std()) > 0


@pytest.mark.parametrize(
    "call",
    [
        lambda a, b: a @ b,
        lambda a, b: torch.mm(a, b),
        lambda a, b: torch.bmm(a[None], b[None])[0],
        lambda a, b: torch.einsum("ik,kj->ij", a, b),
        lambda a, b: torch.tensordot(a, b, 1),
        lambda a, b: torch.stack([a @ column for column in b.T], 1),
        lambda a, b: torch.stack([torch.stack([row @ column for column in b.T]) for row in a]),
        lambda a, b: F.linear(a, b.T),
        lambda a, b: torch.addmm(torch.zeros(b.shape[1]), a, b, beta=0),
        lambda a, b: torch.baddbmm(torch.full((1, 1, 1), math.nan), a[None], b[None], beta=0)[0],
        lambda a, b: torch.stack([torch.addmv(torch.zeros(a.shape[0]), a, column) for column in b.T], 1),
    ],
)
@pytest.mark.parametrize("inference", [False, True])
def test_every_kind_of_product_accumulates(call: Any, inference: bool) -> None:
    a, b = normal(3, 6), normal(6, 4, seed=1)
    expected = rounded_product(a, b, Float(8, 4))
    with torch.inference_mode(inference), accumulating(RoundingSpec(Float(8, 4), NEAREST)):
        got = call(a, b)
    assert torch.equal(got, expected)
    assert not torch.equal(got, a @ b)


def test_what_is_added_is_added_last_and_rounded() -> None:
    a, b, c = normal(3, 6), normal(6, 4, seed=1), normal(4, seed=2)
    fmt = RoundingSpec(bf16, NEAREST)
    product = rounded_product(a, b, bf16).double()
    with accumulating(fmt):
        plain, scaled = torch.addmm(c, a, b), torch.addmm(c, a, b, beta=0.5, alpha=-2)
    assert torch.equal(plain, rounded_product(a, b, bf16, addend=c))
    assert torch.equal(scaled, round_to(c.double() / 2 - 2 * product, bf16).float())


@pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 3, 6), (2, 1, 3, 6), (0, 6), (2, 0, 3, 6)])
@pytest.mark.parametrize("inference", [False, True])
def test_a_linear_layer_of_any_shape(shape: tuple[int, ...], inference: bool) -> None:
    layer, x = nn.Linear(6, 4), normal(*shape)
    turned = x.transpose(0, -1).contiguous().transpose(0, -1)  # other strides
    expected = rounded_product(x.reshape(-1, 6), layer.weight.T, bf16, addend=layer.bias).reshape(*shape[:-1], 4)
    with torch.inference_mode(inference), accumulating(RoundingSpec(bf16, NEAREST)):
        assert torch.equal(layer(x), expected)
        assert torch.equal(layer(turned), expected)


def test_attention_is_taken_apart() -> None:
    q, k, v = (normal(2, 2, 5, 8, seed=seed) for seed in range(3))
    for inference in (False, True):
        with torch.inference_mode(inference), accumulating(RoundingSpec(bf16, NEAREST)):
            got = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            # PyTorch scales both factors by the root of the scale
            scores = (q * 8**-0.25) @ (k * 8**-0.25).transpose(-1, -2)
            hidden = torch.ones(5, 5, dtype=torch.bool).triu(1)
            expected = scores.masked_fill(hidden, -math.inf).softmax(-1) @ v
        torch.testing.assert_close(got, expected, rtol=2e-2, atol=2e-2)
        assert torch.equal(round_to(got, bf16), got)
        assert not torch.equal(got, F.scaled_dot_product_attention(q, k, v, is_causal=True))


def test_other_products_and_wrong_shapes_are_pytorchs() -> None:
    whole = torch.arange(6).reshape(2, 3)
    with accumulating(RoundingSpec(e4m3fn, NEAREST)):
        assert torch.equal(whole @ whole.T, torch.tensor([[5, 14], [14, 50]]))
        with pytest.raises(RuntimeError, match="same reduction dim"):
            torch.mm(torch.ones(2, 3), torch.ones(4, 5))
        with pytest.raises(RuntimeError, match="dtype"):
            torch.mm(torch.ones(2, 3), torch.ones(3, 5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: nn.Conv2d(1, 2, 3)(torch.ones(1, 1, 4, 4)), "convolution"),
        (lambda: nn.ConvTranspose1d(1, 2, 3)(torch.ones(1, 1, 4)), "convolution"),
        (lambda: nn.LSTM(3, 3)(torch.ones(2, 1, 3)), "rnn"),
        (lambda: nn.Bilinear(3, 3, 2)(torch.ones(1, 3), torch.ones(1, 3)), "_trilinear"),
        (lambda: torch.mm(torch.ones(2, 2), torch.ones(2, 2), out=torch.empty(2, 2)), "mm"),
        (lambda: torch.ones(2, 2).addmm_(torch.ones(2, 2), torch.ones(2, 2)), "addmm_"),
        (lambda: torch.addbmm(torch.ones(2, 2), torch.ones(1, 2, 2), torch.ones(1, 2, 2)), "addbmm"),
        (lambda: torch.mm(torch.eye(2).to_sparse(), torch.ones(2, 2)), "mm"),
    ],
)
@pytest.mark.parametrize("inference", [False, True])
def test_unseen_products_are_refused(call: Any, name: str, inference: bool) -> None:
    with (
        torch.no_grad(),
        torch.inference_mode(inference),
        accumulating(RoundingSpec(bf16, NEAREST)),
        pytest.raises(InputError, match=f"{name}.* sums products"),
    ):
        call()


def test_the_encoder_layer_takes_no_short_cut() -> None:
    layer, x = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(), normal(1, 3, 8)
    with torch.no_grad():
        plain = layer(x)
        with simulate(layer, accumulations=bf16):
            rough = layer(x)
    assert 0 < float((plain - rough).abs().max()) < 0.2


def test_accumulations_must_fit_the_dtype() -> None:
    half = torch.ones(2, 2, dtype=torch.bfloat16)
    with (
        accumulating(RoundingSpec(fp32, NEAREST)),
        pytest.raises(InputError, match="bfloat16 does not have all values"),
    ):
        half @ half
    with accumulating(RoundingSpec(e4m3fn, NEAREST)):
        assert (half @ half).dtype == torch.bfloat16
    for fmt in (Float(11, 52), Float(11, 51), Fixed(53, 0)):
        with pytest.raises(InputError, match="too fine"), accumulating(RoundingSpec(fmt, NEAREST)):
            pass
    for fmt in (Float(11, 50), Fixed(52, 0)):
        with accumulating(RoundingSpec(fmt, NEAREST)):
            assert float(torch.ones(3).double() @ torch.ones(3).double()) == 3


def test_the_backward_pass_accumulates_too(device: str) -> None:
    layer, x, upstream = nn.Linear(5, 3), normal(4, 5), normal(4, 3, seed=1)
    expected = rounded_product(upstream, layer.weight, e5m2), rounded_product(upstream.T, x, e5m2)
    layer, x = layer.to(device), x.to(device).requires_grad_()
    with simulate(layer, accumulations=e5m2):  # on a GPU the backward pass has a thread of its own
        (layer(x) * upstream.to(device)).sum().backward()
    assert torch.equal(x.grad.cpu(), expected[0])
    assert torch.equal(layer.weight.grad.cpu(), expected[1])
    torch.testing.assert_close(layer.bias.grad.cpu(), upstream.sum(0))  # a sum, not a product
