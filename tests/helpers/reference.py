"""Thinking with the unmodified transformers model: slow, plain, and independent of the code it checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from minseek.decode import Sampler, Sampling


class ReferenceSession:
    """Feeds transformers' own forward pass; dropped spans are cut out of its cache and the rest turned in float64."""

    def __init__(self, model: Any) -> None:
        self.model, self.cache, self.tokens = model, DynamicCache(), list[int]()

    @property
    def length(self) -> int:
        return len(self.tokens)

    def forward(self, tokens: Sequence[int]) -> torch.Tensor:
        self.tokens.extend(tokens)
        return self.model(torch.tensor([list(tokens)]), past_key_values=self.cache).logits[0, -1]

    def drop(self, start: int, stop: int) -> None:
        inv_freq = self.model.model.rotary_emb.inv_freq.double()
        for layer in self.cache.layers:
            keys = layer.keys[:, :, stop:].double()
            turned = torch.complex(*keys.chunk(2, dim=-1)) * torch.polar(
                torch.ones_like(inv_freq), (start - stop) * inv_freq
            )
            moved = torch.cat((turned.real, turned.imag), dim=-1).to(layer.keys.dtype)
            layer.keys = torch.cat((layer.keys[:, :, :start], moved), dim=2)
            layer.values = torch.cat((layer.values[:, :, :start], layer.values[:, :, stop:]), dim=2)
        del self.tokens[start:stop]


@dataclass(frozen=True)
class Task:
    """A question in tokens, and the tokens that matter."""

    prompt: list[int]
    word: list[int]
    close: list[int]
    stop: set[int]  # what ends a thought
    end: set[int]  # what ends the answer
    answer: int  # its longest
    limit: int = 60  # a thought that is longer is taken for endless


class EndlessError(Exception):
    """A random model went on without closing."""


Change = Callable[[torch.Tensor, list[int], list[int]], torch.Tensor]
"""Logits as changed for the prompt and the tokens that follow it in the cache."""


def min_seek(
    model: Any, task: Task, thoughts: int, change: Change = lambda logits, prompt, after: logits
) -> tuple[list[list[int]], list[int]]:
    """The method page's pseudocode: all thoughts, and the answer's tokens."""
    session = ReferenceSession(model)

    def changed(logits: torch.Tensor) -> torch.Tensor:
        return change(logits, session.tokens[: len(task.prompt)], session.tokens[len(task.prompt) :])

    def decode(fed: Sequence[int], stop: set[int], limit: int) -> list[int]:
        logits, tokens = session.forward(fed), []
        while len(tokens) < limit:
            token = int(changed(logits).argmax())
            if token in stop:
                break
            tokens.append(token)
            logits = session.forward([token])
        return tokens

    all_thoughts = [finite(decode(task.prompt, task.stop, task.limit), task)]
    base, kept = session.length, 0
    for _ in range(thoughts):
        thought = task.word + finite(decode(task.word, task.stop, task.limit), task)
        all_thoughts.append(thought)
        if kept == 0 or len(thought) < kept:
            session.drop(base, base + kept)
            kept = len(thought)
        else:
            session.drop(base + kept, session.length)
    return all_thoughts, decode(task.close, task.end, task.answer)


def fresh_thoughts(
    model: Any, task: Task, thoughts: int, sampling: Sampling
) -> tuple[list[list[int]], list[list[int]]]:
    """Thoughts that do not see each other, all of them after the first one, and the answer after each of them.

    Answers are drawn as if each were the last of its run: they use up no random numbers.
    """
    session, sampler = ReferenceSession(model), Sampler(sampling)

    def decode(sampler: Sampler, fed: Sequence[int], stop: set[int], limit: int) -> list[int]:
        logits, tokens = session.forward(fed), []
        while len(tokens) < limit:
            token = sampler.pick(logits)
            if token in stop:
                break
            tokens.append(token)
            logits = session.forward([token])
        return tokens

    def answer() -> list[int]:
        length = session.length
        tokens = decode(sampler.fork(), task.close, task.end, task.answer)
        session.drop(length, session.length)
        return tokens

    all_thoughts, answers = [finite(decode(sampler, task.prompt, task.stop, task.limit), task)], [answer()]
    base = session.length
    for _ in range(thoughts):
        all_thoughts.append(task.word + finite(decode(sampler, task.word, task.stop, task.limit), task))
        answers.append(answer())
        session.drop(base, session.length)
    return all_thoughts, answers


def budget_forcing(model: Any, task: Task, thoughts: int) -> tuple[list[list[int]], list[int]]:
    """Budget forcing by text alone: every generation starts from the whole chain."""
    chain, all_thoughts = list(task.prompt), []
    for index in range(thoughts + 1):
        opening = task.word if index else []
        thought = opening + finite(generate(model, chain + opening, task.stop, task.limit), task)
        all_thoughts.append(thought)
        chain += thought
    return all_thoughts, generate(model, chain + task.close, task.end, task.answer)


def finite(tokens: list[int], task: Task) -> list[int]:
    if len(tokens) >= task.limit:
        raise EndlessError
    return tokens


def generate(model: Any, tokens: list[int], stop: set[int], limit: int) -> list[int]:
    """transformers' own greedy generation: the new tokens, the stop token left out."""
    out = model.generate(
        torch.tensor([tokens]),
        attention_mask=torch.ones(1, len(tokens), dtype=torch.long),
        do_sample=False,
        max_new_tokens=limit,
        eos_token_id=sorted(stop),
        pad_token_id=min(stop),
    )[0, len(tokens) :].tolist()
    return out[:-1] if out and out[-1] in stop else out
