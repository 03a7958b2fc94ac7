"""Plans, greedy generations of our engine, and the oracle that writes the same with unmodified transformers."""

from __future__ import annotations

from typing import Any

import minseek
from minseek.cache.policies import Policy
from minseek.engine import Generation
from tests.helpers.prompts import tokens
from tests.helpers.reference import ReferenceSession

GREEDY = minseek.Sampling(temperature=0)
END = 256
LONG = [tokens(length, 200 + length) for length in (5, 200, 56, 57, 131, 90, 72, 300, 40)]


def continued(reference: Any, prompt: list[int], limit: int) -> list[int]:
    """Greedy, with transformers' forward pass; without the end."""
    session, given = ReferenceSession(reference), list[int]()
    logits = session.forward(prompt)
    while len(given) < limit and (token := int(logits.argmax())) != END:
        given.append(token)
        if len(given) < limit:
            logits = session.forward([token])
    return given


def make_plan(model: minseek.Model, policy: str | Policy | None, **options: Any) -> minseek.BatchPlan:
    return minseek.plan(model, **{"cap": 40, "block": 16, "policy": policy, "sequences": 3, **options})


def outputs(model: minseek.Model, plan: minseek.BatchPlan, prompts: list[list[int]], **options: Any) -> list[list[int]]:
    options = {"max_new_tokens": 30, "ignore_eos": True, **options}
    return [out.tokens for out in minseek.generate(model, prompts, plan=plan, **options)]


def generation(model: minseek.Model, prompt: list[int], kind: type[Generation] = Generation, new: int = 30) -> Any:
    return kind(model, prompt, max_new_tokens=new, sampling=GREEDY, ignore_eos=True)


def text_model(tiny: minseek.Model) -> tuple[list[int], minseek.engine.Completion]:
    """A prompt after which a good many characters are written."""
    for seed in range(100):
        prompt = tokens(12, 1000 + seed)
        (out,) = minseek.generate(tiny, [prompt], max_new_tokens=24, ignore_eos=True)
        if len(set(out.text)) > 12 and "\ufffd" not in out.text[:1] + out.text[6:9]:
            return prompt, out
    raise AssertionError("no prompt makes this model write text")
