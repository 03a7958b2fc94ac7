"""Optimizers against torch.optim where nothing is rounded, against their own formulas where something is."""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from minseek.errors import InputError
from minseek.lowbit import Fixed, Float, RoundingSpec, bf16, e4m3fn, fp16, fp32, round_to
from minseek.lowbit.native import library
from minseek.lowbit.optim import PISGD, SGD, AdamW, perturb, precision
from minseek.lowbit.optim.perturb import Perturbation
from minseek.native import instruction_set

CHUNK = 4096
SHAPES = ((7,), (33, 50), (3, 5, 7), (), (131, 65))  # the last is longer than one chunk


@pytest.fixture(autouse=True)
def _short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "CHUNK", CHUNK)
    monkeypatch.setattr(perturb, "CHUNK", CHUNK)


def tensors(dtype: torch.dtype, device: str = "cpu", shapes: Any = SHAPES) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(shape, generator=generator).to(device, dtype)) for shape in shapes]


def take_steps(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], steps: int = 4) -> list[Tensor]:
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator).to(p)
        optimizer.step()
    return [p.detach().clone() for p in params]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture
def quadratic() -> tuple[nn.Parameter, Callable[[], Tensor]]:
    p = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))

    def closure() -> Tensor:
        p.grad = p.detach().clone()
        return (p.detach() ** 2).sum() / 2

    return p, closure


def test_where_a_compiler_is_the_kernels_are_built() -> None:
    assert (library() is not None) == any(map(shutil.which, ("cc", "gcc", "clang")))


# --- equal to torch.optim -------------------------------------------------------------------------------------------

MOMENTA: list[dict[str, Any]] = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01},
    {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1, "maximize": True},
]


@pytest.mark.parametrize("options", MOMENTA, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("foreach", [False, True])
def test_sgd_is_torchs_where_nothing_is_rounded(
    options: dict[str, Any], dtype: torch.dtype, foreach: bool, device: str
) -> None:
    ours, theirs = tensors(dtype, device), tensors(dtype, device)
    weights = fp32 if dtype == torch.float32 else Float(11, 52)
    got = take_steps(SGD(ours, lr=0.1, weights=weights, momenta=weights, **options), ours)
    assert same(got, take_steps(torch.optim.SGD(theirs, lr=0.1, foreach=foreach, **options), theirs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adamw_is_torchs_where_nothing_is_rounded(dtype: torch.dtype, device: str) -> None:
    ours, theirs = tensors(dtype, device), tensors(dtype, device)
    expected = take_steps(torch.optim.AdamW(theirs, lr=0.1, weight_decay=0.1, foreach=False), theirs)
    assert same(take_steps(AdamW(ours, lr=0.1, weight_decay=0.1), ours), expected)


@pytest.mark.parametrize("options", MOMENTA, ids=str)
def test_steps_computed_in_parts_are_torchs_too(options: dict[str, Any]) -> None:
    """A format one bit narrower than float32 has steps done in parts and then rounded; before, they are torch's."""
    ours, theirs = tensors(torch.float32), tensors(torch.float32)
    wide = Float(8, 22)
    got = take_steps(SGD(ours, lr=0.1, weights=wide, rounding="nearest-even", **options), ours, steps=1)
    torch_step = take_steps(torch.optim.SGD(theirs, lr=0.1, **options), theirs, steps=1)
    assert same(got, [round_to(w, wide) for w in torch_step])


def test_one_step_of_adamw_in_bf16_is_torchs_rounded() -> None:
    ours, theirs = tensors(torch.bfloat16), tensors(torch.float32)
    for p, q in zip(ours, theirs, strict=True):
        q.copy_(p)
    optimizer = AdamW(ours, lr=0.1, rounding="nearest-even")
    reference = torch.optim.AdamW(theirs, lr=0.1, foreach=False)
    for p, q in zip(ours, theirs, strict=True):
        p.grad = torch.randn(p.shape).bfloat16()
        q.grad = p.grad.float()
    optimizer.step()
    reference.step()
    for p, q in zip(ours, theirs, strict=True):
        for name in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(optimizer.state[p][name], reference.state[q][name].bfloat16())
        # the step is made of the moments as they are kept
        mean, square = optimizer.state[p]["exp_avg"].float(), optimizer.state[p]["exp_avg_sq"].float()
        before = q + 0.1 * (reference.state[q]["exp_avg"] / 0.1) / (reference.state[q]["exp_avg_sq"] / 0.001).sqrt()
        expected = before - 0.1 * (mean / 0.1) / (square / 0.001).sqrt()
        assert torch.allclose(p.float(), expected, rtol=2**-8, atol=1e-3)


# --- formats --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounding", ["nearest-even", "stochastic", "toward-zero"])
@pytest.mark.parametrize("options", MOMENTA, ids=str)
def test_the_fused_step_is_the_one_in_parts(
    options: dict[str, Any], rounding: Any, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    if instruction_set().name == "portable" and torch.backends.cpu.get_cpu_capability() != "DEFAULT":
        pytest.skip("PyTorch fuses products and sums on this processor, portable kernels cannot")
    fused, plain = tensors(torch.bfloat16, device), tensors(torch.bfloat16)
    got = take_steps(SGD(fused, 0.1, rounding=rounding, generator=torch.Generator().manual_seed(2), **options), fused)
    monkeypatch.setenv("MINSEEK_NATIVE", "0")
    expected = take_steps(
        SGD(plain, 0.1, rounding=rounding, generator=torch.Generator().manual_seed(2), **options), plain
    )
    assert same([g.cpu() for g in got], expected)


def test_a_step_is_its_formula_with_its_roundings(device: str) -> None:
    p = nn.Parameter(round_to(torch.randn(2000, device=device), e4m3fn))
    momenta, gradients, update = (
        RoundingSpec(bf16, "up"),
        RoundingSpec(Fixed(10, 6), "nearest-away"),
        RoundingSpec(fp16, "down"),
    )
    optimizer = SGD(
        [p], 0.3, 0.9, weight_decay=0.1, weights=e4m3fn, momenta=momenta, gradients=gradients, update=update,
        rounding="toward-zero",
    )  # fmt: skip
    w, mean = p.detach().clone(), None
    for _ in range(3):
        p.grad = torch.randn_like(p)
        g = round_to(p.grad, gradients.fmt, "nearest-away").add_(w, alpha=0.1)
        mean = round_to(g if mean is None else mean.mul(0.9).add_(g), bf16, "up")
        w = round_to(w - round_to(mean * 0.3, fp16, "down"), e4m3fn, "toward-zero")
        optimizer.step()
        assert torch.equal(p, w)
        assert torch.equal(optimizer.state[p]["momentum_buffer"], mean)


@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_weights_are_always_values_of_their_format(kind: Any, device: str) -> None:
    params = tensors(torch.float32, device)
    for p in params:
        p.copy_(round_to(p, e4m3fn))
    for w in take_steps(kind(params, lr=0.05, weights=e4m3fn), params, steps=3):
        assert torch.equal(round_to(w, e4m3fn), w)


@pytest.mark.parametrize("native", ["1", "0"])
def test_steps_below_the_grid_spacing_survive_stochastic_rounding_alone(
    native: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINSEEK_NATIVE", native)
    ends = {}
    for rounding in ("nearest-even", "stochastic"):
        p = nn.Parameter(torch.ones(20_000, dtype=torch.bfloat16))  # where the spacing below is 2^-8
        optimizer = SGD([p], lr=2.0**-12, rounding=rounding, generator=torch.Generator().manual_seed(0))
        for _ in range(64):
            p.grad = torch.ones_like(p)
            optimizer.step()
        ends[rounding] = p.detach().float()
    assert bool((ends["nearest-even"] == 1).all())
    steps = 64 * 2.0**-12
    error = 5 * math.sqrt(64 * 2.0**-12 * 2.0**-8 / 20_000)
    assert abs(float(ends["stochastic"].mean()) - (1 - steps)) < error


def test_the_absolute_value_of_the_documentation() -> None:
    """f = |w|, spacing 2^-6, lr 2^-8, 256 steps from 1: nearest stays, stochastic comes to about 0.04 in the mean."""
    grid, ends = Fixed(8, 6), {}
    for rounding in ("nearest-even", "stochastic"):
        p = nn.Parameter(torch.ones(4000))
        optimizer = SGD([p], lr=2.0**-8, weights=grid, rounding=rounding, generator=torch.Generator().manual_seed(3))
        for _ in range(256):
            p.grad = p.detach().sign()
            optimizer.step()
        ends[rounding] = float(p.detach().abs().mean())
    assert ends["nearest-even"] == 1.0
    assert 0.02 < ends["stochastic"] < 0.06


# --- PISGD ----------------------------------------------------------------------------------------------------------


@given(st.sampled_from(["ball", "box"]), st.integers(0, 2**62), st.floats(1e-3, 10))
@settings(max_examples=25, deadline=None)
def test_perturbations_stay_within_their_radius(shape: Any, seed: int, radius: float) -> None:
    params = [torch.zeros(5, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64)]
    Perturbation(params, radius, shape, torch.Generator().manual_seed(seed)).apply()
    u = torch.cat([p.view(-1) for p in params])
    size = u.norm() if shape == "ball" else u.abs().max()
    assert 0 < float(size) <= radius * (1 + 1e-12)


@pytest.mark.parametrize(("shape", "variance"), [("ball", 1 / (3 + 2)), ("box", 1 / 3)])
def test_perturbations_are_uniform(shape: Any, variance: float) -> None:
    """Mean, covariance, and the share in the half radius, of draws in three dimensions."""
    generator, draws = torch.Generator().manual_seed(0), []
    for _ in range(4000):
        p = [torch.zeros(2, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)]
        Perturbation(p, 2.0, shape, generator).apply()
        draws.append(torch.cat(p) / 2)
    u = torch.stack(draws)
    assert float(u.mean(0).abs().max()) < 5 * math.sqrt(variance / 4000)
    assert torch.allclose(u.T @ u / 4000, torch.eye(3, dtype=torch.float64) * variance, atol=0.03)
    inner = u.norm(dim=1) if shape == "ball" else u.abs().amax(1)
    assert abs(float((inner < 0.5).double().mean()) - 0.125) < 5 * math.sqrt(0.125 * 0.875 / 4000)


def test_long_tensors_are_perturbed_in_stretches_that_differ() -> None:
    p = torch.zeros(20 * CHUNK + 100)
    Perturbation([p], 1.0, "box", torch.Generator().manual_seed(0)).apply()
    assert not torch.equal(p[:100], p[CHUNK:])
    assert abs(float(p.var()) - 1 / 3) < 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_perturbation_below_half_a_spacing_is_still_one_in_the_mean(dtype: torch.dtype) -> None:
    total, count = torch.zeros(64), 3000
    generator = torch.Generator().manual_seed(5)
    moved = 0.0
    for _ in range(count):
        p = torch.full((64,), 1.25, dtype=dtype)
        Perturbation([p], 2.0**-10, "box", generator).apply()
        moved += float((p.float() - 1.25).abs().mean()) / count
        total += p.float() / count
    assert moved > 2.0**-12
    assert float((total - 1.25).abs().max()) < 6 * math.sqrt(2.0**-10 * 2.0**-7 / count)


def test_a_step_goes_along_the_mean_of_the_perturbed_gradients(device: str) -> None:
    p = nn.Parameter(torch.randn(50, device=device))
    start, points = p.detach().clone(), []
    optimizer = PISGD([p], lr=0.1, radius=0.5, samples=3, generator=torch.Generator().manual_seed(1))

    def closure() -> float:
        points.append(p.detach().clone())
        p.grad = torch.sin(p.detach())
        return float(len(points))

    assert optimizer.step(closure) == 2.0  # the mean of 1, 2, 3
    assert len(points) == 3
    assert all(0 < float((q - start).norm()) <= 0.5 for q in points)
    assert torch.allclose(p, start - 0.1 * torch.stack([torch.sin(q) for q in points]).mean(0), atol=1e-6)


def test_pisgd_without_a_radius_is_sgd() -> None:
    a, b = tensors(torch.bfloat16, shapes=SHAPES[:3]), tensors(torch.bfloat16, shapes=SHAPES[:3])
    ours = PISGD(a, 0.1, 0.9, radius=0.0, generator=torch.Generator().manual_seed(1))
    theirs = SGD(b, 0.1, 0.9, generator=torch.Generator().manual_seed(1))
    for step in range(3):
        for params, optimizer in ((a, ours), (b, theirs)):
            gradients = [torch.randn(p.shape, generator=torch.Generator().manual_seed(step)).bfloat16() for p in params]

            def closure(params: Any = params, gradients: Any = gradients) -> None:
                for p, g in zip(params, gradients, strict=True):
                    p.grad = g.clone()

            optimizer.step(closure)
    assert same([*a], [*b])


@pytest.mark.parametrize(
    ("step_size", "expected"),
    [
        ("constant", [0.5, 0.5, 0.5]),
        ("decaying", [0.5, 0.5 / math.sqrt(2), 0.5 / math.sqrt(3)]),
        ("normalized", [0.5 / 5, 0.5 / 10, 0.5 / 5]),
        ("adagrad-norm", [0.5 / 5, 0.5 / math.sqrt(125), 0.5 / math.sqrt(150)]),
    ],
)
def test_step_sizes(step_size: Any, expected: list[float]) -> None:
    p = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = PISGD([p], lr=0.5, radius=0.0, step_size=step_size)
    for scale, lr in zip((1.0, 2.0, 1.0), expected, strict=True):
        before = p.detach().clone()
        gradient = scale * torch.tensor([3.0, 4.0], dtype=torch.float64)
        optimizer.step(lambda gradient=gradient: setattr(p, "grad", gradient.clone()))
        assert torch.allclose(before - p, lr * gradient, rtol=1e-12)
        assert optimizer.param_groups[0]["lr"] == 0.5


def test_iterates(quadratic: Any) -> None:
    p, closure = quadratic
    optimizer = PISGD([p], 0.1, radius=0.01, keep=("average", "random"), generator=torch.Generator().manual_seed(2))
    seen = []
    for _ in range(20):
        seen.append(p.detach().clone())
        optimizer.step(closure)
    last = p.detach().clone()
    with optimizer.iterate("average"):
        assert torch.allclose(p, torch.stack(seen).mean(0), atol=1e-6)
    with optimizer.iterate("random"):
        assert any(torch.equal(p, w) for w in seen)
    assert torch.equal(p, last)


@pytest.mark.slow
def test_the_random_iterate_is_drawn_uniformly() -> None:
    counts = torch.zeros(4)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2000):
        p = nn.Parameter(torch.zeros(1))
        optimizer = PISGD([p], 1.0, radius=0.0, keep=("random",), generator=generator)
        for _ in range(4):
            optimizer.step(lambda p=p: setattr(p, "grad", torch.full((1,), -1.0)))
        with optimizer.iterate("random"):
            counts[int(p)] += 1
    assert float((counts / 2000 - 0.25).abs().max()) < 5 * math.sqrt(0.25 * 0.75 / 2000)


def test_weights_are_put_back_when_the_closure_fails() -> None:
    p = nn.Parameter(torch.randn(9))
    before = p.detach().clone()

    def closure() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        PISGD([p], radius=1.0).step(closure)
    assert torch.equal(p, before)


def test_perturbation_in_ulps() -> None:
    p, q = nn.Parameter(torch.full((6,), 1.5, dtype=torch.bfloat16)), nn.Parameter(torch.full((8,), 4.0).bfloat16())
    found = PISGD([p, q], radius=4.0, shape="ball").perturbation_in_ulps()
    assert found == pytest.approx([math.log2(1.0 / 2**-7), math.log2(1.0 / 2**-5)])  # 4 / sqrt(14 + 2) an element
    assert PISGD([p], radius=0.0).perturbation_in_ulps() == [-math.inf]


# --- saving, and wrong input ----------------------------------------------------------------------------------------


OPTIMIZERS: list[Callable[[Any, torch.Generator], torch.optim.Optimizer]] = [
    lambda params, g: SGD(params, 0.1, 0.9, generator=g),
    lambda params, g: AdamW(params, 0.1, generator=g),
    lambda params, g: PISGD(
        params, 0.1, 0.9, radius=0.1, samples=2, step_size="adagrad-norm", keep=("average", "random"), generator=g
    ),
]


@pytest.mark.parametrize("make", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_resumed_run_is_the_same_run(make: Any, dtype: torch.dtype, tmp_path: Any) -> None:
    def go(params: Any, optimizer: Any, steps: range) -> None:
        for step in steps:

            def closure(step: int = step) -> float:
                generator = torch.Generator().manual_seed(step)
                for p in params:
                    p.grad = (p.detach() + torch.randn(p.shape, generator=generator)).to(p)
                return 0.0

            optimizer.step(closure)

    whole = tensors(dtype, shapes=SHAPES[:4])
    straight = make(whole, torch.Generator().manual_seed(7))
    go(whole, straight, range(6))
    first = tensors(dtype, shapes=SHAPES[:4])
    before = make(first, torch.Generator().manual_seed(7))
    go(first, before, range(3))
    torch.save({"optimizer": before.state_dict(), "weights": [p.detach() for p in first]}, tmp_path / "saved.pt")
    saved = torch.load(tmp_path / "saved.pt", weights_only=True)
    second = [nn.Parameter(w) for w in saved["weights"]]
    after = make(second, torch.Generator().manual_seed(99))
    after.load_state_dict(copy.deepcopy(saved["optimizer"]))
    go(second, after, range(3, 6))
    assert same([*whole], [*second])
    if isinstance(after, PISGD):
        for which in ("average", "random"):
            with straight.iterate(which), after.iterate(which):
                assert same([*whole], [*second])


def test_what_has_no_gradient_stays_and_numbers_do_not_shift(device: str) -> None:
    """A tensor's random numbers are its own, whichever others took part."""
    alone, among = tensors(torch.bfloat16, device), tensors(torch.bfloat16, device)
    for params, chosen in ((alone, (1,)), (among, (0, 1, 2))):
        optimizer = SGD(params, 0.1, generator=torch.Generator().manual_seed(4))
        for i in chosen:
            params[i].grad = torch.ones_like(params[i])
        optimizer.step()
    assert torch.equal(alone[1], among[1])
    assert torch.equal(alone[2], tensors(torch.bfloat16, device)[2])


def test_schedulers_and_groups_work_as_with_torch() -> None:
    ours, theirs = tensors(torch.float32), tensors(torch.float32)
    ends = []
    for params, kind in ((ours, SGD), (theirs, torch.optim.SGD)):
        groups: Any = [{"params": params[:2]}, {"params": params[2:], "lr": 0.5, "momentum": 0.5}]
        optimizer: Any = kind(groups, lr=0.1)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
        for _ in range(3):
            take_steps(optimizer, params, steps=1)
            scheduler.step()
        ends.append([p.detach() for p in params])
    assert same(*ends)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: SGD([p], lr=-1), "lr must be 0 or more, not -1"),
        (lambda p: SGD([p], lr=math.nan), "lr must be 0 or more, not nan"),
        (lambda p: SGD([p], nesterov=True), "nesterov needs a momentum"),
        (lambda p: SGD([p], rounding="nearest"), "unknown rounding mode 'nearest'"),
        (lambda p: SGD([p], weights="bf16"), "weights takes a Format or a RoundingSpec, not 'bf16'"),
        (lambda p: SGD([p], weights=Float(11, 3)), "torch.float32 does not have all values of e11m3"),
        (lambda p: SGD([nn.Parameter(p.detach().bfloat16())], weights=fp16), "torch.bfloat16 does not have all values"),
        (lambda p: SGD([nn.Parameter(torch.zeros(1, 6).expand(4, 6))]), "share memory: replace it by its clone"),
        (lambda p: SGD([p], lr=torch.ones(2)), "lr must be one number, not a tensor of shape \\(2,\\)"),
        (lambda p: AdamW([p], amsgrad=True), "amsgrad=True is not supported: leave it out"),
        (lambda p: SGD([p], capturable=True), "capturable=True is not supported: leave it out"),
        (lambda p: AdamW([p], betas=(1.0, 0.5)), "betas must be"),
        (lambda p: PISGD([p], radius=-1), "radius must be 0 or more, not -1"),
        (lambda p: PISGD([p], samples=0), "samples must be 1 or more, not 0"),
        (lambda p: PISGD([p], shape="cube"), "unknown shape 'cube': choose ball, box"),
        (lambda p: PISGD([p], step_size="large"), "unknown step_size 'large'"),
        (lambda p: PISGD([p], keep=("first",)), "unknown iterate 'first'"),
        (lambda p: PISGD([p]).step(), "give step\\(\\) a closure"),
        (lambda p: PISGD([p]).iterate("average").__enter__(), "name it in keep"),
        (lambda p: PISGD([p], keep=("average",)).iterate("average").__enter__(), "no step was taken yet"),
        (lambda p: AdamW([p]).load_state_dict(torch.optim.SGD([p]).state_dict()), "its groups lack 'betas'"),
        (lambda p: SGD([p]).load_state_dict(torch.optim.AdamW([p]).state_dict()), "its groups lack 'momentum'"),
    ],
)
def test_wrong_input_is_one_sentence(make: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make(nn.Parameter(torch.zeros(3)))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda p: PISGD([p], samples=1.5), "samples must be an integer, not 1.5"),
        (lambda p: PISGD([p], samples="2"), "samples must be an integer, not '2'"),
        (lambda p: PISGD([p], radius=None), "radius must be a number, not None"),
        (lambda p: SGD([p], lr="0.1"), "lr must be a number, not '0.1'"),
        (lambda p: AdamW([p], eps=True), "eps must be a number, not True"),
    ],
)
def test_a_wrong_type_is_refused_in_one_sentence(make: Any, sentence: str) -> None:
    p = nn.Parameter(torch.zeros(3))
    with pytest.raises(TypeError) as caught:
        make(p)
    assert str(caught.value) == sentence
    SGD([p], lr=torch.tensor(0.1))  # as PyTorch's own takes it
