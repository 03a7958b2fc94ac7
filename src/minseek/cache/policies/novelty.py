"""Ours: what is unlike everything else that was said stays, beside what is looked at."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from minseek.cache.candidates import Candidates
from minseek.cache.kernels import boost_topk, cosine_to_running_mean, ranks, value_error
from minseek.cache.policies.base import Policy, check_odd, check_share
from minseek.errors import InputError


@dataclass(frozen=True)
class NovelValues(Policy):
    """What is unlike the rest of the sequence stays, whole; the rest of the cap goes by attention and by keys.

    No attention has been paid yet to a fact that nothing asked about so far, so attention cannot save it. Two signals
    together tell a fact from the text around it. Values of the first layers say which words stand where, without a
    position: how far they are from the mean direction of all values of the sequence. And surprise: how much less than
    a word on average the model expected this one. Each is averaged over neighbours and measured in standard deviations
    of the sequence so far. It is one number for each token, known when the token comes: where it is rare, all heads
    keep the whole stretch. Other pairs compete, head by head, with the rank of what attention's output would lose
    with them (the attention they received, times how far their value is from that output: the measure of CAOTE,
    arXiv 2504.14051, to first order) and the rank of their key's difference.

    Parameters
    ----------
    share : float
        Of the cap, at most, for novel stretches.
    span_limit : float
        The other limit for them: so many pairs a head, times the square root of the cap (and more or less than that in
        layers whose cap is not the mean, as their cap is). A larger cap serves a longer text, which holds more facts,
        but also more that is odd and no fact.
    threshold_sd : float
        How novel they must be: standard deviations above the mean of the sequence so far.
    neighbors : int
        Tokens over which novelty is averaged, odd: about a sentence.
    dilation : int
        Tokens around a novel one that stay with it, itself included, odd: a fact's last word matters most, and its
        neighbours on one side are not novel.
    layer_fraction : float
        The share of the layers, from the first one on, whose values are looked at.
    surprise : float
        Weight of surprise beside that of values.
    recent_share : float
        The share of the cap that the most recent tokens have for themselves, where that is more than `recent`.
    weight : float
        Of the rank of the key's difference, beside that of the loss.
    induction_cap_factor : float
        Cap of layers with induction heads, in mean caps (`minseek.models.induction`): nearly all that an eighth of the
        cache loses is copying, and few layers copy. 1 gives every layer the same cap.
    """

    share: float = 0.6
    span_limit: float = 8.0
    threshold_sd: float = 1.4
    neighbors: int = 15
    dilation: int = 7
    layer_fraction: float = 1 / 6
    surprise: float = 2.0
    recent_share: float = 0.25
    weight: float = 0.5
    induction_cap_factor: float = 2.5

    name: ClassVar[str] = "novel-values"
    source: ClassVar[str] = "ours"
    needs_surprise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("share", "layer_fraction", "recent_share"):
            check_share(field, getattr(self, field))
        for field in ("span_limit", "threshold_sd", "surprise", "weight"):
            check_share(field, getattr(self, field), most=torch.inf)
        for field in ("neighbors", "dilation"):
            check_odd(field, getattr(self, field))
        check_share("induction_cap_factor", self.induction_cap_factor, most=torch.inf)
        if self.induction_cap_factor < 1:
            raise InputError(f"induction_cap_factor must be 1 or more, not {self.induction_cap_factor}")

    def score(self, pairs: Candidates) -> Tensor:
        """Ranks by loss and by key; 2 more for novel pairs, and 4 for the latest."""
        if pairs.policy_state.get("seen") != pairs.num_tokens:
            self._note_novelty(pairs)
            pairs.policy_state["seen"] = pairs.num_tokens
        loss = value_error(pairs.attn_sum / pairs.num_queries_seen, pairs.values)
        scores = ranks(-pairs.prerope_cosine_to_mean(), self.weight, onto=ranks(loss))
        longest = self.span_limit * pairs.cap / math.sqrt(pairs.mean_cap)
        most = int(min(self.share * pairs.cap, longest, pairs.num_pairs))
        if most:
            boost_topk(scores, pairs.policy_scores, most, least=self.threshold_sd, more=2 + self.weight)
        recent = int(self.recent_share * pairs.cap)
        if recent:
            scores[..., -recent:] += 2 * (2 + self.weight)
        return scores

    def _note_novelty(self, pairs: Candidates) -> None:
        """Note the novelty of new pairs, and anew that of the last ones before them, whose neighbours have come now."""
        assert pairs.surprise is not None
        memory, edge = pairs.policy_state, min(self.neighbors // 2 + self.dilation // 2, self.recent)
        line = torch.stack((self._unlikeness(pairs), pairs.surprise.to(pairs.values.device)))
        before = memory.get("line", line[:, :0])
        line = torch.cat((before, line), 1)
        half = self.neighbors // 2
        means = F.avg_pool1d(line[None], self.neighbors, 1, half, count_include_pad=False)[0]
        first = max(0, before.shape[1] - edge)  # further back lie tokens that are here only as neighbours
        novelty = self._in_deviations(means, means[:, first : max(line.shape[1] - edge, 1)], memory)
        novelty = F.max_pool1d(novelty[None], self.dilation, 1, self.dilation // 2)[0, first:]
        pairs.set_policy_scores(novelty)
        memory["line"] = line[:, -2 * edge :] if edge else line[:, :0]

    def _in_deviations(self, means: Tensor, settled: Tensor, memory: dict[str, Any]) -> Tensor:
        """Both signals [2, n] as one [n]: standard deviations above the mean of all `settled` ones of the sequence."""
        a, b = settled.double()
        memory["sums"] = memory.get("sums", 0) + torch.stack((torch.ones_like(a), a, b, a * a, b * b, a * b)).sum(1)
        sums: list[float] = memory["sums"].tolist()  # all at once: whoever asks a GPU for a number waits for it
        mean_a, mean_b, aa, bb, ab = (s / sums[0] for s in sums[1:])
        deviation_a, deviation_b = (math.sqrt(max(x - m * m, 1e-12)) for x, m in ((aa, mean_a), (bb, mean_b)))
        correlation = (ab - mean_a * mean_b) / (deviation_a * deviation_b)
        together = math.sqrt(max(1 + self.surprise**2 + 2 * self.surprise * correlation, 1e-6))
        a, b = (means[0] - mean_a) / deviation_a, (means[1] - mean_b) / deviation_b
        return (a + self.surprise * b) / together

    def _unlikeness(self, pairs: Candidates) -> Tensor:
        """[new]: how unlike the mean direction of the sequence so far each new token's values are, from -1 to 1."""
        layers = max(1, round(self.layer_fraction * pairs.num_layers))
        new = pairs.first_values(layers)
        if "values" not in pairs.policy_state:
            pairs.policy_state["values"] = new.new_zeros((*new.shape[:2], new.shape[3]), dtype=torch.float32)
        return -cosine_to_running_mean(new, pairs.policy_state["values"]).mean((0, 1))
