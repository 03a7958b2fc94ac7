"""`minseek serve` under load: are all answers right, is its memory flat, how long does one wait?

    python bench/serve_load.py [-m MODEL] [--seconds 300] [--clients 64] [--slots 8] [--queue 32]

64 clients send valid requests (greedy, each with its marker), wrong ones, and leave in the middle of streams.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx2
import psutil
from common import table, write
from serve_clients import Answer, Load, whole
from serve_requests import Request, valid_requests

SAMPLE = 10  # readings, one a second, that are averaged at the beginning and at the end


@contextmanager
def served(model: str, *flags: str) -> Iterator[tuple[str, psutil.Process]]:
    """The address and the process of a server that runs meanwhile, and must then stop with exit code 0."""
    command = [sys.executable, "-m", "minseek", "serve", "-m", model, "--port", "0", "--dtype", "float32", *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said: list[str] = []
    for line in process.stderr:
        said.append(line)
        if address := re.search(r"http://\S+", line):
            break
    else:
        raise RuntimeError(f"the server did not start: {''.join(said)}")
    log = threading.Thread(target=lambda: said.extend(process.stderr), daemon=True)  # type: ignore[arg-type]
    log.start()  # else it would wait for its log to be read
    try:
        yield address[0], psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(60)
    assert code == 0, f"the server ended with {code}"


async def alone(url: str, requests: list[Request]) -> dict[str, Answer]:
    """Answer to each request when it is alone."""
    answers = {}
    async with httpx2.AsyncClient(base_url=url, timeout=120) as client:
        for request in requests:
            status, answer, _, _ = await whole(client, request)
            assert status == 200, f"{status} for {request}"
            answers[request.marker] = answer
    return answers


def measure(
    model: str,
    *,
    seconds: float = 300,
    clients: int = 64,
    slots: int = 8,
    queue: int = 32,
    warm_up: float = 20,
    kinds: int = 40,
    max_tokens: int = 100,
) -> dict[str, Any]:
    """Load a server with several kinds of requests, and report the outcome."""
    flags = ("--slots", str(slots), "--slot-tokens", "400", "--queue", str(queue))
    with served(model, *flags) as (url, process):
        requests = valid_requests(kinds, max_tokens)
        load = Load(requests, asyncio.run(alone(url, requests)), slot_tokens=400)
        resident: list[int] = []
        over = threading.Event()

        def sample() -> None:
            while not over.wait(1):
                resident.append(process.memory_info().rss)

        sampler = threading.Thread(target=sample)
        sampler.start()
        began = time.monotonic()
        asyncio.run(load.run(url, clients, seconds))
        spent = time.monotonic() - began
        over.set()
        sampler.join()
        settle = time.monotonic() + 5
        while (used := _metric(url, "minseek_slots_used")) and time.monotonic() < settle:
            time.sleep(0.05)
        waiting = _metric(url, "minseek_queue_length")
    count = min(SAMPLE, len(resident) // 4)
    warm = statistics.mean(resident[int(warm_up) : int(warm_up) + count])
    end = statistics.mean(resident[-count:])
    tally = load.tally
    return {
        "model": model,
        "clients": clients,
        "slots": slots,
        "queue": queue,
        "seconds": round(spent, 1),
        "statuses": dict(sorted(tally.statuses.items())),
        "mistakes": tally.mistakes[:20],
        "mistakes_count": len(tally.mistakes),
        "left_midway": tally.left,
        "slots_used_afterwards": used,
        "queue_afterwards": waiting,
        "tokens_per_second": round(tally.tokens / spent, 1),
        "request_seconds": _quantiles(tally.seconds),
        "first_token_seconds": _quantiles(tally.first),
        "rss_mb_warm": round(warm / 1e6, 1),
        "rss_mb_end": round(end / 1e6, 1),
        "rss_growth": round(end / warm - 1, 4),
    }


def _metric(url: str, name: str) -> float:
    lines = httpx2.get(url + "/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(name + " "))


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(values, n=20, method="inclusive")
    return {"p50": round(cuts[9], 3), "p95": round(cuts[18], 3), "max": round(max(values), 3)}


def report(found: dict[str, Any]) -> str:
    """The figures as a table."""
    whole_, first = found["request_seconds"], found["first_token_seconds"]
    memory = f"{found['rss_mb_warm']} MB, then {found['rss_mb_end']} MB ({100 * found['rss_growth']:+.1f} %)"
    rows = [
        *((f"requests: {kind}", count) for kind, count in found["statuses"].items()),
        ("wrong answers, statuses, texts of others", found["mistakes_count"]),
        ("slots still taken afterwards", found["slots_used_afterwards"]),
        ("a valid request, p50 / p95 / longest", f"{whole_['p50']} / {whole_['p95']} / {whole_['max']} s"),
        ("its first token, p50 / p95 / longest", f"{first['p50']} / {first['p95']} / {first['max']} s"),
        ("tokens/s of complete answers", found["tokens_per_second"]),
        ("resident memory after the warm-up, and at the end", memory),
    ]
    title = f"{found['clients']} clients for {found['seconds']} s; {found['slots']} slots, {found['queue']} may wait"
    return table(title, ["what", "figure"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="tiny")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--queue", type=int, default=32)
    given = parser.parse_args()
    found = measure(given.model, seconds=given.seconds, clients=given.clients, slots=given.slots, queue=given.queue)
    print(report(found))
    for mistake in found["mistakes"]:
        print(mistake)
    write("serve_load", found, "fastapi", "uvicorn")
    sys.exit(found["mistakes_count"] > 0)


if __name__ == "__main__":
    main()
