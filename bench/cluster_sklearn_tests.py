"""scikit-learn's own tests of KMeans, run against LOKMeans in its place.

    python bench/cluster_sklearn_tests.py [pytest options]

`sklearn.cluster.KMeans` is replaced before scikit-learn's test file is imported. The replacement takes the
two parameters that LOKMeans does not have (`verbose`, `copy_x`) and scikit-learn's names of algorithms; nothing else.
EXPLAINED says why a test cannot pass; every other failure makes this script fail.
"""

from __future__ import annotations

import sys
from typing import Any, ClassVar

import pytest

NO_PROGRESS_TEXT = "wants the very words of scikit-learn's progress lines; LOKMeans has its own"
REFUSED = "fewer different rows than clusters are an error here; scikit-learn warns and leaves clusters empty"
LIMITED = "stopped by max_iter, scikit-learn assigns once more; LOKMeans keeps the labels of the centers"
PRIVATE = "calls the private method _init_centroids, which LOKMeans does not have"
EXPLAINED: dict[str, str] = {
    "test_kmeans_verbose": NO_PROGRESS_TEXT,
    "test_kmeans_warns_less_centers_than_unique_points": REFUSED,
    "test_relocating_with_duplicates": REFUSED,
    "test_sample_weight_init": PRIVATE,
    "test_sample_weight_zero": PRIVATE,
    "test_warning_elkan_1_cluster": "Elkan's algorithm with one cluster is a warning in scikit-learn; not here",
    "test_k_means_1_iteration": LIMITED,
    "test_kmeans_predict[42-float64-2-": LIMITED,  # those with max_iter=2; with 100 they pass
}


def replacement() -> type:
    from minseek.cluster import LOKMeans
    from minseek.cluster.search import ALGORITHMS

    ALGORITHMS["lloyd"] = ALGORITHMS["elkan"] = ALGORITHMS["sweep"]

    class KMeans(LOKMeans):
        _parameter_constraints: ClassVar = {
            **LOKMeans._parameter_constraints,
            "copy_x": ["boolean"],
            "algorithm": [str],
        }

        def __init__(
            self,
            n_clusters: int = 8,
            *,
            init: Any = "k-means++",
            n_init: Any = "auto",
            max_iter: int = 300,
            tol: float = 1e-4,
            verbose: int = 0,
            random_state: Any = None,
            copy_x: bool = True,
            algorithm: str = "lloyd",
        ) -> None:
            super().__init__(
                n_clusters, init=init, n_init=n_init, max_iter=max_iter, tol=tol, random_state=random_state
            )
            self.verbose, self.copy_x = verbose, copy_x
            self.algorithm = algorithm

        @property
        def _n_init(self) -> int:
            return self._resolve_n_init()

    return KMeans


class Collect:
    """Counts of passed tests, explained failures and others."""

    def __init__(self) -> None:
        self.passed, self.explained, self.others = 0, {}, []

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when != "call" and not report.failed:
            return
        test = report.nodeid.split("::")[-1]
        name = next((known for known in EXPLAINED if test.startswith(known)), test)
        if report.passed:
            self.passed += 1
        elif report.failed and name in EXPLAINED:
            self.explained[name] = self.explained.get(name, 0) + 1
        elif report.failed:
            self.others.append(report.nodeid.split("::")[-1])


def main() -> int:
    import sklearn.cluster
    import sklearn.cluster._kmeans as module

    sklearn.cluster.KMeans = module.KMeans = replacement()
    collect = Collect()
    pytest.main(
        [
            "--pyargs",
            "sklearn.cluster.tests.test_k_means",
            "-q",
            "--no-header",
            "-p",
            "no:cacheprovider",
            *sys.argv[1:],
        ],
        [collect],
    )
    print(
        f"\npassed {collect.passed}; explained failures {sum(collect.explained.values())}; others {len(collect.others)}"
    )
    for name, count in collect.explained.items():
        print(f"  {name} ({count}): {EXPLAINED[name]}")
    for name in collect.others:
        print(f"  not explained: {name}")
    return bool(collect.others)


if __name__ == "__main__":
    raise SystemExit(main())
