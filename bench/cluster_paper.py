"""The paper's comparison: losses of all algorithms on Iris, yeast and wine_quality, with its reference code and
scikit-learn.

    python bench/cluster_paper.py [--starts 20] [--report]

Every algorithm begins at the same initial centers, scikit-learn too; "random" draws them as the reference code does
(by weight, with replacement), "k-means++" as scikit-learn does. Equal rows are merged and have their number as
weight, as in the reference code.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from common import kept, table, write
from sklearn.cluster import KMeans, kmeans_plusplus

from minseek.cluster import LOKMeans, verify

PACKAGES = ("scikit-learn", "numpy")
DATA = Path(__file__).parent / "data" / "kmeans"
ALGORITHMS = ("lloyd", "c-lo", "d-lo", "min-d-lo", "sweep")
# Mean and minimum loss of the authors' C++ code (K-means, D-LO, Min-D-LO) from 20 random starts, 10 for wine_quality
# at K = 50; measured by us on one core of a machine like this one, with other draws of initial centers than here.
# Seconds a run in the last column.
REFERENCE: dict[
    tuple[str, int], tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, ...]]
] = {
    ("Iris", 10): ((31.01, 27.16), (30.32, 26.39), (30.33, 26.59), (0.0002, 0.0005, 0.0006)),
    ("Iris", 50): ((8.757, 6.703), (7.095, 5.803), (7.133, 5.660), (0.0005, 0.006, 0.008)),
    ("yeast", 10): ((50.05, 45.78), (48.67, 45.77), (48.67, 45.77), (0.008, 0.024, 0.026)),
    ("yeast", 50): ((23.78, 23.22), (22.99, 22.55), (22.95, 22.32), (0.032, 0.62, 0.62)),
    ("wine_quality", 10): ((1.3821e6, 1.3772e6), (1.3817e6, 1.3754e6), (1.3818e6, 1.3754e6), (0.059, 0.10, 0.11)),
    ("wine_quality", 50): ((435121, 400551), (422476, 382335), (423359, 382340), (0.42, 2.46, 2.28)),
}


def rows_of(name: str) -> tuple[Any, Any]:
    """Different rows, and how often each occurs."""
    x = np.loadtxt(DATA / f"{name}.txt", skiprows=1)
    rows, counts = np.unique(x, axis=0, return_counts=True)
    return rows, counts.astype(float)


def starts_of(kind: str, x: Any, weights: Any, clusters: int, seed: int) -> Any:
    if kind == "k-means++":
        return kmeans_plusplus(x, clusters, sample_weight=weights, random_state=seed)[0]
    drawn = np.random.RandomState(seed).choice(len(x), clusters, p=weights / weights.sum())
    return x[drawn]


def run(name: str, clusters: int, kind: str, starts: int) -> dict[str, Any]:
    x, weights = rows_of(name)
    found: dict[str, dict[str, list[float]]] = {}
    refuted = 0
    for seed in range(starts):
        centers = starts_of(kind, x, weights, clusters, seed)
        for algorithm in ("scikit-learn", *ALGORITHMS):
            began = time.perf_counter()
            if algorithm == "scikit-learn":
                model = KMeans(clusters, init=centers, n_init=1, tol=0, max_iter=10**5)
            else:
                model = LOKMeans(clusters, init=centers, algorithm=algorithm, max_iter=10**5)
            model.fit(x, sample_weight=weights)
            seconds = time.perf_counter() - began
            proof = verify(x, model.labels_, sample_weight=weights, n_clusters=clusters)
            if algorithm == "scikit-learn":
                refuted += proof.optimality != "D"
            entry = found.setdefault(algorithm, {"loss": [], "seconds": [], "passes": [], "D": []})
            entry["loss"].append(proof.loss)
            entry["seconds"].append(seconds)
            entry["passes"].append(model.n_iter_)
            entry["D"].append(float(proof.optimality == "D"))
    return {"data": name, "rows": len(x), "clusters": clusters, "start": kind, "found": found, "refuted": refuted}


def figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def pair(losses: list[float]) -> str:
    return f"{figure(statistics.mean(losses))} / {figure(min(losses))}"


def report(figures: dict[str, Any]) -> str:
    lines = []
    for kind in ("random", "k-means++"):
        runs = [r for r in figures["runs"] if r["start"] == kind]
        rows = [
            [f"{r['data']} {r['clusters']}", *(pair(r["found"][a]["loss"]) for a in ("scikit-learn", *ALGORITHMS))]
            for r in runs
        ]
        head = ("data, K", "scikit-learn", *ALGORITHMS)
        lines.append(table(f"Mean / minimum loss of {figures['starts']} starts ({kind})", head, rows))
        rows = [
            [
                f"{r['data']} {r['clusters']}",
                *(f"{1000 * statistics.median(r['found'][a]['seconds']):.1f}" for a in ("scikit-learn", *ALGORITHMS)),
                f"{r['refuted']} of {figures['starts']}",
            ]
            for r in runs
        ]
        head = (*head, "of scikit-learn's not D-local")
        lines.append(table(f"Milliseconds a fit (median; ours with certificate), {kind}", head, rows))
    rows = []
    for r in figures["runs"]:
        if r["start"] != "random":
            continue
        plain, d_lo, min_d_lo, seconds = REFERENCE[r["data"], r["clusters"]]
        mean = statistics.mean(r["found"]["sweep"]["loss"])
        rows.append(
            [
                f"{r['data']} {r['clusters']}",
                *(" / ".join(map(figure, entry)) for entry in (plain, d_lo, min_d_lo)),
                " ".join(f"{1000 * s:g}" for s in seconds),
                f"{100 * (mean / d_lo[0] - 1):+.2f} %",
            ]
        )
    head = ("data, K", "K-means", "D-LO", "Min-D-LO", "ms a run", "mean of our sweeps against its D-LO's")
    lines.append(table("The authors' code, mean / minimum loss, random starts of its own", head, rows))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=20)
    parser.add_argument("--report", action="store_true", help="print the tables of the last run")
    args = parser.parse_args()
    if args.report:
        print(report(kept("cluster_paper")))
        return
    warnings.simplefilter("ignore")
    figures: dict[str, Any] = {"starts": args.starts, "runs": []}
    for kind in ("random", "k-means++"):
        for name, clusters in REFERENCE:
            figures["runs"].append(run(name, clusters, kind, args.starts))
            print(f"{name} {clusters} {kind}: done", flush=True)
    write("cluster_paper", figures, *PACKAGES)
    print(report(figures))


if __name__ == "__main__":
    main()
