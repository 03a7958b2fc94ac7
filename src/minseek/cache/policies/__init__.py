"""Eviction policies, by name."""

from __future__ import annotations

from minseek.cache.policies.base import Policy
from minseek.cache.policies.baselines import Random, StreamingLLM
from minseek.cache.policies.expected_attention import ExpectedAttention
from minseek.cache.policies.h2o import H2O
from minseek.cache.policies.keydiff import KeyDiff
from minseek.cache.policies.novel_values import NovelValues
from minseek.cache.policies.observed_attention import ObservedAttention
from minseek.cache.policies.rank_sum import RankSum
from minseek.cache.policies.rkv import RKV
from minseek.cache.policies.snapkv import SnapKV
from minseek.cache.policies.tova import TOVA
from minseek.errors import InputError

POLICIES: dict[str, type[Policy]] = {
    kind.name: kind
    for kind in (
        *(ObservedAttention, H2O, SnapKV, TOVA, StreamingLLM, KeyDiff),
        *(ExpectedAttention, RKV, Random, RankSum, NovelValues),
    )
}
"""Policies by name."""

ALIASES = {
    "heavy-hitters": "h2o",
    "window": "snapkv",
    "last-query": "tova",
    "sink-recent": "streaming-llm",
    "key-difference": "keydiff",
    "redundancy-aware": "r-kv",
}
"""Former names of policies, still accepted."""


def register(kind: type[Policy]) -> type[Policy]:
    """Make a policy of your own known by its ``name``; usable as a decorator.

    Raises
    ------
    InputError
        If it has no name, or the name belongs to another policy.
    """
    if not kind.name:
        raise InputError(f"the policy {kind.__name__} has no name: give it a class attribute 'name'")
    if kind.name in ("default", "none"):
        raise InputError(f"the name {kind.name!r} is reserved: take another")
    owner = POLICIES.get(ALIASES.get(kind.name, kind.name), kind)
    if owner is not kind:
        raise InputError(f"the name {kind.name!r} belongs to the policy {owner.__name__}: take another")
    POLICIES[kind.name] = kind
    return kind


def make_policy(policy: str | Policy | None) -> Policy | None:
    """Construct the policy of that name with its defaults; a policy or None is returned unchanged."""
    if policy is None or isinstance(policy, Policy):
        return policy
    if not isinstance(policy, str):
        raise TypeError(f"a policy is a name, a Policy or None, not {policy!r}")
    name = ALIASES.get(policy, policy)
    if name not in POLICIES:
        raise InputError(f"unknown policy {policy!r}: choose {', '.join(POLICIES)}")
    return POLICIES[name]()


__all__ = [
    "ALIASES",
    "H2O",
    "POLICIES",
    "RKV",
    "TOVA",
    "ExpectedAttention",
    "KeyDiff",
    "NovelValues",
    "ObservedAttention",
    "Policy",
    "Random",
    "RankSum",
    "SnapKV",
    "StreamingLLM",
    "make_policy",
    "register",
]
