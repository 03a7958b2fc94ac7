"""Which feeds of a pass are computed together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from minseek.cache import NUM_FIXED, DecodeBatch, Slot, SlotMemory, input_row, slot_of
from minseek.models.forward.chunk import SequenceChunk


class Kind(NamedTuple):
    """Of a group: whether its slots are divided, how many sequences it has, and what `DecodeBatch` calls `within`."""

    divided: bool
    sequences: int
    within: tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """Feeds of one token each, into slots of one store that are all divided or none.

    Attributes
    ----------
    numbers : list of list of int
        What `DecodeBatch` needs to know of each.
    """

    store: SlotMemory
    divided: bool
    feeds: list[SequenceChunk] = field(default_factory=list)
    numbers: list[list[int]] = field(default_factory=list)

    @property
    def within(self) -> list[int]:
        """For each stack, pairs a head that the longest sequence has with its new token."""
        return [1 + max(lengths) for lengths in zip(*(own[NUM_FIXED:] for own in self.numbers), strict=True)]

    @property
    def kind(self) -> Kind:
        """What passes must have in common to be the same but for numbers; `within` is rounded up, so that many are."""
        capacities = (capacity for _, capacity in self.store.shape.layout(self.divided))
        steps = ((max(64, -(-capacity // 16)), capacity) for capacity in capacities)
        rounded = (min(-(-n // step) * step, most) for n, (step, most) in zip(self.within, steps, strict=True))
        return Kind(self.divided, len(self.feeds), tuple(rounded))

    def singles(self, device: torch.device) -> DecodeBatch:
        """For a pass that is carried out once."""
        return DecodeBatch(self.store, self.divided, torch.tensor(self.numbers, device=device), self.within)


def grouped(feeds: Sequence[SequenceChunk]) -> tuple[list[Group], list[SequenceChunk]]:
    """Feeds of single tokens into slots, by slots; those into divided slots last. And feeds that are computed apart."""
    alone, apart = list[tuple[Slot, SequenceChunk]](), list[SequenceChunk]()
    for feed in feeds:
        slot = slot_of(feed.cache) if len(feed.tokens) == 1 else None
        if slot is None:
            apart.append(feed)
        else:
            alone.append((slot, feed))
    groups: dict[tuple[SlotMemory, bool], Group] = {}
    for slot, feed in sorted(alone, key=lambda pair: (pair[0].partitioned, pair[0].index)):
        group = groups.setdefault((slot.memory, slot.partitioned), Group(slot.memory, slot.partitioned))
        group.feeds.append(feed)
        group.numbers.append(input_row(feed.tokens[0], feed.cache))
    return list(groups.values()), apart


def logit_rows(feeds: Sequence[SequenceChunk], placed: Sequence[SequenceChunk]) -> list[int]:
    """Where the wanted tokens stand, in the order of `feeds`, if all tokens stand in the order of `placed`."""
    ends, end = {}, 0
    for feed in placed:
        end += len(feed.tokens)
        ends[id(feed)] = end
    return [row for feed in feeds for row in range(ends[id(feed)] - feed.wanted, ends[id(feed)])]
