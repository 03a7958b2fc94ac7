"""llama.cpp through llama-cpp-python's low-level batch calls: when a sequence ends, the next prompt takes its place.

PYTHON_OF_LLAMA bench/peers/llama_cpp_batch.py JOB.json
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from gguf_dense import dense_gguf
from job import Job, answer, read_job

PAD = 256
"""llama.cpp rounds the cells of a cache up to this."""


@dataclass
class Request:
    """A prompt and what came after it so far."""

    prompt: list[int]
    new: int
    tokens: list[int] = field(default_factory=list)

    @property
    def cells(self) -> int:
        """Cells of the cache it takes at its end: the last token is never fed."""
        return len(self.prompt) + self.new - 1


class Engine:
    """A model and a context whose cache holds `cells` tokens of at most `sequences` sequences."""

    def __init__(self, file: str, cells: int, sequences: int, threads: int, settings: dict[str, Any]) -> None:
        llama_cpp.llama_log_set(_silent, None)
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(file.encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"llama.cpp could not read {file}: remove it if it was converted, or give another file")
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max = cells, sequences
        params.n_batch, params.n_ubatch = settings["n_batch"], settings["n_ubatch"]
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type, params.kv_unified = int(settings["flash_attention"]), settings["kv_unified"]
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if not self.context or llama_cpp.llama_n_ctx(self.context) > cells:
            raise SystemExit(f"llama.cpp could not make a context of {cells} cells for {sequences} sequences")
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.size = settings["n_batch"]
        self.batch = llama_cpp.llama_batch_init(self.size, 0, 1)

    def feed(self, rows: list[tuple[int, int, int]], wanted: set[int]) -> dict[int, int]:
        """Feed (sequence, position, token) rows; the most likely next token after each wanted row."""
        for index, (sequence, position, token) in enumerate(rows):
            self.batch.token[index], self.batch.pos[index] = token, position
            self.batch.n_seq_id[index], self.batch.seq_id[index][0] = 1, sequence
            self.batch.logits[index] = index in wanted
        self.batch.n_tokens = len(rows)
        status = llama_cpp.llama_decode(self.context, self.batch)
        if status != 0:
            raise SystemExit(f"llama_decode failed with status {status} at {len(rows)} tokens")
        return {index: self._best(index) for index in wanted}

    def _best(self, index: int) -> int:
        logits = llama_cpp.llama_get_logits_ith(self.context, index)
        return int(np.ctypeslib.as_array(logits, shape=(self.vocabulary,)).argmax())

    def prefill(self, slot: int, request: Request) -> None:
        """Feed a prompt alone; its last token gives the first new one."""
        prompt = request.prompt
        for begin in range(0, len(prompt), self.size):
            rows = [(slot, begin + i, token) for i, token in enumerate(prompt[begin : begin + self.size])]
            last = begin + len(rows) == len(prompt)
            found = self.feed(rows, {len(rows) - 1} if last else set())
        request.tokens.append(found[len(rows) - 1])

    def step(self, running: dict[int, Request]) -> None:
        """One new token for each running sequence."""
        rows = [(slot, len(r.prompt) + len(r.tokens) - 1, r.tokens[-1]) for slot, r in running.items()]
        found = self.feed(rows, set(range(len(rows))))
        for index, request in enumerate(running.values()):
            request.tokens.append(found[index])


@llama_cpp.llama_log_callback
def _silent(level: int, text: bytes, data: object) -> None:
    """No messages of llama.cpp."""


def run(engine: Engine, requests: list[Request], cells: int, slots: int) -> dict[str, float]:
    """Answer all requests, as many at a time as there are slots and cells."""
    seconds = {"prefill": 0.0, "decode": 0.0}
    waiting, running, free, most = deque(requests), {}, list(range(slots)), 0
    while waiting or running:
        began = time.perf_counter()
        while waiting and free and sum(r.cells for r in running.values()) + waiting[0].cells <= cells:
            slot, request = free.pop(), waiting.popleft()
            running[slot] = request
            engine.prefill(slot, request)
        most = max(most, len(running))
        prefilled = time.perf_counter()
        if any(len(request.tokens) < request.new for request in running.values()):
            engine.step({slot: r for slot, r in running.items() if len(r.tokens) < r.new})
        for slot in [slot for slot, request in running.items() if len(request.tokens) == request.new]:
            del running[slot]
            llama_cpp.llama_memory_seq_rm(engine.memory, slot, -1, -1)
            free.append(slot)
        seconds["prefill"] += prefilled - began
        seconds["decode"] += time.perf_counter() - prefilled
    return {**seconds, "batch": most}


def sizes(job: Job, unified: bool) -> tuple[int, int]:
    """Cells and sequences whose f16 cache fits the budget."""
    cells = job.kv_budget // job.token_bytes() // PAD * PAD
    padded = -(-job.longest() // PAD) * PAD
    if padded > cells:
        raise SystemExit(f"the longest request needs {padded} cells of cache, the budget has {cells}: raise it")
    if unified:
        return cells, min(len(job.prompts), 256)
    slots = min(len(job.prompts), cells // padded)
    return padded * slots, slots


def main() -> None:
    job = read_job()
    settings: dict[str, Any] = {"n_batch": 2048, "n_ubatch": 512, "flash_attention": True, "kv_unified": False}
    settings |= job.settings
    file = dense_gguf(Path(job.gguf), Path(job.model), job.gguf_dtype) if job.gguf_dtype else Path(job.gguf)
    cells, slots = sizes(job, settings["kv_unified"])
    engine = Engine(str(file), cells, slots, job.threads, settings)
    run(engine, [Request(job.prompts[0][:64], 4)], cells, slots)
    requests = [Request(prompt, job.max_new_tokens) for prompt in job.prompts]
    began = time.perf_counter()
    spent = run(engine, requests, cells, slots)
    answer(
        job,
        "llama.cpp",
        llama_cpp.__version__,
        time.perf_counter() - began,
        [request.tokens for request in requests],
        batch=spent["batch"],
        prefill_seconds=round(spent["prefill"], 3),
        decode_seconds=round(spent["decode"], 3),
        settings={**settings, "weights": job.gguf_dtype or file.name, "kv": "f16", "cells": cells},
    )


if __name__ == "__main__":
    main()
