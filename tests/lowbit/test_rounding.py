"""Rounding against gfloat, PyTorch's own conversions and brute force over grids; C and PyTorch against each other."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import gfloat
import gfloat.formats as oracles
import numpy as np
import pytest
import torch
from gfloat import RoundMode
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minseek.errors import InputError
from minseek.lowbit import FORMATS, ROUNDINGS, Fixed, Float, Format, bf16, e2m1, e4m3fn, e5m2, fp16, fp32, round_to
from minseek.lowbit.grid import grid_for
from minseek.lowbit.philox import draws, philox
from minseek.lowbit.rounding import round_grid
from minseek.lowbit.torch_rounding import round_torch

ORACLES = {
    "fp32": oracles.format_info_binary32,
    "fp16": oracles.format_info_binary16,
    "bf16": oracles.format_info_bfloat16,
    "e4m3fn": oracles.format_info_ocp_e4m3,
    "e5m2": oracles.format_info_ocp_e5m2,
    "e3m2": oracles.format_info_ocp_e3m2,
    "e2m3": oracles.format_info_ocp_e2m3,
    "e2m1": oracles.format_info_ocp_e2m1,
}
MODES = {
    "nearest-even": RoundMode.TiesToEven,
    "nearest-away": RoundMode.TiesToAway,
    "toward-zero": RoundMode.TowardZero,
    "up": RoundMode.TowardPositive,
    "down": RoundMode.TowardNegative,
}
DETERMINISTIC = tuple(MODES)
OTHERS = (
    Fixed(8, 4),
    Fixed(4, -3),
    Fixed(24, 30),
    Float(4, 3, subnormals=False),
    Float(4, 3, saturate=True),
    Float(3, 4, bias=11, specials="nan"),
    Float(6, 9),
    Float(1, 2, specials="none"),
)


def from_gfloat(name: str, x: Tensor, rounding: str, **rng: Any) -> Tensor:
    """Result of gfloat, float32; NaN where its format has none."""
    oracle, values = ORACLES[name], x.double().numpy()
    known = ~np.isnan(values)
    rounded = np.full_like(values, np.nan)
    mode = MODES.get(rounding, RoundMode.Stochastic)
    if rng:
        rng["srbits"] = rng["srbits"].numpy()[known]
    with np.errstate(all="ignore"):
        saturate = bool(FORMATS[name].saturate)
        rounded[known] = gfloat.round_ndarray(oracle, values[known], mode, saturate, **rng)
    return torch.from_numpy(rounded).to(x.dtype)


def assert_same(got: Tensor, expected: Tensor, x: Tensor) -> None:
    """Equal values, signs of zeros included; both NaN or neither."""
    wrong = (got != expected) & ~(got.isnan() & expected.isnan()) | (got.signbit() != expected.signbit()) & ~got.isnan()
    where = wrong.nonzero()[:3, 0]
    assert not wrong.any(), f"{int(wrong.sum())} differ, as {x[where]} -> {got[where]}, not {expected[where]}"


def all_halves(dtype: torch.dtype) -> Tensor:
    """All 2^16 numbers of bfloat16 or float16, as float32."""
    return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).float()


def random_floats(count: int, seed: int) -> Tensor:
    """Random patterns of 32 bits: all exponents, subnormals, infinities and NaNs among them."""
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(-(2**31), 2**31, (count,), generator=generator)
    return bits.to(torch.int32).view(torch.float32)


def adversarial_floats(fmt: Format) -> Tensor:
    """Grid values, midpoints and powers of two with their neighbors in float32, both signs; a number beyond each."""
    powers = 2.0 ** torch.arange(-149, 128, dtype=torch.float64)
    points = [powers, torch.tensor([0.0, torch.finfo(torch.float32).max, fmt.largest, -fmt.lowest, torch.inf])]
    if fmt.bits <= 16:
        grid = fmt.grid()
        points += [grid, (grid[1:] + grid[:-1]) / 2]
    last = fmt.ulp(torch.tensor(fmt.largest))
    points += [fmt.largest + last * torch.tensor([0.25, 0.5, 0.75, 1.0, 1.5, 2.0])]
    near = torch.cat([p.double() for p in points]).float()
    up, down = torch.nextafter(near, torch.tensor(torch.inf)), torch.nextafter(near, torch.tensor(-torch.inf))
    both = torch.cat((near, up, down))
    return torch.cat((both, -both)).unique()


@pytest.mark.parametrize("rounding", DETERMINISTIC)
@pytest.mark.parametrize("name", FORMATS)
def test_equals_gfloat_on_all_halves_on_random_and_on_adversarial_floats(name: str, rounding: Any, device: str) -> None:
    fmt, rest = FORMATS[name], 250_000  # times 40: ten million; bench/lowbit_proof.py does as many for each
    for x in (
        all_halves(torch.bfloat16),
        all_halves(torch.float16),
        adversarial_floats(fmt),
        random_floats(rest, seed=len(name) + DETERMINISTIC.index(rounding)),
    ):
        assert_same(round_to(x.to(device), fmt, rounding).cpu(), from_gfloat(name, x, rounding), x)


@pytest.mark.parametrize("bits", [1, 4, 8, 12])
@pytest.mark.parametrize("name", FORMATS)
def test_stochastic_equals_gfloat_with_the_same_random_numbers(name: str, bits: int, device: str) -> None:
    fmt = FORMATS[name]
    x = torch.cat((random_floats(100_000, seed=bits), all_halves(torch.float16)))
    grid = grid_for(fmt, "stochastic", bits, torch.float32)
    rng = draws(x.numel(), bits, 99, 3, 0, torch.device("cpu"))
    assert 0 <= int(rng.min()) <= int(rng.max()) < 2**bits
    expected = from_gfloat(name, x, "stochastic", srbits=rng, srnumbits=bits)
    assert_same(round_grid(x.to(device), grid, 99, 3).cpu(), expected, x)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("fmt", [*FORMATS.values(), *OTHERS], ids=str)
def test_c_and_pytorch_do_the_same(fmt: Format, rounding: Any, device: str) -> None:
    numbers = random_floats(40_003, seed=1)
    for x in (numbers, torch.randn(10_001) * 4, numbers.double() * 1.000001, torch.randn(5_003).double()):
        grid = grid_for(fmt, rounding, None, x.dtype)
        got = round_grid(x.to(device), grid, 2**63 + 12345, 2**33 + 7, first=2**31)
        assert_same(got.cpu(), round_torch(x, grid, 2**63 + 12345, 2**33 + 7, first=2**31), x)


@pytest.mark.slow
@pytest.mark.parametrize("fmt", OTHERS, ids=str)
def test_any_format_equals_brute_force_over_its_grid(fmt: Format, device: str) -> None:
    """The nearest, lower and upper values are looked up in the grid."""
    grid = fmt.grid() if fmt.bits <= 20 else None
    if grid is None:
        grid = torch.arange(-(2**23), 2**23, dtype=torch.float64) * 2.0**-30
    x = torch.cat((torch.randn(3000).double() * fmt.largest / 3, ((grid[1:] + grid[:-1]) / 2)[:4000], grid[:4000]))
    x = x[(x >= fmt.lowest) & (x <= fmt.largest)].to(device)
    grid = grid.to(device)
    high = torch.searchsorted(grid, x).clamp(max=len(grid) - 1)
    low = torch.where(grid[high] == x, high, (high - 1).clamp(min=0))
    below, above = grid[low], grid[high]
    assert torch.equal(round_to(x, fmt, "down"), below)
    assert torch.equal(round_to(x, fmt, "up"), above)
    assert torch.equal(round_to(x, fmt, "toward-zero"), torch.where(x > 0, below, above))
    tie = x - below == above - x
    nearest = torch.where(x - below < above - x, below, above)
    away = torch.where(x > 0, above, below)
    assert torch.equal(round_to(x, fmt, "nearest-away"), torch.where(tie, away, nearest))
    steps = (low - int((grid < 0).sum())).abs()  # values from zero to the lower one
    jump = fmt.mantissa_bits if isinstance(fmt, Float) and not fmt.subnormals else 0  # codes that stand for nothing
    codes = torch.where(steps == 0, 0, steps + 2**jump - 1)
    even = torch.where((codes % 2 == 0) & (above != 0), below, above)  # zero's code is even
    assert torch.equal(round_to(x, fmt, "nearest-even"), torch.where(tie, even, nearest))
    by_chance = round_to(x, fmt, "stochastic", generator=torch.Generator(device).manual_seed(0))
    assert bool(((by_chance == below) | (by_chance == above)).all())


FLOATS = st.builds(
    Float,
    st.integers(2, 8),
    st.integers(1, 12),
    bias=st.none() | st.integers(0, 20),
    specials=st.sampled_from(["inf-nan", "nan", "none"]),
    subnormals=st.booleans(),
)


@pytest.mark.slow
@given(FLOATS, st.floats(allow_nan=False), st.floats(0.5, 2), st.sampled_from(DETERMINISTIC))
@settings(max_examples=400, deadline=None)
def test_any_float_format_equals_exact_arithmetic(fmt: Float, wild: float, near: float, rounding: Any) -> None:
    for x in (wild, near * fmt.smallest, near * fmt.smallest_normal, near * fmt.largest, -near):
        got = float(round_to(torch.tensor(x, dtype=torch.float64), fmt, rounding))
        expected = in_fractions(fmt, x, rounding)
        assert got == expected or (math.isnan(got) and math.isnan(expected)), (fmt, x)


def in_fractions(fmt: Float, x: float, rounding: str) -> float:
    """Rounded number, by the definition in exact arithmetic."""
    beyond = math.inf if fmt.specials == "inf-nan" else math.nan
    if math.isinf(x):
        return math.copysign(fmt.largest if fmt.saturate else beyond, x)
    size, exponent = abs(Fraction(x)), fmt.least_exponent
    while size >= Fraction(2) ** (exponent + 1):
        exponent += 1
    spacing = Fraction(2) ** (exponent - fmt.mantissa_bits)
    if size < Fraction(2) ** fmt.least_exponent:
        spacing = Fraction(2) ** fmt.quantum
    low = math.floor(size / spacing)
    part = size / spacing - low
    away = {
        "toward-zero": False,
        "up": part > 0 and x > 0,
        "down": part > 0 and x < 0,
        "nearest-away": part >= Fraction(1, 2),
        "nearest-even": part > Fraction(1, 2) or (part == Fraction(1, 2) and low % 2 == 1),
    }[rounding]
    rounded = (low + away) * spacing
    if rounded > Fraction(fmt.largest):
        cut = fmt.saturate or rounding == "toward-zero" or rounding == ("down" if x > 0 else "up")
        return math.copysign(fmt.largest if cut else beyond, x)
    return math.copysign(float(rounded), x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fmt", [e4m3fn, e5m2, e2m1, Fixed(6, 3)], ids=str)
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_halves_are_rounded_as_what_they_are(fmt: Format, dtype: torch.dtype, rounding: Any, device: str) -> None:
    x = all_halves(dtype).to(device)
    seeds = [torch.Generator().manual_seed(4) if rounding == "stochastic" else None for _ in range(2)]
    bits = 12 if rounding == "stochastic" else None
    got = round_to(x.to(dtype), fmt, rounding, generator=seeds[0], random_bits=bits)
    assert got.dtype == dtype
    assert_same(got.float().cpu(), round_to(x, fmt, rounding, generator=seeds[1], random_bits=bits).cpu(), x.cpu())


@pytest.mark.parametrize(
    ("fmt", "dtype"),
    [(fp16, torch.float16), (bf16, torch.bfloat16), (e4m3fn, torch.float8_e4m3fn), (e5m2, torch.float8_e5m2)],
    ids=str,
)
def test_nearest_even_is_what_pytorch_converts_to(fmt: Format, dtype: torch.dtype) -> None:
    x = torch.cat((random_floats(200_000, seed=5), torch.randn(50_000)))
    if fmt is e4m3fn:
        x = x[x.abs() <= 464]  # what PyTorch does with larger ones has changed between its versions
    assert_same(round_to(x, fmt), x.to(dtype).float(), x)


# --- stochastic rounding -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", [bf16, e4m3fn, e2m1, Fixed(8, 4)], ids=str)
@pytest.mark.parametrize("share", [0.03, 0.25, 0.5, 0.8])
def test_stochastic_rounding_goes_up_as_often_as_it_should(fmt: Format, share: float, device: str) -> None:
    """A test of proportion, 5 standard errors wide: a right implementation fails it once in two million times."""
    generator, count = torch.Generator(device).manual_seed(11), 200_000
    for low in (1.0, -1.5, fmt.smallest * 3):  # also where values are subnormal
        base = round_to(torch.tensor(low), fmt, "toward-zero").double()
        gap = fmt.ulp(base)
        x = float(base + base.sign() * share * gap)
        got = round_to(
            torch.full((count,), x, dtype=torch.float64, device=device), fmt, "stochastic", generator=generator
        )
        away = float((got.abs() > base.abs().to(device)).double().mean())
        exact = float((Fraction(x) - Fraction(float(base))) / Fraction(float(gap)) * int(base.sign()))
        assert abs(away - exact) < 5 * math.sqrt(exact * (1 - exact) / count)


def test_stochastic_rounding_is_unbiased_over_many_numbers(device: str) -> None:
    x = torch.randn(400_000, dtype=torch.float64, device=device)
    for fmt in (bf16, e4m3fn):
        error = round_to(x, fmt, "stochastic", generator=torch.Generator(device).manual_seed(1)) - x
        assert abs(float(error.mean())) < 5 * float(error.std()) / math.sqrt(x.numel())
        moved = round_to(x, fmt, "nearest-even") - x
        assert float(error.abs().mean()) > 1.3 * float(moved.abs().mean())  # it isn't nearest in disguise


@pytest.mark.parametrize("fmt", [*FORMATS.values(), *OTHERS], ids=str)
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_values_of_the_format_never_move(fmt: Format, rounding: Any, device: str) -> None:
    grid = fmt.grid() if fmt.bits <= 16 else round_to(torch.randn(50_000).double(), fmt, "nearest-even")
    grid = grid.to(device)
    for _ in range(3 if rounding == "stochastic" else 1):
        assert torch.equal(round_to(grid, fmt, rounding), grid)


def test_the_generator_alone_decides(device: str) -> None:
    x = torch.randn(10_000, device=device)
    first = round_to(x, e4m3fn, "stochastic", generator=torch.Generator(device).manual_seed(3))
    assert torch.equal(first, round_to(x, e4m3fn, "stochastic", generator=torch.Generator(device).manual_seed(3)))
    assert not torch.equal(first, round_to(x, e4m3fn, "stochastic", generator=torch.Generator(device).manual_seed(4)))
    torch.manual_seed(8)
    own = [round_to(x, e4m3fn, "stochastic") for _ in range(2)]
    assert not torch.equal(*own)  # each call draws new numbers
    torch.manual_seed(8)
    assert torch.equal(own[0], round_to(x, e4m3fn, "stochastic"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    torch.manual_seed(8)
    alone = round_to(x, e4m3fn, "stochastic")
    torch.set_num_threads(threads)
    assert torch.equal(own[0], alone)
    on_device = round_to(x, e4m3fn, "stochastic", generator=torch.Generator().manual_seed(3)).cpu()
    assert torch.equal(on_device, round_to(x.cpu(), e4m3fn, "stochastic", generator=torch.Generator().manual_seed(3)))


def test_philox_gives_the_published_numbers() -> None:
    """Known answers of Random123's philox4x32 with 10 rounds; keys and counters as there, lowest word first."""
    cases = {
        (0, 0, 0): (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
        (2**64 - 1, 2**64 - 1, 2**64 - 1): (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        (0x85A308D3243F6A88, 0x0370734413198A2E, 0x299F31D0A4093822): (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    }
    for (counter, stream, seed), words in cases.items():
        signed = counter - 2**64 if counter >= 2**63 else counter
        assert tuple(int(w) for w in philox(torch.tensor([signed]), seed, stream)) == words


@given(st.integers(1, 700), st.integers(1, 5), st.sampled_from([7, 16, 17, 32]), st.integers(0, 2**64 - 1))
@settings(max_examples=40, deadline=None)
def test_parts_of_a_stream_are_those_of_the_whole(count: int, parts: int, bits: int, seed: int) -> None:
    cpu = torch.device("cpu")
    whole = draws(count + 128 * parts, bits, seed, 5, 0, cpu)
    assert torch.equal(whole[128 * parts :], draws(count, bits, seed, 5, parts, cpu))


# --- traps of other tools -------------------------------------------------------------------------------------------


def test_just_below_a_power_of_two_the_exponent_is_the_lower_one() -> None:
    x = torch.nextafter(torch.tensor(4.0), torch.tensor(0.0))
    assert float(round_to(x, e5m2, "toward-zero")) == 3.5
    assert math.floor(math.log2(float(x) + 0.0)) in (
        1,
        2,
    )  # what a tool that takes this logarithm in float32 would miss
    assert float(round_to(x.double(), Float(8, 23), "down")) == float(x)


def test_nearest_even_is_not_nearest_away() -> None:
    ties = torch.tensor([1.125, 1.375, 2.25, -1.125])
    assert round_to(ties, e5m2, "nearest-even").tolist() == [1.0, 1.5, 2.0, -1.0]
    assert round_to(ties, e5m2, "nearest-away").tolist() == [1.25, 1.5, 2.5, -1.25]


@pytest.mark.parametrize(("fmt", "largest", "bound"), [(fp16, 65504.0, 65520.0), (e5m2, 57344.0, 61440.0)], ids=str)
def test_ieee_formats_overflow_where_they_should(fmt: Float, largest: float, bound: float) -> None:
    assert fmt.largest == largest
    below = torch.nextafter(torch.tensor(bound), torch.tensor(0.0))
    assert float(round_to(below, fmt)) == largest
    assert float(round_to(torch.tensor(bound), fmt)) == math.inf  # the tie goes to the even side, which is no value
    assert float(round_to(torch.tensor(-bound), fmt)) == -math.inf
    saturating = Float(fmt.exponent_bits, fmt.mantissa_bits, saturate=True)
    assert float(round_to(torch.tensor(math.inf), saturating)) == largest
    for rounding, x, expected in (
        ("toward-zero", 1e9, largest),
        ("down", 1e9, largest),
        ("down", -1e9, -math.inf),
        ("up", -1e9, -largest),
        ("up", 1e9, math.inf),
        ("down", math.inf, math.inf),
    ):
        assert float(round_to(torch.tensor(x), fmt, rounding)) == expected


def test_e4m3fn_has_no_infinity() -> None:
    assert round_to(torch.tensor([448.0, 464.0]), e4m3fn).tolist() == [448.0, 448.0]
    assert round_to(torch.tensor([464.1, math.inf, -500.0]), e4m3fn).isnan().all()
    assert e2m1.saturate
    assert round_to(torch.tensor([99.0, -math.inf]), e2m1).tolist() == [6.0, -6.0]


def test_no_double_rounding() -> None:
    """1 + 2^-3 + 2^-20 lies above the tie of e5m2; by way of bf16 it becomes the tie, and then 1."""
    x = torch.tensor(1 + 2.0**-3 + 2.0**-20)
    assert float(round_to(round_to(x, bf16), e5m2)) == 1.0
    assert float(round_to(x, e5m2)) == 1.25
    tiny = torch.tensor(2.0**-25 + 2.0**-40)  # above half of fp16's smallest value
    assert float(round_to(tiny, fp16)) == 2.0**-24


def test_signs_of_zero_and_nan() -> None:
    x = torch.tensor([-0.0, -1e-30, math.nan])
    got = round_to(x, e4m3fn, "toward-zero")
    assert got.signbit()[:2].all()
    assert got[:2].abs().sum() == 0
    assert got[2].isnan()
    fixed = round_to(x, Fixed(8, 4), "up")
    assert not fixed.signbit()[:2].any()
    assert fixed[2].isnan()
    assert round_to(x, e2m1)[2].isnan()


# --- formats --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "fp32"])
def test_grids_are_the_values_that_gfloat_decodes(name: str) -> None:
    oracle, fmt = ORACLES[name], FORMATS[name]
    values = gfloat.decode_ndarray(oracle, np.arange(2**oracle.k))
    finite = np.unique(values[np.isfinite(values)])  # -0 and 0 are one
    assert np.array_equal(fmt.grid().numpy(), finite)
    assert (fmt.bits, fmt.largest, fmt.lowest) == (oracle.k, finite[-1], finite[0])
    assert fmt.smallest == finite[finite > 0][0]
    assert isinstance(fmt, Float)
    assert fmt.smallest_normal == oracle.smallest_normal
    assert fmt.epsilon == oracle.eps
    assert fmt.name == name == str(fmt)
    gaps = fmt.ulp(torch.from_numpy(finite[finite >= 0][:-1]))
    assert np.array_equal(gaps.numpy(), np.diff(finite[finite >= 0]))


@pytest.mark.parametrize("fmt", [f for f in OTHERS if f.bits <= 20], ids=str)
def test_grid_spacing_and_extremes_agree_with_the_grid(fmt: Format) -> None:
    grid = fmt.grid()
    assert (float(grid[-1]), float(grid[0])) == (fmt.largest, fmt.lowest)
    up = grid[grid >= 0]
    assert float(up[1]) == fmt.smallest
    assert torch.equal(fmt.ulp(up[:-1]), up.diff())
    between = (up[1:] + up[:-1]) / 2
    assert torch.equal(fmt.ulp(-between), up.diff())
    assert fmt.ulp(torch.tensor([math.inf, math.nan])).isnan().all()


def test_names_tell_formats_apart() -> None:
    shapes = itertools.product((2, 4), (1, 3), (None, 5), ("inf-nan", "nan", "none"), (True, False), (None, True))
    formats = {Float(e, m, bias=b, specials=s, subnormals=n, saturate=o) for e, m, b, s, n, o in shapes}  # type: ignore[arg-type]
    assert len({fmt.name for fmt in formats}) == len(formats)
    assert Float(5, 2) == e5m2
    assert Float(8, 7).name == "bf16"
    assert Fixed(8, 4).name == "fixed8.4"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Float(0, 3), "exponent_bits must be 1 to 11, not 0"),
        (lambda: Float(5, 0), "mantissa_bits must be 1 to 52, not 0"),
        (lambda: Float(5, 2, specials="some"), "not 'some'"),  # type: ignore[arg-type]
        (lambda: Float(2, 1, specials="none", saturate=False), "has to saturate"),
        (lambda: Float(1, 2), "needs 2 exponent bits"),
        (lambda: Float(11, 3, bias=2000), "outside those of float64"),
        (lambda: Fixed(1, 0), "word_length must be 2 to 53, not 1"),
        (lambda: Fixed(8, 5000), "fraction_bits must be -900 to 1000, not 5000"),
        (lambda: fp32.grid(), "up to 20 bits can be listed"),
        (lambda: round_to(torch.ones(2), bf16, "nearest"), "unknown rounding mode 'nearest'"),  # type: ignore[arg-type]
        (lambda: round_to(torch.ones(2), bf16, random_bits=8), "random_bits has no effect"),
        (lambda: round_to(torch.ones(2), bf16, "stochastic", random_bits=33), "must be 1 to 32, not 33"),
        (lambda: round_to(torch.ones(2), bf16, generator=torch.Generator()), "a generator has no effect"),
        (lambda: round_to(torch.ones(2).int(), bf16), "dtype torch.int32"),
        (lambda: round_to(torch.ones(2).half(), bf16), "torch.float16 does not have all values of bf16"),
        (lambda: round_to(torch.ones(2), Float(11, 8)), "give torch.float64"),
        (lambda: round_to(torch.ones(2), Float(8, 3, bias=130)), "give torch.float64"),
        (lambda: round_to(torch.ones(2), Fixed(30, 4)), "give torch.float64"),
        (lambda: round_to(torch.ones(2), bf16, out=torch.ones(3)), "out must be like x"),
    ],
)
def test_wrong_input_is_one_sentence(make: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: round_to(torch.ones(2), "bf16"),  # type: ignore[arg-type]
            "fmt must be a format, not 'bf16': give one such as minseek.lowbit.bf16 or Fixed(8, 4)",
        ),
        (
            lambda: round_to([1.0, 2.0], Float(5, 2)),  # type: ignore[arg-type]
            "x must be a tensor, not [1.0, 2.0]: give torch.tensor(…)",
        ),
        (lambda: round_to(torch.ones(2), bf16, out=[0.0, 0.0]), "out must be a tensor, not [0.0, 0.0]"),  # type: ignore[arg-type]
        (
            lambda: round_to(torch.ones(2), bf16, "stochastic", random_bits=8.5),  # type: ignore[arg-type]
            "random_bits must be an integer, not 8.5",
        ),
        (lambda: Fixed(8.5, 4), "word_length must be an integer, not 8.5"),  # type: ignore[arg-type]
        (lambda: Fixed(8, "4"), "fraction_bits must be an integer, not '4'"),  # type: ignore[arg-type]
        (lambda: Float(5.0, 2), "exponent_bits must be an integer, not 5.0"),  # type: ignore[arg-type]
        (lambda: Float(5, True), "mantissa_bits must be an integer, not True"),
        (lambda: Float(5, 2, bias=15.0), "bias must be an integer, not 15.0"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_type_is_refused_in_one_sentence(make: Any, sentence: str) -> None:
    with pytest.raises(TypeError) as caught:
        make()
    assert str(caught.value) == sentence


def test_the_integers_of_numpy_are_integers() -> None:
    assert [Float(e, 2) for e in np.arange(4, 6)] == [Float(4, 2), Float(5, 2)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_out_views_and_shapes(dtype: torch.dtype, device: str) -> None:
    x = torch.randn(37, 11, 5, device=device).to(dtype)
    expected = round_to(x, e4m3fn)
    assert torch.equal(round_to(x.transpose(0, 2), e4m3fn), expected.transpose(0, 2))
    out = torch.zeros(5, 11, 37, device=device, dtype=dtype).transpose(0, 2)
    assert round_to(x, e4m3fn, out=out) is out
    assert torch.equal(out, expected)
    assert round_to(x, e4m3fn, out=x) is x
    assert torch.equal(x, expected)
    assert round_to(x[:0], e4m3fn).shape == (0, 11, 5)
    assert not any(round_to(torch.ones(n, device=device), e4m3fn)._is_view() for n in (3, 2**20))
    assert round_to(x[0, 0, 0], e4m3fn).shape == ()


def test_autograd_sees_what_is_rounded_in_place() -> None:
    with torch.enable_grad():
        x = torch.randn(5, requires_grad=True)
        assert not round_to(x, bf16).requires_grad
        y = x * 1.0
        z = y * y
        round_to(y, bf16, out=y)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            z.sum().backward()


def test_without_a_compiler_results_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x = random_floats(300_000, seed=2)
    with_c = round_to(x, e5m2, "stochastic", generator=torch.Generator().manual_seed(1))
    monkeypatch.setenv("MINSEEK_NATIVE", "0")
    assert_same(round_to(x, e5m2, "stochastic", generator=torch.Generator().manual_seed(1)), with_c, x)
