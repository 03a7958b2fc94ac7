"""Induction layers: scores against the attention of unmodified transformers, and their caps in plans."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import minseek
from minseek.cache.policies import NovelValues, RankSum
from minseek.models import induction as induction_module
from minseek.models.forward.decoder import Decoder
from minseek.models.induction import find_induction_layers, induction_scores
from minseek.models.loading.aliases import alias_file
from minseek.models.model import Model
from tests.helpers.loading import load
from tests.helpers.tiny_models import VARIANTS, make_reference, save


@pytest.mark.parametrize("variant", VARIANTS)
def test_scores_equal_those_of_transformers_attention(variant: str, device: str, tmp_path: Path) -> None:
    model = minseek.load(str(save(tmp_path, variant)), device=device, dtype="float32")
    reference = make_reference(variant).eval()
    reference.set_attn_implementation("eager")
    once = torch.randperm(272, generator=torch.Generator().manual_seed(0))[:128]
    given = reference(torch.cat((once, once))[None], output_attentions=True).attentions
    wanted = [layer[0, :, range(192, 256), range(65, 129)].mean(1).max() for layer in given]
    got = induction_scores(Decoder(model.weights))
    torch.testing.assert_close(torch.tensor(got), torch.stack(wanted), atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("context", [5, 100])
def test_a_short_context_and_a_small_vocabulary_are_enough(context: int, tmp_path: Path) -> None:
    model = minseek.load(str(save(tmp_path, "llama", max_position_embeddings=context)), dtype="float32")
    assert all(0 <= share <= 1 for share in induction_scores(Decoder(model.weights)))


@pytest.mark.smollm2
def test_few_layers_of_the_embedded_model_are_induction_layers() -> None:
    """Those give a head's attention to it, all others little: a third lies between."""
    if alias_file("smollm2") is None:
        pytest.skip("smollm2 is not here: minseek models --get smollm2")
    smollm2 = minseek.load("smollm2", device="cpu")
    shares = induction_scores(Decoder(smollm2.weights))
    assert smollm2.induction_layers == tuple(i for i, share in enumerate(shares) if share > 0.4)
    assert 0 < len(smollm2.induction_layers) <= 5
    assert all(share > 0.4 or share < 0.27 for share in shares)


@pytest.mark.parametrize(
    ("shares", "chosen"),
    [
        ([0.1] * 12, ()),
        ([0.1] * 10 + [0.34, 0.9], (10, 11)),
        ([0.5, 0.9, 0.6, 0.34] + [0.1] * 8, (1, 2)),  # a sixth of the layers, those that copy most
        ([0.9, 0.9], ()),
    ],
)
def test_the_strongest_layers_are_chosen(
    shares: list[float], chosen: tuple[int, ...], tiny: minseek.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(induction_module, "induction_scores", lambda decoder: shares)
    assert find_induction_layers(Decoder(tiny.weights)) == chosen


# Plans


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second layer of three copies, whatever the weights say."""
    monkeypatch.setattr(Model, "induction_layers", property(lambda self: (1,)))  # even if measured before


def test_induction_layers_get_more_of_the_same_bytes(tiny: minseek.Model, copies: None) -> None:
    plan = minseek.plan(tiny, kv_budget="10MB", cap=100, block=20)
    uniform = minseek.plan(tiny, kv_budget="10MB", cap=100, block=20, policy=NovelValues(induction_cap_factor=1))
    assert plan.slot.caps == (50, 200, 50)  # more would leave less than half of the mean to the others
    assert plan.as_dict()["caps"] == [50, 200, 50]
    assert (plan.slots, plan.slot.nbytes, plan.kv_bytes) == (uniform.slots, uniform.slot.nbytes, uniform.kv_bytes)
    assert plan.activation_bytes > uniform.activation_bytes  # attention over 220 pairs, not over 120
    assert "cap 200 in the induction layers (1), 50 in the others" in str(plan)
    assert uniform.slot.caps == ()
    assert uniform.as_dict()["caps"] == [100] * 3
    assert "copy" not in str(uniform)


def test_no_layer_gets_more_than_a_sequence_has(tiny: minseek.Model, copies: None) -> None:
    def caps(**changes: int) -> tuple[int, ...]:
        lengths = [changes.pop("length")] if "length" in changes else []
        return minseek.plan(tiny, kv_budget="10MB", lengths=lengths, **{"cap": 100, "block": 20, **changes}).slot.caps

    assert caps(length=120) == ()  # nothing is ever evicted
    assert caps(length=139) == ()
    assert caps(length=190) == (70, 160, 70)
    assert caps(length=512) == (50, 200, 50)
    assert caps(cap=440) == (420, 480, 420)  # and the context has 512
    assert caps(cap=480) == ()


@pytest.mark.parametrize("policy", [None, RankSum(), NovelValues(induction_cap_factor=1)])
def test_policies_that_do_not_ask_are_not_probed_for(
    policy: object, tiny: minseek.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Model, "induction_layers", property(lambda self: pytest.fail("probed")))
    assert minseek.plan(tiny, kv_budget="10MB", cap=100, block=20, policy=policy).slot.caps == ()  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("step", ["C", "PyTorch"])
def test_partitioned_slots_are_batch_invariant(
    step: str, device: str, copies: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In turns with other prompts, in used slots, with sequences whose slots are not partitioned yet."""
    tiny = load(save(tmp_path, "llama"), device, step, monkeypatch)
    plan = minseek.plan(tiny, kv_budget="10MB", cap=60, block=20, sequences=2)
    assert plan.slot.caps
    rng = torch.Generator().manual_seed(3)
    prompts = [torch.randint(256, (n,), generator=rng).tolist() for n in (170, 40, 300, 75, 79, 230)]
    together = minseek.generate(tiny, prompts, plan=plan, max_new_tokens=50, ignore_eos=True)
    for prompt, got in zip(prompts, together, strict=True):
        (alone,) = minseek.generate(tiny, [prompt], plan=plan, max_new_tokens=50, ignore_eos=True)
        assert alone.tokens == got.tokens
        assert (alone.stats.evictions > 0) == (len(prompt) + 49 > 80)


def test_before_partitioning_a_slot_is_exact(tiny: minseek.Model, copies: None) -> None:
    plan = minseek.plan(tiny, kv_budget="10MB", cap=60, block=20, sequences=2)
    prompts = [list(range(50)), list(range(7, 20))]
    got = minseek.generate(tiny, prompts, plan=plan, max_new_tokens=31, ignore_eos=True)
    whole = minseek.generate(tiny, prompts, max_new_tokens=31, ignore_eos=True)
    assert [c.tokens for c in got] == [c.tokens for c in whole]
    assert all(c.stats.evictions == 0 for c in got)
