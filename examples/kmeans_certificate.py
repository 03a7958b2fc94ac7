"""Cluster with a certificate of local optimality, refute another library's clustering, and plot silhouettes.

Writes silhouettes.svg into the current directory. Needs the plot's library: pip install matplotlib
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from sklearn.cluster import KMeans
from sklearn.datasets import load_iris
from sklearn.metrics import silhouette_samples

from minseek.cluster import LOKMeans, verify

CLUSTERS = 10


def silhouette_plot(points: np.ndarray, labels: np.ndarray, path: str) -> float:
    """Draw one band a cluster, its rows by silhouette; return the mean silhouette."""
    values = silhouette_samples(points, labels)
    figure = Figure(figsize=(6, 4), layout="constrained")
    panel = figure.subplots()
    bottom = 0
    for cluster in range(CLUSTERS):
        band = np.sort(values[labels == cluster])
        panel.fill_betweenx(np.arange(bottom, bottom + len(band)), 0, band)
        bottom += len(band) + 3
    panel.axvline(values.mean(), color="black", linestyle=":")
    panel.set(xlabel="silhouette", ylabel="rows, by cluster", yticks=[], title=f"Iris, K = {CLUSTERS}")
    figure.savefig(path)
    return float(values.mean())


def main() -> None:
    points = load_iris().data
    start = points[np.random.default_rng(0).choice(len(points), CLUSTERS, replace=False)]
    other = KMeans(CLUSTERS, init=start, n_init=1, tol=0).fit(points)
    ours = LOKMeans(CLUSTERS, init=start, n_init=1).fit(points)
    print(f"scikit-learn: loss {other.inertia_:.3f}; {verify(points, other.labels_)}")
    print(f"minseek:      loss {ours.inertia_:.3f}; {ours.certificate_}")
    print(f"mean silhouette {silhouette_plot(points, ours.labels_, 'silhouettes.svg'):.3f}, in silhouettes.svg")
    assert ours.certificate_.optimality == "D"


if __name__ == "__main__":
    main()
