"""Batches of traces, packed several to a row, generated on the fly from the seed and the batch number."""

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
_POOL = 16  # batches made together, so that rows fill well


@dataclass(frozen=True)
class Batch:
    """Tensors [B, T]; targets are -100 for tokens without a loss."""

    tokens: Tensor
    positions: Tensor
    trace_ids: Tensor
    targets: Tensor


def batches(tokenizer: Any, seed: int, tokens: int, start: int = 0) -> Iterator[Batch]:
    """Infinite batches of `tokens` tokens each, from batch number `start`."""
    pool, skip = divmod(start, _POOL)
    while True:
        made = _make_pool(tokenizer, Random(f"{seed} {pool}"), tokens)
        yield from made[skip:]
        pool, skip = pool + 1, 0


def _make_pool(tokenizer: Any, rng: Random, tokens: int) -> list[Batch]:
    """Make `_POOL` batches."""
    rows: dict[int, list[list[tuple[list[int], list[bool]]]]] = {_SHORT: [], _LONG: []}
    made: list[Batch] = []
    while len(made) < _POOL:
        example = _example(tokenizer, rng)
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


def _example(tokenizer: Any, rng: Random) -> tuple[list[int], list[bool]]:
    """Tokens of a trace and, for each, True if it has a loss."""
    _, problem = draw(rng, test=False)
    texts = [(f"{USER}{problem.prompt}{ASSISTANT}{OPEN}\n", False)]
    texts += [(piece.text, piece.learn) for piece in make_trace(problem, rng)]
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
    tokens, positions, trace_ids = (torch.zeros(len(rows), length, dtype=torch.long) for _ in range(3))
    targets = torch.full((len(rows), length), -100)
    trace_ids -= 1
    for r, row in enumerate(rows):
        offset = 0
        for number, (ids, learned) in enumerate(row):
            n = len(ids)
            tokens[r, offset : offset + n] = torch.tensor(ids)
            positions[r, offset : offset + n] = torch.arange(n)
            trace_ids[r, offset : offset + n] = number
            targets[r, offset : offset + n - 1] = torch.tensor(ids[1:]).masked_fill(~torch.tensor(learned[1:]), -100)
            offset += n
    return Batch(tokens, positions, trace_ids, targets)
