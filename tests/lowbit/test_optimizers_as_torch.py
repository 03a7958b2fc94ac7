"""The uses that torch.optim allows: every layout, copies, learning rates in tensors, groups added later, its states."""

from __future__ import annotations

import copy
import io
import pickle
import socket
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from minseek.errors import InputError
from minseek.lowbit.optim import PISGD, SGD, AdamW

DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
KINDS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda params, **options: SGD(params, **{"lr": 0.1, **options}),
    "momentum": lambda params, **options: SGD(params, **{"lr": 0.1, **options}, momentum=0.9, nesterov=True),
    "adamw": lambda params, **options: AdamW(params, **{"lr": 0.1, **options}),
    "pisgd": lambda params, **options: PISGD(params, **{"lr": 0.1, **options}, radius=0.1, samples=2),
}
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
    "channels_last": lambda t: t.to(memory_format=torch.channels_last),
    "with gaps": lambda t: torch.stack((t, t), dim=-1)[..., 0],
    "view": lambda t: torch.cat((t, t))[t.shape[0] :],
}


def weights(dtype: torch.dtype = torch.float32, count: int = 1) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(3)
    return [nn.Parameter(torch.randn(6, 5, 3, 7, generator=generator).to(dtype)) for _ in range(count)]


def go(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], steps: int = 3, first: int = 0) -> list[Tensor]:
    """Take steps with gradients in the layout of the parameters."""
    for step in range(first, first + steps):

        def closure(step: int = step) -> float:
            generator = torch.Generator().manual_seed(step)
            for p in params:
                p.grad = torch.empty_like(p).copy_(p.detach() + torch.randn(p.shape, generator=generator))
            return 1.5

        assert optimizer.step(closure) == 1.5
    return [p.detach().clone(memory_format=torch.contiguous_format) for p in params]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(11)


# --- layouts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changed", ["before", "between"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_layout_has_the_weights_of_contiguous_tensors(
    kind: str, dtype: torch.dtype, layout: str, changed: str
) -> None:
    """Changed before the optimizer is made, or between two steps as `module.to(memory_format=…)` does."""
    plain, other = weights(dtype), weights(dtype)
    if changed == "before":
        other = [nn.Parameter(LAYOUTS[layout](p.detach())) for p in other]
    ours, theirs = KINDS[kind](other, generator=generator()), KINDS[kind](plain, generator=generator())
    go(ours, other, steps=1)
    go(theirs, plain, steps=1)
    if changed == "between":
        for p in other:
            p.data = LAYOUTS[layout](p.data)
    tolerance = {"rtol": 1e-6, "atol": 1e-6} if dtype in (torch.float32, torch.float64) else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(go(ours, other, first=1), go(theirs, plain, first=1), **tolerance)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (SGD, torch.optim.SGD),
        (lambda params, **o: SGD(params, momentum=0.9, **o), lambda params, **o: torch.optim.SGD(params, 0.1, 0.9)),
        (AdamW, torch.optim.AdamW),
        (
            lambda params, **o: AdamW(params, maximize=True, **o),
            lambda params, **o: torch.optim.AdamW(params, maximize=True, **o),
        ),
    ],
)
def test_float32_of_every_layout_is_torchs(layout: str, ours: Any, theirs: Any) -> None:
    a, b = ([nn.Parameter(LAYOUTS[layout](p.detach())) for p in weights(count=2)] for _ in range(2))
    assert all(map(torch.equal, go(ours(a, lr=0.1), a), go(theirs(b, lr=0.1), b)))


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["sgd", "momentum", "adamw"])
def test_bfloat16_of_every_layout_is_near_torch_in_float32(kind: str, layout: str, maximize: bool) -> None:
    ours = [nn.Parameter(LAYOUTS[layout](p.detach())) for p in weights(torch.bfloat16)]
    theirs = [nn.Parameter(p.detach().float()) for p in ours]
    torchs: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "sgd": lambda: torch.optim.SGD(theirs, 0.1, maximize=maximize),
        "momentum": lambda: torch.optim.SGD(theirs, 0.1, 0.9, nesterov=True, maximize=maximize),
        "adamw": lambda: torch.optim.AdamW(theirs, 0.1, maximize=maximize),
    }
    got = go(KINDS[kind](ours, rounding="nearest-even", maximize=maximize), ours, steps=2)
    torch.testing.assert_close([g.float() for g in got], go(torchs[kind](), theirs, steps=2), rtol=2**-6, atol=2**-6)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_another_layout(kind: str) -> None:
    for dtype in DTYPES:
        a, b = weights(dtype), weights(dtype)
        for params, expanded in ((a, True), (b, False)):
            optimizer = KINDS[kind](params, generator=generator())

            def closure(p: Any = params[0], expanded: bool = expanded) -> float:
                p.grad = torch.ones(1, dtype=p.dtype).expand(p.shape) if expanded else torch.ones_like(p)
                return 0.0

            optimizer.step(closure)
        assert torch.equal(a[0], b[0])


def test_parameters_without_elements() -> None:
    for kind in KINDS.values():
        params = [nn.Parameter(torch.zeros(0, 3, dtype=torch.bfloat16))]
        go(kind(params), params, steps=2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_resized_parameter_is_refused(kind: str, dtype: torch.dtype) -> None:
    params = [nn.Parameter(torch.ones(8, dtype=dtype))]
    optimizer = KINDS[kind](params)
    go(optimizer, params, steps=1)
    params[0].data = torch.ones(4096, dtype=dtype)
    if kind in ("sgd", "pisgd"):  # without state, the size may change
        go(optimizer, params, steps=1)
    else:
        with pytest.raises(InputError, match=r"has the shape \(8,\) and the parameter \(4096,\)"):
            go(optimizer, params, steps=1)


# --- copies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [*KINDS, "kept"])
def test_a_copy_continues_as_the_original_does(kind: str, dtype: torch.dtype, how: Any) -> None:
    params = weights(dtype, 2)
    if kind == "kept":
        optimizer: Any = PISGD(params, 0.1, radius=0.1, step_size="adagrad-norm", keep=("average", "random"))
    else:
        optimizer = KINDS[kind](params)
    go(optimizer, params)
    copied_params, copied = how((params, optimizer))
    assert all(map(torch.equal, go(optimizer, params), go(copied, copied_params)))
    if kind == "kept":
        with optimizer.iterate("average"), copied.iterate("average"):
            assert all(map(torch.equal, params, copied_params))


# --- learning rates, flags and groups -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_tensor_as_learning_rate_is_its_number(kind: str, dtype: torch.dtype) -> None:
    a, b, lr = weights(dtype), weights(dtype), torch.tensor(0.125, dtype=torch.float64)
    got = go(KINDS[kind](a, lr=lr, generator=generator()), a)
    expected = go(KINDS[kind](b, lr=0.125, generator=generator()), b)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    assert lr == 0.125


@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_a_tensor_as_learning_rate_follows_a_scheduler_as_torchs_does(kind: Any) -> None:
    ends = []
    for make in (kind, getattr(torch.optim, kind.__name__)):
        params = weights()
        optimizer = make(params, lr=torch.tensor(0.1))
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        for step in range(3):
            go(optimizer, params, steps=1, first=step)
            scheduler.step()
        ends.append(params[0])
    assert torch.equal(*ends)


def test_a_decaying_step_size_leaves_the_tensor_unchanged() -> None:
    a, b, lr = weights(), weights(), torch.tensor(0.1)
    options: Any = {"radius": 0.0, "step_size": "decaying"}
    got, expected = go(PISGD(a, lr, **options), a), go(PISGD(b, 0.1, **options), b)
    torch.testing.assert_close(got, expected)
    assert lr == torch.tensor(0.1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_flags_that_choose_an_implementation_change_nothing(kind: str, dtype: torch.dtype) -> None:
    ends = []
    for flags in ({}, {"foreach": True}, {"fused": True, "capturable": False, "differentiable": False}):
        params = weights(dtype)
        ends.append(go(KINDS[kind](params, generator=generator(), **flags), params)[0])
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])
    with pytest.raises(TypeError, match="unexpected keyword argument 'fussed'"):
        KINDS[kind](weights(dtype), fussed=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_group_added_later_is_trained(kind: str, dtype: torch.dtype) -> None:
    params = weights(dtype, 2)
    optimizer = KINDS[kind](params[:1])
    go(optimizer, params[:1], steps=1)
    optimizer.add_param_group({"params": params[1:], "lr": 0.05})
    before = params[1].detach().clone()
    go(optimizer, params, steps=1, first=1)
    assert not torch.equal(params[1], before)


def test_float32_groups_added_later_are_torchs() -> None:
    for ours, theirs in ((SGD, torch.optim.SGD), (AdamW, torch.optim.AdamW)):
        ends = []
        for kind in (ours, theirs):
            params = weights(count=2)
            optimizer: Any = kind(params[:1], lr=0.1)
            go(optimizer, params[:1], steps=2)
            optimizer.add_param_group({"params": params[1:], "lr": 0.05})
            ends.append(go(optimizer, params, first=2))
        assert all(map(torch.equal, *ends))


def test_parameters_added_later_count_in_the_average_as_frozen_before() -> None:
    params = weights(count=2)
    optimizer: Any = PISGD(params[:1], 0.1, radius=0.01, keep=("average", "random"))
    seen = []
    for step in range(6):
        if step == 3:
            optimizer.add_param_group({"params": params[1:]})
        seen.append([p.detach().clone() for p in params])
        go(optimizer, params[: 1 if step < 3 else 2], steps=1, first=step)
    with optimizer.iterate("average"):
        for index, p in enumerate(params):
            torch.testing.assert_close(p.detach(), torch.stack([s[index] for s in seen]).mean(0))
    with optimizer.iterate("random"):
        assert any(all(map(torch.equal, params, s)) for s in seen)


def test_a_refused_group_leaves_the_optimizer_as_it_was() -> None:
    params = weights()
    optimizer = SGD(params, 0.1)
    with pytest.raises(InputError, match="share memory"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1, 3).expand(2, 3))]})
    assert len(optimizer.param_groups) == 1
    go(optimizer, params)


# --- states ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("taken", [0, 3])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_without_a_given_generator_is_resumed_exactly(kind: str, dtype: torch.dtype, taken: int) -> None:
    params = weights(dtype)
    optimizer = KINDS[kind](params)
    go(optimizer, params, steps=taken)
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "weights": params[0].detach()}, file)
    go(optimizer, params, first=taken)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    torch.rand(5)  # another process has another state of the global generator
    resumed = [nn.Parameter(saved["weights"])]
    other = KINDS[kind](resumed)
    other.load_state_dict(saved["optimizer"])
    go(other, resumed, first=taken)
    assert torch.equal(params[0], resumed[0])


def test_the_global_generator_determines_rounding_by_default() -> None:
    ends = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        params = weights(torch.bfloat16)
        ends.append(go(SGD(params, 0.1), params)[0])
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


@pytest.mark.parametrize("flags", [{}, {"foreach": True}, {"fused": True}])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda p: SGD(p, 0.3), lambda p, **f: torch.optim.SGD(p, 0.1, **f)),
        (lambda p: SGD(p, 0.3), lambda p, **f: torch.optim.SGD(p, 0.1, 0.9, **f)),
        (AdamW, lambda p, **f: torch.optim.AdamW(p, 0.1, **f)),
    ],
)
def test_states_of_torch_load(ours: Any, theirs: Any, flags: dict[str, bool]) -> None:
    params = weights(count=2)
    optimizer = theirs(params, **flags)
    go(optimizer, params)
    own = copy.deepcopy(params)
    loaded = ours(own)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    torch.testing.assert_close(go(loaded, own, first=3), go(optimizer, params, first=3), rtol=1e-6, atol=1e-6)


def test_states_of_other_optimizers_and_shapes_are_refused() -> None:
    params = weights()
    amsgrad = torch.optim.AdamW(params, amsgrad=True)
    go(amsgrad, params, steps=1)
    with pytest.raises(InputError, match="'max_exp_avg_sq' of a parameter is unknown"):
        AdamW(params).load_state_dict(amsgrad.state_dict())
    small = [nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))]
    optimizer = SGD(small, 0.1, 0.9)
    go(optimizer, small, steps=1)
    large = [nn.Parameter(torch.zeros(3000, dtype=torch.bfloat16))]
    with pytest.raises(InputError, match=r"the saved momentum_buffer of a parameter has the shape \(3,\)"):
        SGD(large, 0.1, 0.9).load_state_dict(optimizer.state_dict())


# --- distributed training -------------------------------------------------------------------------------------------


def _rank(rank: int, port: int, ends: Any) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.manual_seed(5 + rank)  # the usual seeds
    for kind in KINDS:
        model = nn.Linear(40, 40).bfloat16()
        parallel = nn.parallel.DistributedDataParallel(model)
        optimizer = KINDS[kind](model.parameters())

        def closure(parallel: Any = parallel) -> Tensor:
            parallel.zero_grad()
            loss: Tensor = parallel(torch.randn(8, 40).bfloat16()).square().mean()
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)
        ends[rank, kind] = [p.detach().view(torch.int16).tolist() for p in model.parameters()]
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_ranks_with_seeds_of_their_own_keep_equal_weights() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with torch.multiprocessing.Manager() as manager:
        ends = manager.dict()
        torch.multiprocessing.spawn(_rank, (port, ends), nprocs=2)
        for kind in KINDS:
            assert ends[0, kind] == ends[1, kind]
