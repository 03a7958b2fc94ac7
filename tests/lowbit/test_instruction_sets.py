"""The kernels compiled for each instruction set: vectors of 16, 32 and 64 bytes give the same bits."""

from __future__ import annotations

import platform
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from minseek.lowbit import ROUNDINGS, Fixed, Float, Format, bf16, e2m1, e4m3fn, fp16, round_to
from minseek.lowbit.grid import fits, grid_for
from minseek.lowbit.native import library
from minseek.lowbit.optim import SGD
from minseek.lowbit.torch_rounding import round_torch
from minseek.native import available_levels

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="levels of x86-64")
LEVELS = ("portable", "avx2", "avx512")
FORMATS = (bf16, fp16, e4m3fn, e2m1, Fixed(8, 4), Fixed(24, 30), Float(4, 3, subnormals=False), Float(6, 9))


@pytest.fixture
def at_level(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], bool]:
    """Use the kernels of an instruction set; False where the processor has not got it."""

    def use(level: str) -> bool:
        if level not in available_levels():
            return False
        monkeypatch.setenv("MINSEEK_ISA", level)
        assert library() is not None
        return True

    return use


def numbers(dtype: torch.dtype) -> Tensor:
    """Random bit patterns, infinities and NaNs among them, and normal numbers; the length is no multiple of a span."""
    generator = torch.Generator().manual_seed(1)
    words = torch.randint(-(2**63), 2**63 - 1, (4_001,), generator=generator)
    patterns = words.view(dtype) if dtype == torch.float64 else (words >> 32).to(torch.int32).view(dtype)
    return torch.cat((patterns, torch.randn(3_000, generator=generator, dtype=dtype) * 4))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_draws_the_same_numbers_and_gives_the_same_bits(
    level: str, dtype: torch.dtype, at_level: Callable[[str], bool]
) -> None:
    """Against the PyTorch operations, which have no width; 1 to 32 random bits."""
    if not at_level(level):
        pytest.skip(f"this processor does not have {level}")
    x = numbers(dtype)
    cases: list[tuple[Format, str, int | None]] = [(fmt, mode, None) for fmt in FORMATS for mode in ROUNDINGS]
    cases += [(fmt, "stochastic", bits) for fmt in (bf16, e4m3fn) for bits in (1, 7, 16, 17, 32)]
    for fmt, mode, bits in cases:
        if not fits(fmt, dtype):
            continue
        got = round_to(x, fmt, mode, random_bits=bits, generator=seeded(mode))  # type: ignore[arg-type]
        grid = grid_for(fmt, mode, bits, dtype)  # type: ignore[arg-type]
        wanted = round_torch(x, grid, seed_of(mode), 0, 0)
        integer = torch.int64 if dtype == torch.float64 else torch.int32
        assert torch.equal(got.view(integer), wanted.view(integer)), (fmt.name, mode, bits)


def seeded(mode: str) -> torch.Generator | None:
    return torch.Generator().manual_seed(5) if mode == "stochastic" else None


def seed_of(mode: str) -> int:
    generator = seeded(mode)
    if generator is None:
        return 0
    return int(torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64, generator=generator)) & (2**64 - 1)


def sgd_steps(rounding: str, **options: float | bool) -> list[Tensor]:
    """Weights and momenta after three steps; lengths below, at and beyond a span."""
    generator = torch.Generator().manual_seed(2)
    params = [nn.Parameter(torch.randn(n, generator=generator).bfloat16()) for n in (3, 128, 1_001)]
    optimizer = SGD(params, rounding=rounding, generator=torch.Generator().manual_seed(3), **options)  # type: ignore[arg-type]
    for _ in range(3):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator).bfloat16()
        optimizer.step()
    momenta = [state["momentum_buffer"] for state in optimizer.state.values() if state]
    return [t.detach().view(torch.int16) for t in (*params, *momenta)]


@pytest.mark.parametrize("rounding", ["nearest-even", "stochastic"])
@pytest.mark.parametrize(
    ("options", "levels"),
    [
        ({"lr": 2.0**-6}, LEVELS),
        ({"lr": 2.0**-6, "momentum": 0.5, "nesterov": True, "maximize": True}, LEVELS),
        # These products are rounded where the processor cannot fuse them with a sum: not the same in "portable".
        ({"lr": 0.01, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}, ("avx2", "avx512")),
    ],
)
def test_sgd_steps_give_the_same_bits(
    options: dict[str, float | bool], levels: tuple[str, ...], rounding: str, at_level: Callable[[str], bool]
) -> None:
    found = [sgd_steps(rounding, **options) for level in levels if at_level(level)]
    if len(found) < 2:
        pytest.skip("this processor has one of these instruction sets")
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
