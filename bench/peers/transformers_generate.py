"""transformers `generate`: batches one after another, as large as their full caches fit the budget.

.venv/bin/python bench/peers/transformers_generate.py JOB.json
"""

from __future__ import annotations

import time
from typing import Any

import torch
import transformers
from job import Job, answer, read_job
from transformers import AutoModelForCausalLM, GenerationConfig, StoppingCriteria, StoppingCriteriaList

PAD = 0
"""Masked out: any token does."""


class Clock(StoppingCriteria):
    """Notes when each token of a batch is there, and stops nothing."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self.times.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


def generate(model: Any, prompts: list[list[int]], new: int, clock: Clock) -> list[list[int]]:
    """Answers of exactly `new` tokens to one batch, padded on the left."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    criteria = StoppingCriteriaList([clock])
    out = model.generate(ids, attention_mask=mask, max_new_tokens=new, stopping_criteria=criteria)
    return out[:, longest:].tolist()


def batches(job: Job) -> list[list[int]]:
    """Indices of prompts, long ones first so that a batch pads little."""
    order = sorted(range(len(job.prompts)), key=lambda index: -len(job.prompts[index]))
    parts = []
    while order:
        cells = len(job.prompts[order[0]]) + job.max_new_tokens
        size = max(1, job.kv_budget // (job.token_bytes() * cells))
        parts.append(order[:size])
        order = order[size:]
    return parts


def main() -> None:
    job = read_job()
    torch.set_num_threads(job.threads)
    transformers.utils.logging.set_verbosity_error()
    dtype = getattr(torch, job.dtype)
    model = AutoModelForCausalLM.from_pretrained(job.model, dtype=dtype, attn_implementation="sdpa").eval()
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=None, pad_token_id=PAD)
    generate(model, [job.prompts[0][:64]], 4, Clock())
    parts = batches(job)
    tokens: list[list[int]] = [[] for _ in job.prompts]
    prefill = 0.0
    began = time.perf_counter()
    for part in parts:
        clock, start = Clock(), time.perf_counter()
        found = generate(model, [job.prompts[index] for index in part], job.max_new_tokens, clock)
        prefill += clock.times[0] - start
        for index, ids in zip(part, found, strict=True):
            tokens[index] = ids
    seconds = time.perf_counter() - began
    answer(
        job,
        "transformers",
        transformers.__version__,
        seconds,
        tokens,
        batch=max(map(len, parts)),
        prefill_seconds=round(prefill, 3),
        decode_seconds=round(seconds - prefill, 3),
        settings={"attention": "sdpa", "dtype": job.dtype, "torch": torch.__version__},
    )


if __name__ == "__main__":
    main()
