"""Logits of our forward pass against the unmodified transformers model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import minseek
from minseek.models.forward import decoder as decoder_module
from minseek.models.forward.attention import attend
from minseek.models.forward.chunk import SequenceChunk
from minseek.native import cpu_flags
from minseek.native import forward as native_forward
from minseek.native.isa import NAMES
from tests.helpers.levels import use_level
from tests.helpers.loading import load
from tests.helpers.tiny_models import VARIANTS, make_reference, save


@pytest.mark.slow
@pytest.mark.parametrize("step", ["C", "PyTorch"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_transformers(
    variant: str, step: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_module, "PREFILL_CHUNK", 19)  # a prompt of several chunks
    model = load(save(tmp_path, variant), device, step, monkeypatch)
    reference = make_reference(variant)
    ids = torch.randint(0, 256, (70,), generator=torch.Generator().manual_seed(1)).tolist()
    wanted = reference(torch.tensor([ids])).logits[0]
    session = model.session()
    torch.testing.assert_close(session.forward(ids[:50]).cpu(), wanted[49], atol=2e-4, rtol=2e-4)
    torch.testing.assert_close(session.forward(ids[50:53]).cpu(), wanted[52], atol=2e-4, rtol=2e-4)
    for at in range(53, 70):
        torch.testing.assert_close(session.forward([ids[at]]).cpu(), wanted[at], atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("step", ["C", "PyTorch"])
def test_bfloat16_is_as_close_to_float32_as_transformers_bfloat16(
    step: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, "qwen3")
    monkeypatch.setenv("MINSEEK_NATIVE", "1" if step == "C" else "0")
    model = minseek.load(str(tmp_path), device=device, dtype="bfloat16")
    reference = make_reference("qwen3")
    ids = torch.randint(0, 256, (60,), generator=torch.Generator().manual_seed(1)).tolist()
    # Weights rounded once, then computed exactly, are what any bfloat16 run approximates.
    rounded = reference.to(torch.bfloat16)
    theirs = rounded(torch.tensor([ids])).logits[0].float()
    exact = rounded.float()(torch.tensor([ids])).logits[0]
    session = model.session()
    ours = [session.forward(ids[:1])] + [session.forward([token]) for token in ids[1:]]
    errors = (torch.stack(ours).cpu() - exact).pow(2).mean().sqrt()
    assert errors <= 1.25 * (theirs - exact).pow(2).mean().sqrt()


@pytest.mark.parametrize("variant", ["llama", "qwen3", "qwen2"])
@pytest.mark.parametrize("step", ["C", "PyTorch"])
def test_float32_is_as_close_to_float64_as_transformers_float32(
    step: str, variant: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the width of vectors; a prompt read at once, where a sum is one chain over all features, has more."""
    model, reference = load(save(tmp_path, variant), device, step, monkeypatch), make_reference(variant)
    ids = torch.randint(0, 256, (60,), generator=torch.Generator().manual_seed(1)).tolist()
    theirs = reference(torch.tensor([ids])).logits[0]
    exact = reference.double()(torch.tensor([ids])).logits[0]
    session = model.session()
    one_by_one = torch.stack([session.forward([token]) for token in ids]).cpu()
    plan = minseek.plan(model, kv_budget="10MB", cap=100, block=60, sequences=1)
    (slot,) = model.make_slot_pool(plan.slot, 1).slots
    at_once = model.forward_batch([SequenceChunk(ids, slot, 60)])[0].cpu()
    bound = 1.5 * (theirs - exact).pow(2).mean().sqrt()
    for ours in (one_by_one, at_once):
        assert (ours - exact).pow(2).mean().sqrt() <= bound


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("isa", NAMES)
def test_kernels_for_older_processors_compute_the_same(
    isa: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vectors of 4, 8 and 16 floats, none of which a processor with wider ones would build for itself."""
    use_level(isa, monkeypatch)
    save(tmp_path, "qwen3")
    ids = torch.randint(0, 256, (150,), generator=torch.Generator().manual_seed(1)).tolist()
    model = minseek.load(str(tmp_path), device="cpu", dtype=dtype)
    monkeypatch.delenv("MINSEEK_ISA")
    own = minseek.load(str(tmp_path), device="cpu", dtype=dtype)
    assert model.backend == "C"
    given = []
    for m in (own, model):
        plan = minseek.plan(m, kv_budget="10MB", cap=100, block=60, sequences=1, policy="rank-sum")
        (slot,) = m.make_slot_pool(plan.slot, 1).slots
        logits, hidden = m.forward_batch([SequenceChunk(ids, slot, 150)])
        one, _ = m.forward_batch([SequenceChunk([7], slot, 1)])  # another way through attention
        given.append((logits, hidden, one, slot.layer_groups[0].attn_sum))
    tolerance = 2e-4 if dtype == "float32" else 3e-2
    for mine, theirs in zip(*given, strict=True):
        scale = float(theirs.abs().max())
        assert float((mine - theirs).abs().max()) <= tolerance * scale


@pytest.mark.skipif("avx2" not in cpu_flags(), reason="builds for a processor with AVX2")
def test_rows_are_widened_piece_by_piece_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, "qwen3", intermediate_size=600)  # more than two pieces
    kernels, given = native_forward.KERNELS["bfloat16"], []
    for longest in (4096, 0):
        flags = (*kernels.flags, "-march=x86-64-v3", f"-DPACKED_K={longest}")
        monkeypatch.setitem(native_forward.KERNELS, "bfloat16", replace(kernels, flags=flags))
        model = minseek.load(str(tmp_path), device="cpu", dtype="bfloat16")
        assert model.backend == "C"
        given.append(model.session().forward(list(range(70))))
    assert torch.equal(*given)


def test_the_same_tokens_in_other_chunks_give_the_same_logits(tiny: minseek.Model) -> None:
    ids = list(range(40, 80))
    whole = tiny.session().forward(ids)
    session = tiny.session()
    for token in ids:
        logits = session.forward([token])
    torch.testing.assert_close(logits, whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_the_number_of_threads_changes_nothing_but_rounding(tiny: minseek.Model, threads: int) -> None:
    from minseek.models.forward.cpu_backend import NativeForward
    from minseek.native import native_status

    library = native_status(torch.float32).library
    assert library is not None
    session = tiny.session()
    wanted = [session.forward([token]) for token in range(40, 80)]
    native, cache = NativeForward(library, tiny.weights, threads), tiny.session()._cache
    got = [native.step(token, cache, logits=True) for token in range(40, 80)]
    torch.testing.assert_close(torch.stack(got), torch.stack(wanted), atol=1e-4, rtol=1e-4)
    at_once, _ = native.forward([SequenceChunk(range(40, 80), tiny.session()._cache)], range(40), ())
    torch.testing.assert_close(at_once, torch.stack(wanted), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("window", [None, 1, 5, 64])
@pytest.mark.parametrize(("count", "total"), [(1, 1), (1, 9), (4, 4), (4, 9), (9, 9)])
def test_attention_equals_its_definition(count: int, total: int, window: int | None) -> None:
    torch.manual_seed(0)
    q, keys, values = torch.randn(6, count, 16), torch.randn(2, total, 16), torch.randn(2, total, 16)
    wanted = torch.zeros_like(q)
    for head in range(6):
        for row in range(count):
            at = total - count + row
            first = 0 if window is None else max(0, at + 1 - window)
            scores = keys[head // 3, first : at + 1] @ q[head, row] / 4
            wanted[head, row] = scores.softmax(0) @ values[head // 3, first : at + 1]
    torch.testing.assert_close(attend(q, keys, values, scale=0.25, window=window), wanted)


def test_a_forward_pass_needs_tokens(tiny: minseek.Model) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        tiny.session().forward([])
