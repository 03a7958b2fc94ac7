"""Batches of traces, several to a row; made on the way, each from the seed and its number alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor

from recipes.tiny_reasoner.problems import draw
from recipes.tiny_reasoner.tokenizer import ASSISTANT, END, OPEN, USER
from recipes.tiny_reasoner.traces import make_trace

_SHORT, _LONG = 256, 512  # lengths of rows
_POOL = 16  # batches that are made together, so that rows fill well


@dataclass(frozen=True)
class Batch:
    """[B, T] each; targets are -100 where nothing is to be learned."""

    tokens: Tensor
    positions: Tensor
    owners: Tensor
    targets: Tensor


def batches(tokenizer: Any, seed: int, tokens: int, start: int = 0) -> Iterator[Batch]:
    """Batches of so many tokens each without end, from number `start` on."""
    pool, skip = divmod(start, _POOL)
    while True:
        made = _make_pool(tokenizer, Random(f"{seed} {pool}"), tokens)
        yield from made[skip:]
        pool, skip = pool + 1, 0


def _make_pool(tokenizer: Any, chance: Random, tokens: int) -> list[Batch]:
    """Exactly `_POOL` batches."""
    rows: dict[int, list[list[tuple[list[int], list[bool]]]]] = {_SHORT: [], _LONG: []}
    made: list[Batch] = []
    while len(made) < _POOL:
        example = _example(tokenizer, chance)
        if len(example[0]) > _LONG:
            continue
        length = _SHORT if len(example[0]) <= _SHORT else _LONG
        open_rows = rows[length]
        for row in open_rows:
            if sum(len(ids) for ids, _ in row) + len(example[0]) <= length:
                row.append(example)
                break
        else:
            if len(open_rows) == tokens // length:
                made.append(_packed(open_rows, length))
                rows[length] = open_rows = []
            open_rows.append([example])
    return made


def _example(tokenizer: Any, chance: Random) -> tuple[list[int], list[bool]]:
    """A trace's tokens, and which of them are to be learned."""
    _, problem = draw(chance, test=False)
    texts = [(f"{USER}{problem.prompt}{ASSISTANT}{OPEN}\n", False)]
    texts += [(piece.text, piece.learn) for piece in make_trace(problem, chance)]
    texts.append((END, True))
    ids: list[int] = []
    learned: list[bool] = []
    for encoding, (_, learn) in zip(
        tokenizer.backend_tokenizer.encode_batch([t for t, _ in texts]), texts, strict=True
    ):
        ids += encoding.ids
        learned += [learn] * len(encoding.ids)
    return ids, learned


def _packed(rows: list[list[tuple[list[int], list[bool]]]], length: int) -> Batch:
    tokens, positions, owners = (torch.zeros(len(rows), length, dtype=torch.long) for _ in range(3))
    targets = torch.full((len(rows), length), -100)
    owners -= 1
    for r, row in enumerate(rows):
        at = 0
        for number, (ids, learned) in enumerate(row):
            n = len(ids)
            tokens[r, at : at + n] = torch.tensor(ids)
            positions[r, at : at + n] = torch.arange(n)
            owners[r, at : at + n] = number
            targets[r, at : at + n - 1] = torch.tensor(ids[1:]).masked_fill(~torch.tensor(learned[1:]), -100)
            at += n
    return Batch(tokens, positions, owners, targets)
