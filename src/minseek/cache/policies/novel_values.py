"""Novel values (ours, the default): spans unlike the rest of the sequence stay whole."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from minseek.cache.candidates import Candidates
from minseek.cache.kernels import boost_topk, cosine_to_running_mean, ranks, value_error
from minseek.cache.policies.base import Policy, check_odd, check_range
from minseek.errors import InputError


@dataclass(frozen=True)
class NovelValues(Policy):
    """Spans unlike the rest of the sequence stay whole; the rest of the cap goes by attention and by keys.

    A fact that no query has referred to yet has received no attention, so attention cannot save it. Two signals
    together tell a fact from the text around it. The first is the distance of a token's values in the first layers,
    which depend on its word and not on its position, from the mean direction of all values of the sequence. The second
    is surprise: how much less than the average word the model expected this one. Each is averaged over neighboring
    tokens, and their weighted sum is measured in standard deviations of the sequence so far. This novelty is one number
    for each token, known as soon as the token is appended: where it is high, all heads keep the whole span. The other
    pairs compete, head by head, by the rank of the error that attention's output would have without them (the attention
    they received, times the distance of their value from that output: the measure of CAOTE, arXiv 2504.14051, to first
    order) plus the rank of the difference of their key from the mean key.

    Parameters
    ----------
    share : float
        Upper limit for novel spans, as a share of the cap.
    span_limit : float
        Second upper limit for novel spans: pairs per head, in square roots of the mean cap, for layers of the mean cap
        (in proportion to the cap for others). A larger cap serves a longer text, which contains more facts but even
        more unusual text that is no fact.
    threshold_sd : float
        Novelty from which a span is kept, in standard deviations above the mean of the sequence so far.
    neighbors : int
        Tokens over which the signals are averaged, odd: about a sentence.
    dilation : int
        Tokens around a novel one that stay with it, itself included, odd: a fact's last word matters most, and its
        neighbors on one side are not novel.
    layer_fraction : float
        Share of the layers, from the first one on, whose values are compared.
    surprise : float
        Weight of surprise relative to that of values.
    recent_share : float
        Share of the cap that is reserved for the most recent tokens, where that is more than `recent`.
    weight : float
        Weight of the rank of the key's difference relative to that of the error.
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
            check_range(field, getattr(self, field))
        for field in ("span_limit", "threshold_sd", "surprise", "weight"):
            check_range(field, getattr(self, field), maximum=torch.inf)
        for field in ("neighbors", "dilation"):
            check_odd(field, getattr(self, field))
        check_range("induction_cap_factor", self.induction_cap_factor, maximum=torch.inf)
        if self.induction_cap_factor < 1:
            raise InputError(f"induction_cap_factor must be 1 or more, not {self.induction_cap_factor}")

    def score(self, pairs: Candidates) -> Tensor:
        """Ranks by error and by key, with two bands above them: novel spans, and above those the most recent tokens."""
        if pairs.policy_state.get("num_tokens") != pairs.num_tokens:
            self._update_novelty(pairs)
            pairs.policy_state["num_tokens"] = pairs.num_tokens
        error = value_error(pairs.attn_sum / pairs.num_queries_seen, pairs.values)
        scores = ranks(-pairs.prerope_cosine_to_mean(), self.weight, onto=ranks(error))
        band = 2 + self.weight  # more than the two ranks together
        span_limit = self.span_limit * pairs.cap / math.sqrt(pairs.mean_cap)
        max_novel = int(min(self.share * pairs.cap, span_limit, pairs.num_pairs))
        if max_novel:
            boost_topk(scores, pairs.policy_scores, max_novel, threshold=self.threshold_sd, boost=band)
        recent = int(self.recent_share * pairs.cap)
        if recent:
            scores[..., -recent:] += 2 * band
        return scores

    def _update_novelty(self, pairs: Candidates) -> None:
        """Store the novelty of new tokens, and update that of the last older ones, whose neighbors are known now."""
        assert pairs.surprise is not None
        state, edge = pairs.policy_state, min(self.neighbors // 2 + self.dilation // 2, self.recent)
        new = torch.stack((self._value_distance(pairs), pairs.surprise.to(pairs.values.device)))
        previous = state.get("signals", new[:, :0])
        signals = torch.cat((previous, new), 1)
        half = self.neighbors // 2
        means = F.avg_pool1d(signals[None], self.neighbors, 1, half, count_include_pad=False)[0]
        first = max(0, previous.shape[1] - edge)  # earlier tokens are here only as neighbors
        novelty = self._standardize(means, means[:, first : max(signals.shape[1] - edge, 1)], state)
        novelty = F.max_pool1d(novelty[None], self.dilation, 1, self.dilation // 2)[0, first:]
        pairs.set_policy_scores(novelty)
        state["signals"] = signals[:, -2 * edge :] if edge else signals[:, :0]

    def _standardize(self, means: Tensor, final: Tensor, state: dict[str, Any]) -> Tensor:
        """Combine both signals [2, n] to one [n], in standard deviations above the mean of the sequence.

        final: the averages [2, m] that no later token changes; their moments are accumulated in `state`.
        """
        a, b = final.double()
        state["moments"] = state.get("moments", 0) + torch.stack((torch.ones_like(a), a, b, a * a, b * b, a * b)).sum(1)
        moments: list[float] = state["moments"].tolist()  # in one transfer, since each one waits for the GPU
        mean_a, mean_b, aa, bb, ab = (m / moments[0] for m in moments[1:])
        sd_a, sd_b = (math.sqrt(max(x - m * m, 1e-12)) for x, m in ((aa, mean_a), (bb, mean_b)))
        correlation = (ab - mean_a * mean_b) / (sd_a * sd_b)
        sd_sum = math.sqrt(max(1 + self.surprise**2 + 2 * self.surprise * correlation, 1e-6))
        a, b = (means[0] - mean_a) / sd_a, (means[1] - mean_b) / sd_b
        return (a + self.surprise * b) / sd_sum

    def _value_distance(self, pairs: Candidates) -> Tensor:
        """[new]: minus the cosine of each new token's values with the mean direction of the sequence so far."""
        layers = max(1, round(self.layer_fraction * pairs.num_layers))
        new = pairs.first_values(layers)
        if "value_sum" not in pairs.policy_state:
            pairs.policy_state["value_sum"] = new.new_zeros((*new.shape[:2], new.shape[3]), dtype=torch.float32)
        return -cosine_to_running_mean(new, pairs.policy_state["value_sum"]).mean((0, 1))
