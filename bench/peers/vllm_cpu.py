"""vLLM on the CPU: paged cache, continuous batching, chunked prefill.

PYTHON_OF_VLLM bench/peers/vllm_cpu.py JOB.json
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from job import answer, read_job

BLOCK = 32
"""Tokens of a block: the least its AMX attention takes."""
PRELOADED = ("libiomp5.so", "libtcmalloc_minimal.so.4")
"""Libraries that vLLM's manual says to preload, if the environment has them."""


def with_environment(threads: int) -> None:
    """Restart this script with settings that must precede Python: one process, Intel's OpenMP, threads on cores.

    By default vLLM runs three processes, and while its worker computes, its scheduler polls on one of the cores.
    """
    if os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") == "0":
        return
    cores = sorted(os.sched_getaffinity(0))[:threads]
    preload = [file for file in (Path(sys.prefix) / "lib").glob("lib*.so*") if file.name in PRELOADED]
    os.environ.update(
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
        VLLM_USE_AOT_COMPILE="0",  # 0.32.0 fails to read what it compiled ahead and compiles again
        VLLM_CACHE_ROOT=str(Path(sys.prefix) / "cache"),
        VLLM_LOGGING_STREAM="ext://sys.stderr",
        VLLM_LOGGING_LEVEL="WARNING",
        VLLM_NO_USAGE_STATS="1",
        HF_HUB_OFFLINE="1",
        LD_PRELOAD=":".join(map(str, preload)),
        OMP_NUM_THREADS=str(len(cores)),
        KMP_AFFINITY=f"granularity=fine,explicit,proclist=[{','.join(map(str, cores))}]",
        KMP_BLOCKTIME="5",
        KMP_TPAUSE="0",
    )
    os.execv(sys.executable, [sys.executable, *sys.argv])


class Engine:
    """An engine stepped from here: a step that feeds any part of a prompt counts as prefill, others as decoding."""

    def __init__(self, model: str, settings: dict[str, Any]) -> None:
        from vllm import LLM

        self.llm = LLM(model, skip_tokenizer_init=True, disable_log_stats=True, **settings)
        self.engine = self.llm.llm_engine
        self.scheduler = self.engine.engine_core.engine_core.scheduler
        self.blocks = self.engine.vllm_config.cache_config.num_gpu_blocks
        self.seconds = {"prefill": 0.0, "decode": 0.0}
        self.batch = 0
        self.step: Any = None
        schedule = self.scheduler.schedule

        def watched(*args: Any, **kwargs: Any) -> Any:
            self.step = schedule(*args, **kwargs)
            return self.step

        self.scheduler.schedule = watched

    def generate(self, prompts: list[list[int]], new: int) -> list[list[int]]:
        """Greedy answers of exactly `new` tokens."""
        from vllm import SamplingParams

        sampling = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, detokenize=False)
        self.seconds, self.batch = {"prefill": 0.0, "decode": 0.0}, 0
        for index, ids in enumerate(prompts):
            self.engine.add_request(str(index), {"prompt_token_ids": ids}, sampling)
        found: dict[int, list[int]] = {}
        while self.engine.has_unfinished_requests():
            began = time.perf_counter()
            for output in self.engine.step():
                if output.finished:
                    found[int(output.request_id)] = list(output.outputs[0].token_ids)
            running = len(self.step.num_scheduled_tokens)
            self.batch = max(self.batch, running)
            kind = "prefill" if self.step.total_num_scheduled_tokens > running else "decode"
            self.seconds[kind] += time.perf_counter() - began
        return [found[index] for index in range(len(prompts))]


def main() -> None:
    job = read_job()
    with_environment(job.threads)
    from vllm import __version__

    cells = job.kv_budget // job.token_bytes() // BLOCK * BLOCK - BLOCK  # it keeps one block empty
    settings: dict[str, Any] = {
        "dtype": job.dtype,
        "kv_cache_memory_bytes": job.kv_budget,
        "block_size": BLOCK,
        "max_model_len": min(8192, cells),
        "enable_prefix_caching": False,
        **job.settings,
    }
    engine = Engine(job.model, settings)
    engine.generate([job.prompts[0][:64]], 4)
    began = time.perf_counter()
    tokens = engine.generate(job.prompts, job.max_new_tokens)
    seconds = time.perf_counter() - began
    answer(
        job,
        "vllm",
        __version__,
        seconds,
        tokens,
        batch=engine.batch,
        prefill_seconds=round(engine.seconds["prefill"], 3),
        decode_seconds=round(engine.seconds["decode"], 3),
        settings={**settings, "blocks": engine.blocks, "preload": os.environ["LD_PRELOAD"].split("/")[-1]},
    )


if __name__ == "__main__":  # vLLM may start workers by importing this file again
    main()
