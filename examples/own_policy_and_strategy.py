"""Write an eviction policy and a thinking strategy of your own, and use both by a few lines each."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

import minseek
from minseek.cache import Candidates
from minseek.cache.policies import Policy, register
from minseek.reasoning import Decision, Thought

QUESTION = "Compute (8+4)*3-6."


@register
@dataclass(frozen=True)
class LongestValue(Policy):
    """Keep the pairs whose values are longest."""

    name: ClassVar[str] = "longest-value"
    source: ClassVar[str] = "this example"

    def score(self, pairs: Candidates) -> torch.Tensor:
        """Return a number for each pair, [layers, heads, pairs]; the highest stay."""
        return pairs.values.float().norm(dim=-1)


@dataclass(frozen=True)
class NearestToTwentyTokens(minseek.Strategy):
    """Keep the one induced thought whose length is nearest to 20 tokens."""

    thoughts: int = 6
    answer: ClassVar[str] = "direct"

    def decide(self, kept: Sequence[Thought], new: Thought, rng: random.Random) -> Decision:
        """Return which thought leaves the cache, and why."""
        if not kept:
            return Decision(None, "it is the first induced thought")
        (old,) = kept
        if abs(new.length - 20) < abs(old.length - 20):
            return Decision(old, f"{new.length} tokens are nearer to 20 than {old.length}")
        return Decision(new, f"{old.length} tokens are nearer to 20 than {new.length}")


def main() -> None:
    model = minseek.load("tiny")
    result = minseek.reason(model, QUESTION, strategy=NearestToTwentyTokens(), sampling=minseek.Sampling(seed=0))
    print("lengths:", [thought.length for thought in result.thoughts])
    print("in the cache at the end:", [thought.index for thought in result.thoughts if thought.kept])
    print(result.answer)
    plan = minseek.plan(model, kv_budget="2MB", cap=64, block=16)
    prompt = "Take 4 8 1 9: " * 20
    done = minseek.generate(model, [prompt], plan=plan, policy="longest-value", max_new_tokens=8)[0]
    print(f"{done.stats.prompt_tokens} tokens in a cache of {plan.slot.capacity} with longest-value: {done.text!r}")


if __name__ == "__main__":
    main()
