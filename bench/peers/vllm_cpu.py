"""vLLM on the CPU: paged cache, continuous batching, chunked prefill.

PYTHON_OF_VLLM bench/peers/vllm_cpu.py JOB.json
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from job import answer, peak_rss_mb, read_job


def set_environment(threads: int) -> None:
    """Bind its OpenMP threads to cores, preload Intel's OpenMP in its workers, keep stdout clean and the network unused."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cores))
    os.environ.update(VLLM_LOGGING_STREAM="ext://sys.stderr", VLLM_LOGGING_LEVEL=os.environ.get("LEVEL", "WARNING"))
    os.environ.update(HF_HUB_OFFLINE="1", VLLM_CACHE_ROOT=str(Path(sys.prefix) / "cache"), VLLM_NO_USAGE_STATS="1")
    openmp = Path(sys.prefix) / "lib" / "libiomp5.so"
    if openmp.is_file() and not os.environ.get("NOIOMP"):
        os.environ["LD_PRELOAD"] = str(openmp)


def main() -> None:
    job = read_job()
    set_environment(job.threads)
    from vllm import LLM, SamplingParams, __version__

    settings: dict[str, Any] = {
        "dtype": job.dtype,
        "kv_cache_memory_bytes": job.kv_budget,
        "max_model_len": min(8192, job.kv_budget // job.token_bytes() // 32 * 32 - 32),
        "enable_prefix_caching": False,
        "block_size": 32,
        **job.settings,
    }
    engine = LLM(job.model, skip_tokenizer_init=True, disable_log_stats=True, **settings)

    def generate(prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        sampling = SamplingParams(temperature=0, max_tokens=new_tokens, ignore_eos=True, detokenize=False)
        outputs = engine.generate([{"prompt_token_ids": ids} for ids in prompts], sampling, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]

    generate([job.prompts[0][:64]], 4)
    began = time.perf_counter()
    tokens = generate(job.prompts, job.max_new_tokens)
    seconds = time.perf_counter() - began
    cache = engine.llm_engine.vllm_config.cache_config
    settings["num_gpu_blocks"]=cache.num_gpu_blocks
    answer(job, "vllm", __version__, seconds, tokens, settings=settings)


if __name__ == "__main__":  # vLLM starts its workers by importing this file anew
    main()
