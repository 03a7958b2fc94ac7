"""Cluster with a certificate of local optimality, refute another library's clustering, and plot silhouettes.

python kmeans_certificate.py [PICTURE.svg] draws the silhouettes where a path is given, which needs matplotlib.
"""

from __future__ import annotations

import sys

import numpy as np
from sklearn.cluster import KMeans
from sklearn.datasets import load_iris
from sklearn.metrics import silhouette_samples

from minseek.cluster import LOKMeans, verify

CLUSTERS = 10


def draw_silhouettes(values: np.ndarray, labels: np.ndarray, path: str) -> None:
    """Draw one band a cluster, its rows by silhouette."""
    from matplotlib.figure import Figure

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


def main() -> None:
    points = load_iris().data
    start = points[np.random.default_rng(0).choice(len(points), CLUSTERS, replace=False)]
    other = KMeans(CLUSTERS, init=start, n_init=1, tol=0).fit(points)
    ours = LOKMeans(CLUSTERS, init=start, n_init=1).fit(points)
    print(f"scikit-learn: loss {other.inertia_:.3f}; {verify(points, other.labels_)}")
    print(f"minseek:      loss {ours.inertia_:.3f}; {ours.certificate_}")
    silhouettes = silhouette_samples(points, ours.labels_)
    print(f"mean silhouette {silhouettes.mean():.3f}")
    for path in sys.argv[1:]:
        draw_silhouettes(silhouettes, ours.labels_, path)
    assert ours.certificate_.optimality == "D"


if __name__ == "__main__":
    main()
