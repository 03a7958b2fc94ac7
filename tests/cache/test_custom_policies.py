"""Registration of policies, and policies of a user's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor

import minseek
from minseek.cache import Candidates
from minseek.cache.policies import (
    ALIASES,
    H2O,
    POLICIES,
    RKV,
    TOVA,
    KeyDiff,
    Policy,
    SnapKV,
    StreamingLLM,
    make_policy,
    register,
)
from minseek.errors import InputError
from tests.helpers.prompts import tokens


@pytest.fixture
def registry() -> Iterator[dict[str, type[Policy]]]:
    before = dict(POLICIES)
    yield POLICIES
    POLICIES.clear()
    POLICIES.update(before)


@dataclass(frozen=True)
class Loudest(Policy):
    """Keeps the largest values, and records its calls."""

    name: ClassVar[str] = "loudest"
    calls: ClassVar[list[int]] = []

    def score(self, pairs: Candidates) -> Tensor:
        self.calls.append(pairs.num_pairs)
        return pairs.values.float().pow(2).sum(-1)


def test_a_custom_policy_is_known_by_name(tiny: minseek.Model, registry: dict[str, type[Policy]]) -> None:
    assert register(Loudest) is Loudest
    assert register(Loudest) is Loudest  # twice does no harm
    assert make_policy("loudest") == Loudest()
    Loudest.calls.clear()
    plan = minseek.plan(tiny, cap=40, block=16, policy="loudest", sequences=2)
    (out,) = minseek.generate(tiny, [tokens(120, 1)], plan=plan, max_new_tokens=4, ignore_eos=True)
    assert Loudest.calls == [56] * 5
    assert out.stats.evictions == 5
    by_name = minseek.generate(tiny, [tokens(30, 1)], policy="loudest", max_new_tokens=4)  # all fits
    assert by_name == minseek.generate(tiny, [tokens(30, 1)], policy=None, max_new_tokens=4)
    assert len(Loudest.calls) == 5


def test_policy_scores_move_with_their_pairs(tiny: minseek.Model) -> None:
    held: list[Tensor] = []

    @dataclass(frozen=True)
    class Scoring(Policy):
        name: ClassVar[str] = "scoring"

        def score(self, pairs: Candidates) -> Tensor:
            held.append(pairs.policy_scores.clone())
            first = pairs.num_pairs - pairs.num_new
            assert not pairs.policy_scores[..., first:].any()  # 0 for new pairs
            pairs.policy_scores[..., first:] = 1 + pairs.token_index[..., first:]
            assert torch.equal(pairs.policy_scores, 1.0 + pairs.token_index)  # scores move with their pairs
            return pairs.token_index.float() % 7

    plan = minseek.plan(tiny, cap=40, block=16, policy=Scoring(sinks=1, recent=1), sequences=1)
    minseek.generate(tiny, [tokens(120, 1), tokens(90, 2)], plan=plan, max_new_tokens=4, ignore_eos=True)
    assert len(held) == 5 + 3


def test_a_taken_or_missing_name_is_refused(registry: dict[str, type[Policy]]) -> None:
    clash = type("Clash", (Loudest,), {"name": "snapkv"})
    with pytest.raises(InputError, match=r"^the name 'snapkv' belongs to the policy SnapKV: take another$"):
        register(clash)
    nameless = type("Nameless", (Loudest,), {"name": ""})
    with pytest.raises(InputError, match=r"^the policy Nameless has no name: give it a class attribute 'name'$"):
        register(nameless)
    assert POLICIES["snapkv"] is SnapKV


def test_a_policy_cannot_be_called_default(registry: dict[str, type[Policy]]) -> None:
    with pytest.raises(InputError, match="'default'"):
        register(type("Default", (Loudest,), {"name": "default"}))


def test_the_error_for_an_unknown_policy_lists_the_known_ones(tiny: minseek.Model) -> None:
    with pytest.raises(InputError, match=r"^unknown policy 'newest': choose observed-attention, .*, novel-values$"):
        minseek.generate(tiny, ["a"], policy="newest")
    with pytest.raises(TypeError, match="a policy is a name, a Policy or None, not <class"):
        minseek.generate(tiny, ["a"], policy=SnapKV)  # type: ignore[arg-type]


def test_former_names_are_accepted_and_stay_reserved(registry: dict[str, type[Policy]]) -> None:
    kinds = (H2O, SnapKV, TOVA, StreamingLLM, KeyDiff, RKV)
    former = ("heavy-hitters", "window", "last-query", "sink-recent", "key-difference", "redundancy-aware")
    assert tuple(ALIASES) == former
    assert [make_policy(name) for name in former] == [kind() for kind in kinds]
    assert not set(former) & set(POLICIES)
    for name in former:
        with pytest.raises(InputError, match=f"^the name '{name}' belongs to the policy"):
            register(type("Clash", (Loudest,), {"name": name}))


def test_policies_compare_by_value() -> None:
    assert SnapKV(window_size=8) == replace(SnapKV(), window_size=8) != SnapKV()
    assert all(POLICIES[name].name == name and POLICIES[name].source for name in POLICIES)
