"""Eviction policies, by name."""

from __future__ import annotations

from minseek.cache.policies.attention import H2O, TOVA, ObservedAttention, SnapKV
from minseek.cache.policies.base import Policy
from minseek.cache.policies.baselines import Random, StreamingLLM
from minseek.cache.policies.keys import RKV, ExpectedAttention, KeyDiff, RankSum
from minseek.cache.policies.novelty import NovelValues
from minseek.errors import InputError

POLICIES: dict[str, type[Policy]] = {
    kind.name: kind
    for kind in (
        *(ObservedAttention, H2O, SnapKV, TOVA, StreamingLLM, KeyDiff),
        *(ExpectedAttention, RKV, Random, RankSum, NovelValues),
    )
}
"""Every policy known by name."""


def register(kind: type[Policy]) -> type[Policy]:
    """Make a policy of one's own known by its ``name``; usable as a decorator.

    Raises
    ------
    InputError
        If it has no name, or another policy has it.
    """
    if not kind.name:
        raise InputError(f"the policy {kind.__name__} has no name: give it a class attribute 'name'")
    if kind.name in ("default", "none"):
        raise InputError(f"the name {kind.name!r} has a meaning of its own: take another")
    if POLICIES.get(kind.name, kind) is not kind:
        raise InputError(f"the name {kind.name!r} belongs to the policy {POLICIES[kind.name].__name__}: take another")
    POLICIES[kind.name] = kind
    return kind


def make_policy(policy: str | Policy | None) -> Policy | None:
    """The policy of that name with its defaults; a policy or None as it is."""
    if policy is None or isinstance(policy, Policy):
        return policy
    if not isinstance(policy, str):
        raise TypeError(f"a policy is a name, a Policy or None, not {policy!r}")
    if policy not in POLICIES:
        raise InputError(f"unknown policy {policy!r}: choose {', '.join(POLICIES)}")
    return POLICIES[policy]()


__all__ = [
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
