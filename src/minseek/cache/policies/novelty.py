"""Ours: what is unlike everything else that was said stays, beside what is looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from minseek.cache.candidates import Candidates
from minseek.cache.kernels import ranks
from minseek.cache.policies.base import Policy, check_odd, check_share


@dataclass(frozen=True)
class NovelValues(Policy):
    """What is unlike the rest of the sequence stays, whole; the rest of the cap goes by attention and by keys.

    No attention has been paid yet to a fact that nothing asked about so far, so attention cannot save it. Values of the
    first layers say which words stand where, without a position: how far they are from the mean direction of all values
    of the sequence, averaged over heads, layers and neighbours, tells a fact from the text around it. It is one
    number for each token, known when the token comes: where it is rare, all heads keep the whole stretch. Other pairs
    compete, head by head, with the rank of the attention they received and the rank of their key's difference.

    Parameters
    ----------
    share : float
        Of the cap, at most, for novel stretches.
    rarity : float
        How novel they must be: standard deviations above the mean of the sequence so far.
    neighbours : int
        Tokens over which novelty is averaged, odd: about a sentence.
    depth : float
        The share of the layers, from the first one on, whose values are looked at.
    latest : float
        The share of the cap that the most recent tokens have for themselves, where that is more than `recent`.
    weight : float
        Of the rank of the key's difference, beside that of attention.
    """

    share: float = 0.5
    rarity: float = 1.2
    neighbours: int = 15
    depth: float = 1 / 6
    latest: float = 0.25
    weight: float = 0.5

    name: ClassVar[str] = "novel-values"
    source: ClassVar[str] = "ours"

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("share", "depth", "latest"):
            check_share(field, getattr(self, field))
        for field in ("rarity", "weight"):
            check_share(field, getattr(self, field), most=torch.inf)
        check_odd("neighbours", self.neighbours)

    def score(self, pairs: Candidates) -> Tensor:
        """Ranks by attention and by key; 2 more for novel pairs, and 4 for the latest."""
        mean, deviation = self._remember(pairs)
        scores = ranks(pairs.received / pairs.asked) + self.weight * ranks(-pairs.unrotated_likeness())
        most = int(self.share * pairs.cap)
        if most:
            novelty, places = pairs.notes.topk(most, dim=-1)
            rare = (novelty > mean + self.rarity * deviation).float()
            scores.scatter_add_(-1, places, (2 + self.weight) * rare)
        latest = int(self.latest * pairs.cap)
        if latest:
            scores[..., -latest:] += 2 * (2 + self.weight)
        return scores

    def _remember(self, pairs: Candidates) -> tuple[float, float]:
        """Note the novelty of new pairs; mean and standard deviation of the novelty of all tokens so far."""
        memory = pairs.memory
        if memory.get("seen") != pairs.seen:
            novelty = self._novelty(pairs)
            pairs.notes[..., pairs.count - pairs.new :] = novelty
            sums = torch.stack((torch.ones_like(novelty), novelty, novelty.square())).sum(1).double().cpu()
            memory["sums"] = memory.get("sums", 0) + sums
            memory["seen"] = pairs.seen
        count, total, squares = memory["sums"].tolist()
        mean = total / count
        return mean, max(squares / count - mean * mean, 0.0) ** 0.5

    def _novelty(self, pairs: Candidates) -> Tensor:
        """[new]: how unlike the sequence so far each new token and its neighbours are, from -1 to 1."""
        layers = max(1, round(self.depth * len(pairs.values)))
        new = F.normalize(pairs.values[:layers, :, pairs.count - pairs.new :].float(), dim=-1)
        total = new.sum(2) + pairs.memory.get("values", 0)
        pairs.memory["values"] = total
        likeness = (new @ F.normalize(total, dim=-1)[..., None])[..., 0].mean((0, 1))
        half = self.neighbours // 2
        return -F.avg_pool1d(likeness[None], self.neighbours, 1, half, count_include_pad=False)[0]
