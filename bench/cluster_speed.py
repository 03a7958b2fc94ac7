"""LOKMeans against scikit-learn's KMeans: whole fits, a Lloyd iteration, memory.

    python bench/cluster_speed.py [--only small|large|wide|sparse|memory] [--threads 1 2] [--report]

Both begin at the same initial centers, in turns; scikit-learn with tol=0. Ours always ends with the certificate. Run
it with nothing else running.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from cluster_paper import rows_of
from common import kept, table, write
from scipy import sparse
from sklearn.cluster import KMeans, kmeans_plusplus
from threadpoolctl import threadpool_limits

from minseek.cluster import LOKMeans

PACKAGES = ("scikit-learn", "numpy")
LIMIT = 10**5


def blobs(n: int, d: int, groups: int, seed: int = 0) -> Any:
    """Overlapping Gaussian groups of different sizes and widths, float32."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(groups, d)).astype(np.float32)
    chance = rng.gamma(1.0, size=groups)
    member = rng.choice(groups, n, p=chance / chance.sum())
    width = rng.uniform(0.2, 0.8, groups).astype(np.float32)
    x = rng.standard_normal((n, d), dtype=np.float32)
    for at in range(0, n, 10**4):  # in pieces, so that memory is never more than the data
        some = slice(at, at + 10**4)
        x[some] = x[some] * width[member[some], None] + centers[member[some]]
    return x


def documents(n: int, d: int, groups: int, seed: int = 0) -> Any:
    """Rows of about 80 words out of d, drawn from a Zipf law that each group shuffles in its own way, of length one;
    CSR float32."""
    rng = np.random.default_rng(seed)
    chance = 1 / np.arange(1, d + 1) ** 1.05
    total = np.cumsum(chance / chance.sum())
    own = [np.concatenate([np.arange(100), 100 + rng.permutation(d - 100)]) for _ in range(groups)]
    rows, columns = [], []
    for i in range(n):
        words = own[i % groups][np.minimum(np.searchsorted(total, rng.random(120)), d - 1)]
        rows.append(np.full(len(words), i))
        columns.append(words)
    counts = sparse.coo_matrix(
        (np.ones(120 * n, np.float32), (np.concatenate(rows), np.concatenate(columns))), shape=(n, d)
    ).tocsr()
    counts.data = np.log1p(counts.data)
    norms = np.sqrt(np.asarray(counts.multiply(counts).sum(axis=1)).ravel())
    return sparse.csr_matrix(sparse.diags(1 / norms).astype(np.float32) @ counts)


def theirs(x: Any, start: Any, weights: Any = None, limit: int = LIMIT) -> dict[str, float]:
    began = time.perf_counter()
    model = KMeans(len(start), init=start, n_init=1, tol=0, max_iter=limit).fit(x, sample_weight=weights)
    return {"seconds": time.perf_counter() - began, "passes": model.n_iter_, "loss": float(model.inertia_)}


def ours(x: Any, start: Any, weights: Any = None, limit: int = LIMIT, algorithm: str = "sweep") -> dict[str, Any]:
    began = time.perf_counter()
    model = LOKMeans(len(start), init=start, algorithm=algorithm, max_iter=limit).fit(x, sample_weight=weights)
    seconds = time.perf_counter() - began
    proof = model.certificate_
    return {"seconds": seconds, "passes": model.n_iter_, "loss": float(model.inertia_), "proved": str(proof.optimality)}


def in_turns(rounds: int, *actions: Callable[[], dict[str, Any]]) -> list[dict[str, Any]]:
    """The run of median time of each, after one round that is not counted where there are several."""
    runs: list[list[dict[str, Any]]] = [[] for _ in actions]
    for r in range(rounds + (rounds > 1)):
        for kept_runs, action in zip(runs, actions, strict=True):
            time.sleep(0.02)  # threads of the previous action keep spinning for a while
            found = action()
            if r or rounds == 1:
                kept_runs.append(found)
    return [min(rs, key=lambda r: abs(r["seconds"] - statistics.median(q["seconds"] for q in rs))) for rs in runs]


def fits(
    title: str, x: Any, clusters: int, rounds: int, weights: Any = None, iterations: int = 10, seed: int = 0
) -> dict[str, Any]:
    """A whole fit of each, and a Lloyd iteration of each: (a long run - a short one) / their difference in passes."""
    start = kmeans_plusplus(x, clusters, random_state=seed)[0] if x.shape[0] < 10**4 else first_rows(x, clusters)
    sk, we = in_turns(rounds, lambda: theirs(x, start, weights), lambda: ours(x, start, weights))
    found = {"title": title, "scikit-learn": sk, "minseek": we}
    short, long = 2, 2 + iterations
    times = in_turns(
        rounds,
        lambda: theirs(x, start, weights, short),
        lambda: theirs(x, start, weights, long),
        lambda: ours(x, start, weights, short, "lloyd"),
        lambda: ours(x, start, weights, long, "lloyd"),
    )
    found["iteration"] = [(b["seconds"] - a["seconds"]) / iterations for a, b in (times[:2], times[2:])]
    return found


def first_rows(x: Any, clusters: int) -> Any:
    rows = np.random.default_rng(1).choice(x.shape[0], clusters, replace=False)
    return x[rows].toarray() if sparse.issparse(x) else x[rows]


def small() -> list[dict[str, Any]]:
    """Means over 20 starts, each fit the median of 5 in turns."""
    found = []
    for name in ("yeast", "wine_quality"):
        x, weights = rows_of(name)
        runs = [fits(f"{name}, K = 50, 20 starts", x, 50, 5, weights, seed=seed) for seed in range(20)]
        mean = dict(runs[0])
        for who in ("scikit-learn", "minseek"):
            proved = {str(r[who].get("proved")) for r in runs}
            mean[who] = {key: statistics.mean(r[who][key] for r in runs) for key in ("seconds", "passes", "loss")}
            mean[who]["proved"] = ", ".join(sorted(proved))
        mean["iteration"] = [statistics.mean(r["iteration"][e] for r in runs) for e in range(2)]
        found.append(mean)
    return found


def large() -> list[dict[str, Any]]:
    return [fits("1,000,000 x 32, K = 256, float32", blobs(10**6, 32, 1000), 256, 1)]


def wide() -> list[dict[str, Any]]:
    return [fits("200,000 x 128, K = 1,000, float32", blobs(200_000, 128, 3000), 1000, 1)]


def thin() -> list[dict[str, Any]]:
    return [fits("20,000 x 50,000 CSR, K = 100, float32", documents(20_000, 50_000, 150), 100, 1)]


def memory() -> list[dict[str, Any]]:
    """Peak of the process beyond what it has with the data loaded."""
    found = []
    for who in ("scikit-learn", "minseek"):
        code = f"import cluster_speed; cluster_speed.measure_memory({who!r})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=sys.path[0])
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return found


def measure_memory(who: str) -> None:
    import resource

    x = blobs(10**6, 32, 1000)
    start = first_rows(x, 256)
    (theirs if who == "scikit-learn" else ours)(x[:5000], start[:20], limit=2)  # everything is imported
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    warnings.simplefilter("ignore")
    (theirs if who == "scikit-learn" else ours)(x, start, limit=5)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"engine": who, "before_mb": before / 1000, "peak_mb": peak / 1000}))


SECTIONS: dict[str, Callable[[], list[dict[str, Any]]]] = {"small": small, "large": large, "wide": wide, "sparse": thin}


def cold() -> dict[str, float]:
    """Seconds of a first fit with an empty cache, the kernels built on the way; and from the start of Python."""
    import os
    import tempfile

    lines = (
        "import time, numpy as np",
        "from minseek.cluster import LOKMeans",
        "began = time.perf_counter()",
        "LOKMeans(3).fit(np.eye(9))",
        "print(time.perf_counter() - began)",
    )
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        command = [sys.executable, "-c", "\n".join(lines)]
        done = subprocess.run(
            command, check=True, env=os.environ | {"MINSEEK_CACHE": folder}, capture_output=True, text=True
        )
        return {"total": time.perf_counter() - began, "fit": float(done.stdout)}


def report(figures: dict[str, Any]) -> str:
    lines = []
    for threads, sections in figures["threads"].items():
        rows = []
        for section in sections.values():
            for r in section:
                sk, we = r["scikit-learn"], r["minseek"]
                rows.append(
                    [
                        r["title"],
                        *(f"{q['seconds']:.3g} ({q['passes']:.0f})" for q in (sk, we)),
                        f"{we['seconds'] / sk['seconds']:.2f}",
                        *(f"{1000 * s:.3g}" for s in r["iteration"]),
                        f"{100 * (1 - we['loss'] / sk['loss']):.2f} %",
                        we["proved"],
                    ]
                )
        head = (
            "data",
            "scikit-learn, s (passes)",
            "minseek, s (passes)",
            "ratio",
            "scikit-learn, ms a Lloyd pass",
            "minseek",
        )
        lines.append(
            table(
                f"Whole fits from the same start centers, {threads} thread(s)", (*head, "loss lower by", "proved"), rows
            )
        )
    if "memory" in figures:
        rows = [[r["engine"], f"{r['before_mb']:.0f}", f"{r['peak_mb']:.0f}"] for r in figures["memory"]]
        lines.append(
            table(
                "Memory of the process, MB: 1,000,000 x 32, K = 256, float32", ("engine", "with the data", "peak"), rows
            )
        )
    if "cold" in figures:
        cold = figures["cold"]
        lines.append(
            f"\nFirst fit ever, kernels built on the way: {cold['fit']:.1f} s; from the start of Python "
            f"{cold['total']:.1f} s"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="*", choices=(*SECTIONS, "memory", "cold"), default=[*SECTIONS, "memory", "cold"]
    )
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--report", action="store_true", help="print the tables of the last run")
    args = parser.parse_args()
    if args.report:
        print(report(kept("cluster_speed")))
        return
    warnings.simplefilter("ignore")
    try:
        figures = kept("cluster_speed")
    except FileNotFoundError:
        figures = {"threads": {}}
    for name in args.only:
        if name == "cold":
            figures["cold"] = cold()
        elif name == "memory":
            figures["memory"] = memory()
        else:
            for threads in args.threads:
                with threadpool_limits(threads):
                    figures["threads"].setdefault(str(threads), {})[name] = SECTIONS[name]()
                write("cluster_speed", figures, *PACKAGES)
                print(report(figures), flush=True)
    write("cluster_speed", figures, *PACKAGES)
    print(report(figures))


if __name__ == "__main__":
    main()
