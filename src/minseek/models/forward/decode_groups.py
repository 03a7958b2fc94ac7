"""Batches of single-token chunks in the slots of one pool, which decode together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from minseek.cache import NUM_FIXED, DecodeBatch, Slot, SlotMemory, input_row, slot_of
from minseek.models.forward.chunk import SequenceChunk


class GraphKey(NamedTuple):
    """Key of a CUDA graph. KV lengths are rounded up so that a few graphs serve all steps."""

    partitioned: bool
    batch_size: int
    max_kv_len: tuple[int, ...]


@dataclass(frozen=True)
class DecodeGroup:
    """Single-token chunks for slots of one memory, all of them partitioned or none.

    Attributes
    ----------
    input_rows : list of list of int
        The `input_row` of each chunk.
    """

    memory: SlotMemory
    partitioned: bool
    chunks: list[SequenceChunk] = field(default_factory=list)
    input_rows: list[list[int]] = field(default_factory=list)

    @property
    def max_kv_len(self) -> list[int]:
        """Pairs per head of the longest sequence, its new token included, for each layer group."""
        return [1 + max(lengths) for lengths in zip(*(row[NUM_FIXED:] for row in self.input_rows), strict=True)]

    @property
    def graph_key(self) -> GraphKey:
        """Key of the CUDA graph that can run this group."""
        capacities = [capacity for _, capacity in self.memory.shape.layout(self.partitioned)]
        rounded = []
        for length, capacity in zip(self.max_kv_len, capacities, strict=True):
            step = max(64, -(-capacity // 16))
            rounded.append(min(-(-length // step) * step, capacity))
        return GraphKey(self.partitioned, len(self.chunks), tuple(rounded))

    def decode_batch(self, device: torch.device) -> DecodeBatch:
        """Batch for a pass without a CUDA graph."""
        input_rows = torch.tensor(self.input_rows, device=device)
        return DecodeBatch(self.memory, self.partitioned, input_rows, self.max_kv_len)


def split_decode_tokens(chunks: Sequence[SequenceChunk]) -> tuple[list[DecodeGroup], list[SequenceChunk]]:
    """Split chunks into groups of single tokens in slots, partitioned slots last, and all others."""
    decoding, others = list[tuple[Slot, SequenceChunk]](), list[SequenceChunk]()
    for chunk in chunks:
        slot = slot_of(chunk.cache) if len(chunk.tokens) == 1 else None
        if slot is None:
            others.append(chunk)
        else:
            decoding.append((slot, chunk))
    groups: dict[tuple[SlotMemory, bool], DecodeGroup] = {}
    for slot, chunk in sorted(decoding, key=lambda pair: (pair[0].partitioned, pair[0].index)):
        group = groups.setdefault((slot.memory, slot.partitioned), DecodeGroup(slot.memory, slot.partitioned))
        group.chunks.append(chunk)
        group.input_rows.append(input_row(chunk.tokens[0], chunk.cache))
    return list(groups.values()), others


def logit_rows(chunks: Sequence[SequenceChunk], computed: Sequence[SequenceChunk]) -> list[int]:
    """Rows of the tokens whose logits are needed, in the order of `chunks`; rows are in the order of `computed`."""
    ends, end = {}, 0
    for chunk in computed:
        end += len(chunk.tokens)
        ends[id(chunk)] = end
    return [row for chunk in chunks for row in range(ends[id(chunk)] - chunk.num_logits, ends[id(chunk)])]
