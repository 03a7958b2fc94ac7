"""Drawing a token: the same tokens, from the same random numbers, as torch draws them."""

from __future__ import annotations

import pytest
import torch

from minseek.decode import Sampler, Sampling


@pytest.mark.parametrize(
    "filters",
    [{"top_p": 0.95}, {"top_p": 1.0}, {"top_p": 0.5, "min_p": 0.05}, {"top_k": 5, "top_p": 0.9}, {"min_p": 0.1}],
)
def test_a_draw_is_that_of_multinomial(filters: dict[str, float]) -> None:
    rng = torch.Generator().manual_seed(7)
    for size in (*range(1, 40), 99, 272, 700):
        for sharpness in (0.3, 2.0, 12.0):  # from nearly uniform to nearly certain
            logits = torch.randn(size, generator=rng) * sharpness
            sampler = Sampler(Sampling(temperature=0.6, seed=size, **filters))  # type: ignore[arg-type]
            mirror = torch.Generator().manual_seed(size)
            for _ in range(3):
                probabilities, ids = sampler.candidates(logits)
                expected = int(ids[torch.multinomial(probabilities, 1, generator=mirror)])
                assert sampler.pick(logits) == expected


def test_top_p_passes_the_first_tokens_that_reach_the_sum() -> None:
    rng = torch.Generator().manual_seed(8)
    for sharpness in (0.3, 1.0, 3.0, 12.0):
        for share in (0.05, 0.5, 0.9, 0.95):
            logits = torch.randn(99, generator=rng) * sharpness
            kept, ids = Sampler(Sampling(temperature=1.0, top_p=share)).candidates(logits)
            exact = torch.softmax(logits.double(), 0).sort(descending=True)
            wanted = int((exact.values.cumsum(0) - exact.values < share).sum())
            assert ids.tolist() == exact.indices[:wanted].tolist()
            assert kept.sum() >= share - 1e-6
