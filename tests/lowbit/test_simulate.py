"""Simulated arithmetic against exact fractions, hand-rounded modules and scalar loops."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from minseek.errors import InputError
from minseek.lowbit import Float, RoundingSpec, bf16, e4m3fn, e5m2, fp16, fp32, round_to
from minseek.lowbit.accumulate import accumulating
from minseek.lowbit.simulate import simulate
from tests.helpers.random_tensors import normal, seeded
from tests.helpers.tiny_models import make_reference

NEAREST = "nearest-even"

ALL: dict[str, Any] = {"weights": e4m3fn, "activations": e5m2, "gradients": e5m2, "accumulations": bf16}


@pytest.fixture(autouse=True)
def with_gradients() -> Iterator[None]:
    with torch.enable_grad():
        yield


# --- weights, activations, gradients ----------------------------------------------------------------------------------


class Block(nn.Module):
    """A residual block with tied weights, a dictionary going in and a tuple coming out."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 4, bias=False)
        self.down.weight = self.up.weight
        self.scale = nn.Parameter(torch.tensor([0.7, 1.1, -0.3, 0.9]))
        self.register_buffer("count", torch.arange(4))

    def forward(self, x: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        hidden = self.down(self.act(self.up(x["x"])))
        return (hidden + x["x"]) * self.scale, self.count


class Around(nn.Module):
    """A module whose only part may be recomputed in the backward pass."""

    def __init__(self, part: nn.Module, checkpointed: bool) -> None:
        super().__init__()
        self.part, self.checkpointed = part, checkpointed

    def forward(self, x: Tensor) -> Tensor:
        if self.checkpointed:
            return checkpoint(self.part, {"x": x}, use_reentrant=False)[0]
        return self.part({"x": x})[0]


def loss_of(block: nn.Module, x: Tensor) -> Tensor:
    return (block({"x": x})[0] * normal(3, 4, seed=9)).sum()


def grads_of(block: nn.Module) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in block.parameters()]


@pytest.fixture
def block() -> Block:
    torch.manual_seed(5)
    return Block()


def test_none_everywhere_changes_nothing(block: Block) -> None:
    x = normal(3, 4)
    loss_of(block, x).backward()
    expected = grads_of(block)
    block.zero_grad()
    state = torch.get_rng_state()
    with simulate(block):
        assert not any(part._forward_hooks or part._forward_pre_hooks for part in block.modules())
        loss = loss_of(block, x)
        loss.backward()
    assert torch.equal(loss, loss_of(block, x))
    assert all(torch.equal(*pair) for pair in zip(grads_of(block), expected, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_formats_as_wide_as_the_dtype_change_nothing(block: Block) -> None:
    x = normal(3, 4)
    loss_of(block, x).backward()
    expected = grads_of(block)
    block.zero_grad()
    with simulate(block, weights=fp32, activations=fp32, gradients=fp32):
        loss_of(block, x).backward()
    assert all(torch.equal(*pair) for pair in zip(grads_of(block), expected, strict=True))


def test_weights_are_seen_rounded_and_kept(block: Block) -> None:
    x, before = normal(3, 4), copy.deepcopy(block)
    by_hand = copy.deepcopy(block)
    for parameter in by_hand.parameters():
        parameter.data = round_to(parameter.data, e5m2)
    loss_of(by_hand, x).backward()
    parameters = dict(block.named_parameters())
    with simulate(block, weights=e5m2):
        loss = loss_of(block, x)
        assert dict(block.named_parameters()) == parameters  # between two calls they are there
        loss.backward()
    assert torch.equal(loss, loss_of(by_hand, x))
    assert all(torch.equal(*pair) for pair in zip(grads_of(block), grads_of(by_hand), strict=True))
    assert_same_module(block, before)
    assert block.up.weight is block.down.weight
    assert all(block.get_parameter(name) is parameter for name, parameter in parameters.items())


def assert_same_module(module: nn.Module, before: nn.Module) -> None:
    """Equal numbers, bit for bit, and no hook left."""
    state, expected = module.state_dict(), before.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)
    for part in module.modules():
        hooks = (part._forward_hooks, part._forward_pre_hooks, part._forward_hooks_always_called)
        assert not any(hooks), part
        assert all(type(parameter) in (nn.Parameter, type(None)) for parameter in part._parameters.values())
    for parameter in module.parameters():
        assert not parameter._post_accumulate_grad_hooks


def test_an_optimizer_goes_on_in_the_block(block: Block) -> None:
    x, by_hand = normal(3, 4), copy.deepcopy(block)
    masters = [parameter.detach().clone() for parameter in by_hand.parameters()]
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    with simulate(block, weights=e4m3fn):
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(block, x).backward()
            optimizer.step()
    for _ in range(3):
        for parameter, master in zip(by_hand.parameters(), masters, strict=True):
            parameter.data, parameter.grad = round_to(master, e4m3fn), None
        loss_of(by_hand, x).backward()
        for parameter, master in zip(by_hand.parameters(), masters, strict=True):
            master.add_(parameter.grad, alpha=-0.1)
    for parameter, master in zip(block.parameters(), masters, strict=True):
        assert torch.equal(parameter, master)


def test_parts_can_be_called_by_themselves(block: Block) -> None:
    x = normal(3, 4)
    with simulate(block, weights=e5m2):
        got = block.up(x)
        assert block.up.weight is block.down.weight
    assert torch.equal(got, F.linear(x, round_to(block.up.weight, e5m2), round_to(block.up.bias, e5m2)))


def test_activations_and_gradients_by_hand(block: Block) -> None:
    x, upstream = normal(3, 4).requires_grad_(), normal(3, 4, seed=9)
    w, bias, scale = block.up.weight.detach(), block.up.bias.detach(), block.scale.detach()

    def a(t: Tensor) -> Tensor:
        return round_to(t, e4m3fn)

    def g(t: Tensor) -> Tensor:
        return round_to(t, e5m2, "down")

    x0 = a(x)
    h1 = a(F.linear(x0, w, bias))
    h2 = a(h1.relu())
    h3 = a(F.linear(h2, w))
    d_out = upstream * scale
    d3 = g(d_out)
    d2 = g(d3 @ w)
    d1 = g(d2 * (h1 > 0))
    d0 = g(d1 @ w + d_out)
    with simulate(block, activations=e4m3fn, gradients=RoundingSpec(e5m2, "down")):
        out, count = block({"x": x})
        (out * upstream).sum().backward()
    assert torch.equal(out, (h3 + x0) * scale)
    assert torch.equal(count, torch.arange(4))
    assert torch.equal(x.grad, d0)
    assert torch.equal(block.scale.grad, g((upstream * (h3 + x0)).sum(0)))
    assert torch.equal(block.up.bias.grad, g(d1.sum(0)))
    torch.testing.assert_close(block.up.weight.grad, g(d3.T @ h2 + d1.T @ x0))


def test_grad_is_rounded_each_time_it_is_added_to() -> None:
    layer = nn.Linear(1, 1, bias=False)
    with simulate(layer, gradients=bf16):
        for _ in range(300):
            layer(torch.ones(1, 1)).sum().backward()
    assert float(layer.weight.grad) == 256


def test_stochastic_activations_have_the_right_mean_and_a_straight_gradient() -> None:
    x = torch.full((20000,), 1 + 1 / 16).requires_grad_()
    identity = nn.Identity()
    with simulate(identity, activations=RoundingSpec(e5m2), generator=seeded()):
        out = identity(x)
    out.sum().backward()
    assert set(out.tolist()) == {1.0, 1.25}
    assert abs(float(out.detach().mean()) - 1.0625) < 4 * 0.25 * math.sqrt(0.25 * 0.75 / 20000)
    assert torch.equal(x.grad, torch.ones_like(x))


@pytest.mark.slow
@pytest.mark.parametrize("rounding", [NEAREST, "stochastic"])
def test_straight_through_passes_gradcheck(rounding: Any) -> None:
    # Rounded by 2^-50 the numbers are as good as unrounded, and the numerical derivative is that of the identity.
    fine, layer = Float(11, 50), nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x = normal(2, 3, dtype=torch.float64).requires_grad_()
    with simulate(layer, weights=fine, activations=fine, gradients=fine, accumulations=fine, rounding=rounding):
        assert torch.autograd.gradcheck(layer, (x,), nondet_tol=1e-9)
        assert torch.autograd.gradgradcheck(layer, (x,), nondet_tol=1e-9)


def test_the_same_seed_gives_the_same_run(block: Block) -> None:
    def run(seed: int) -> list[Tensor]:
        copied = copy.deepcopy(block)
        g = seeded(seed)
        formats = {"weights": e4m3fn, "activations": e4m3fn, "gradients": e5m2, "accumulations": fp16}
        with simulate(copied, **formats, rounding="stochastic", generator=g):
            for _ in range(2):
                loss_of(copied, normal(3, 4)).backward()
        return grads_of(copied)

    first, again, other = run(0), run(0), run(1)
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert not all(torch.equal(*pair) for pair in zip(first, other, strict=True))
    state = torch.get_rng_state()
    run(0)
    assert torch.equal(torch.get_rng_state(), state)


def test_all_formats_on_a_device_give_what_they_give_on_the_cpu(block: Block, device: str) -> None:
    def run(module: nn.Module, where: str) -> list[Tensor]:
        with simulate(module, **ALL, rounding="stochastic", generator=seeded()):
            (module({"x": normal(3, 4).to(where)})[0] * normal(3, 4, seed=9).to(where)).sum().backward()
        return [grad.cpu() for grad in grads_of(module)]

    got, expected = run(copy.deepcopy(block).to(device), device), run(block, "cpu")
    assert all(torch.equal(*pair) for pair in zip(got, expected, strict=True))


def test_checkpointed_parts_are_simulated_again(block: Block) -> None:
    def run(module: nn.Module, checkpointed: bool) -> list[Tensor]:
        outer = Around(module, checkpointed)
        with simulate(outer, **ALL):
            outer(normal(3, 4)).sum().backward()
        return grads_of(module)

    got, expected = run(copy.deepcopy(block), True), run(block, False)
    assert all(torch.equal(*pair) for pair in zip(got, expected, strict=True))


def test_weights_are_drawn_again_by_each_call() -> None:
    layer = nn.Linear(64, 64)
    with simulate(layer, weights=RoundingSpec(e5m2), generator=seeded()):
        assert not torch.equal(layer(torch.ones(64)), layer(torch.ones(64)))


# --- ends and refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["block", "forward", "hook", "backward", "interrupt"])
def test_all_is_as_it_was_after_an_exception(block: Block, where: str) -> None:
    x, before, expected = normal(3, 4), copy.deepcopy(block), loss_of(block, normal(3, 4))

    error = {"forward": RuntimeError, "interrupt": KeyboardInterrupt}.get(where, KeyError)

    def fail(*_: Any) -> None:
        raise error(where)

    handle = block.act.register_forward_pre_hook(fail) if where in ("hook", "interrupt") else None

    def run() -> None:
        with simulate(block, **ALL):
            if where == "block":
                fail()
            loss = loss_of(block, x[:, :3] if where == "forward" else x)
            loss.register_hook(fail)
            loss.backward()

    with pytest.raises(error):
        run()
    if handle is not None:
        handle.remove()
    assert_same_module(block, before)
    assert torch.equal(loss_of(block, x), expected)
    with simulate(block, **ALL):  # and nothing says that it is still going on
        assert not torch.equal(loss_of(block, x), expected)


def test_a_call_that_failed_leaves_the_parameters(block: Block) -> None:
    x = normal(3, 4)
    with simulate(block, **ALL):
        expected = loss_of(block, x)
        with pytest.raises(RuntimeError):
            loss_of(block, x[:, :3])
        assert isinstance(block.up.weight, nn.Parameter)
        block.scale.data *= 0
        assert loss_of(block, x).item() == 0 != expected.item()  # rounded again


def test_a_part_that_fails_before_it_begins_ends_nothing() -> None:
    class Patient(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            with contextlib.suppress(KeyError):
                self.part(x)
            return self.part.weight * x

    def fail(module: nn.Module, args: Any) -> None:
        if isinstance(module, nn.Linear):
            raise KeyError

    patient = Patient()
    handle = nn.modules.module.register_module_forward_pre_hook(fail)  # comes before all hooks of a module
    try:
        with simulate(patient, weights=e5m2):
            assert torch.equal(patient(torch.ones(2)), round_to(patient.part.weight, e5m2))
    finally:
        handle.remove()


def test_attention_kernels_and_modes_are_given_back() -> None:
    flags = (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled())
    with simulate(nn.Linear(2, 2), accumulations=e4m3fn):
        assert not torch.backends.cuda.flash_sdp_enabled()
    assert flags == (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled())
    ones = torch.ones(100)
    assert float(ones @ ones) == 100


def test_nesting_on_the_same_module_is_refused(block: Block) -> None:
    with simulate(block, weights=e5m2):
        for part in (block, block.up, nn.Sequential(block)):
            with pytest.raises(InputError, match="simulated already"), simulate(part):
                pass
        other = nn.Linear(4, 4)
        with simulate(other, weights=e4m3fn, accumulations=bf16):
            with pytest.raises(InputError, match="accumulations already"), simulate(nn.ReLU(), accumulations=bf16):
                pass
            got, hidden = other(normal(3, 4)), block.up(normal(3, 4))
    with accumulating(RoundingSpec(bf16, NEAREST)):
        x = normal(3, 4)
        assert torch.equal(got, F.linear(x, round_to(other.weight, e4m3fn), round_to(other.bias, e4m3fn)))
        assert torch.equal(hidden, F.linear(x, round_to(block.up.weight, e5m2), round_to(block.up.bias, e5m2)))
    with simulate(block.up, weights=e5m2):
        pass


@pytest.mark.parametrize(
    "formats", [{"gradients": e5m2}, {"accumulations": bf16}, {"weights": bf16, "gradients": e5m2}]
)
def test_a_late_backward_pass_is_refused(block: Block, formats: dict[str, Any]) -> None:
    with simulate(block, **formats):
        loss = loss_of(block, normal(3, 4))
    with pytest.raises(InputError, match="call it in the block"):
        loss.backward()


def test_a_late_backward_pass_without_roundings_is_fine(block: Block) -> None:
    x = normal(3, 4)
    with simulate(block, weights=e5m2, activations=e4m3fn):
        late = loss_of(block, x)
        loss_of(block, x).backward()
    expected = grads_of(block)
    block.zero_grad()
    late.backward()
    assert all(torch.equal(*pair) for pair in zip(grads_of(block), expected, strict=True))


@pytest.mark.parametrize(
    ("formats", "words"),
    [
        ({"weights": "bf16"}, "neither a Format nor a RoundingSpec"),
        ({"weights": bf16, "rounding": "sideways"}, "unknown rounding mode"),
        ({"gradients": RoundingSpec(bf16, "up", random_bits=8)}, "random_bits has no effect"),
        ({"accumulate_every": 4}, "no effect without accumulations"),
        ({"accumulations": bf16, "accumulate_every": 0}, "1 or more, not 0"),
        ({"weights": Float(11, 20)}, "does not have all values"),
        ({"gradients": Float(11, 20)}, "does not have all values"),
        ({"accumulations": Float(11, 52)}, "too fine"),
    ],
)
def test_wrong_arguments_are_refused_and_nothing_is_touched(block: Block, formats: Any, words: str) -> None:
    before = copy.deepcopy(block)
    with pytest.raises(InputError, match=words), simulate(block, **formats):
        pytest.fail("the block must not begin")
    assert_same_module(block, before)
    with simulate(block):
        pass


def test_activations_must_fit_their_dtype(block: Block) -> None:
    block.to(torch.bfloat16)
    with (
        simulate(block, activations=fp16),
        pytest.raises(InputError, match="bfloat16 does not have all values of fp16"),
    ):
        block({"x": torch.ones(3, 4, dtype=torch.bfloat16)})
    with simulate(block, activations=fp16, weights=e5m2), pytest.raises(InputError, match="does not have all values"):
        block({"x": torch.ones(3, 4, dtype=torch.bfloat16)})
    assert isinstance(block.up.weight, nn.Parameter)


def test_recurrent_layers_and_sparse_gradients_are_refused() -> None:
    with pytest.raises(InputError, match="use LSTMCell in a loop"), simulate(nn.LSTM(2, 2), weights=bf16):
        pass
    cell = nn.LSTMCell(2, 2)
    with simulate(cell, **ALL):
        cell(torch.ones(1, 2))[0].sum().backward()
    table = nn.Embedding(4, 2, sparse=True)
    with simulate(table, gradients=bf16), pytest.raises(InputError, match="sparse gradient"):
        table(torch.tensor([1])).sum().backward()


@pytest.mark.parametrize("variant", ["llama-tied", "qwen3"])
def test_a_language_model_runs_and_learns(variant: str) -> None:
    with torch.no_grad():
        model = make_reference(variant)
    tokens = torch.randint(0, 250, (2, 12), generator=seeded())
    plain = model(tokens, labels=tokens).loss
    before = copy.deepcopy(model)
    with simulate(model, weights=bf16, activations=bf16, gradients=bf16, accumulations=fp32, accumulate_every=16):
        loss = model(tokens, labels=tokens).loss
        loss.backward()
    assert 0 < abs(loss.item() - plain.item()) < 0.05 * plain.item()
    assert_same_module(model, before)
    for parameter in model.parameters():
        assert torch.equal(round_to(parameter.grad, bf16), parameter.grad)
    plain.backward()  # adds its gradient, which is nearly the same
    rough = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    model.zero_grad()
    model(tokens, labels=tokens).loss.backward()
    exact = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    assert float((rough - 2 * exact).norm() / exact.norm()) < 0.1
