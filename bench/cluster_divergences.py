"""Gains from the right divergence and from single moves, at equal time: counts, spectra and points in space.

    python bench/cluster_divergences.py [--seconds 20] [--report]

Three data sets with known groups: Poisson counts, Gamma-distributed power spectra, Gaussian points. Each is
clustered with every divergence that is defined for it, again and again from new k-means++ starts for the same time:
by Lloyd's alone, and with sweeps. Reported are the lowest loss so far and the agreement of that clustering with the
groups (adjusted Rand index).
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import numpy as np
from common import RESULTS, kept, table, write
from sklearn.metrics import adjusted_rand_score

from minseek.cluster import LOKMeans

PACKAGES = ("scikit-learn", "numpy")
CLUSTERS = 20


def data_sets() -> dict[str, tuple[Any, Any]]:
    """Rows and their groups."""
    rng = np.random.default_rng(0)
    groups = rng.integers(0, CLUSTERS, 2000)
    topics = rng.gamma(0.5, size=(CLUSTERS, 30)) + 0.02
    lengths = rng.gamma(4, 10, size=2000)
    counts = rng.poisson(topics[groups] / topics[groups].sum(axis=1, keepdims=True) * lengths[:, None]).astype(float)
    spectra = np.exp(rng.normal(size=(CLUSTERS, 24)).cumsum(axis=1) * 0.5)
    power = spectra[groups] * rng.gamma(3.0, 1 / 3.0, size=(2000, 24))
    space = rng.normal(size=(CLUSTERS, 8))[groups] * 1.5 + rng.normal(size=(2000, 8))
    return {
        "counts": (counts[counts.sum(axis=1) > 0], groups[counts.sum(axis=1) > 0]),
        "spectra": (power, groups),
        "points": (space, groups),
    }


def defined(divergence: str, x: Any) -> bool:
    return divergence == "squared_euclidean" or (x.min() >= 0 if divergence == "kl" else x.min() > 0)


def race(x: Any, groups: Any, divergence: str, algorithm: str, seconds: float) -> dict[str, Any]:
    """Restart for `seconds` seconds; record the lowest loss so far after each start."""
    curve, best, rand = [], np.inf, 0.0
    began, seed = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        model = LOKMeans(CLUSTERS, divergence=divergence, algorithm=algorithm, random_state=seed, max_iter=10**4).fit(x)
        if model.inertia_ < best:
            best, rand = model.inertia_, adjusted_rand_score(groups, model.labels_)
        seed += 1
        curve.append((time.perf_counter() - began, float(best)))
    return {"curve": curve, "starts": seed, "loss": float(best), "rand": float(rand)}


def run(seconds: float) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, (x, groups) in data_sets().items():
        for divergence in ("squared_euclidean", "kl", "itakura_saito"):
            if not defined(divergence, x):
                continue
            entry = {a: race(x, groups, divergence, a, seconds) for a in ("lloyd", "sweep")}
            found.setdefault(name, {})[divergence] = entry
            print(name, divergence, {a: (e["starts"], e["loss"], e["rand"]) for a, e in entry.items()}, flush=True)
    return found


def report(figures: dict[str, Any]) -> str:
    rows = []
    for name, entry in figures["found"].items():
        for divergence, both in entry.items():
            plain, swept = both["lloyd"], both["sweep"]
            rows.append(
                [
                    name,
                    divergence,
                    *(f"{r['loss']:.6g} ({r['starts']})" for r in (plain, swept)),
                    f"{100 * (1 - swept['loss'] / plain['loss']):+.2f} %",
                    *(f"{r['rand']:.3f}" for r in (plain, swept)),
                ]
            )
    head = ("data", "divergence", "Lloyd's: lowest loss (starts)", "sweeps", "lower by", "agreement, Lloyd's", "sweeps")
    return table(f"Restarts for {figures['seconds']:.0f} s each, K = {CLUSTERS}", head, rows)


def plot(figures: dict[str, Any]) -> None:
    """Lowest loss so far against time, for every data set and divergence."""
    import matplotlib.pyplot as plt

    panels = [(name, d, both) for name, entry in figures["found"].items() for d, both in entry.items()]
    fig, axes = plt.subplots(2, -(-len(panels) // 2), figsize=(3 * -(-len(panels) // 2), 5))
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (name, divergence, both) in zip(axes.flat, panels, strict=False):
        floor = min(r["loss"] for r in both.values())
        for algorithm, result in both.items():
            seconds, losses = zip(*result["curve"], strict=True)
            above = [100 * (loss / floor - 1) for loss in losses]
            axis.step(seconds, above, where="post", label="Lloyd's" if algorithm == "lloyd" else "sweeps")
        axis.set_title(f"{name}, {divergence.replace('_', ' ')}", fontsize=9)
        axis.set_xscale("log")
    axes.flat[0].legend(fontsize=8)
    fig.supxlabel("seconds", fontsize=9)
    fig.supylabel("lowest loss so far, % above the best", fontsize=9)
    fig.tight_layout()
    fig.savefig(RESULTS / "cluster-divergences.svg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--report", action="store_true", help="print the table of the last run")
    args = parser.parse_args()
    if args.report:
        print(report(kept("cluster_divergences")))
        return
    warnings.simplefilter("ignore")
    figures = {"seconds": args.seconds, "found": run(args.seconds)}
    write("cluster_divergences", figures, *PACKAGES)
    plot(figures)
    print(report(figures))


if __name__ == "__main__":
    main()
