"""LOKMeans as a scikit-learn estimator: its checks, its inputs, its messages."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from minseek.cluster import KL, Divergence, ItakuraSaito, LOKMeans, Mahalanobis, register
from minseek.cluster import divergences as known
from minseek.errors import InputError

# Rows that are given twice merge into one point of double weight: the same clustering problem, but other initial
# centers.
DRAWS = "initial centers are drawn by the number of rows; scikit-learn's KMeans has these expected failures, too"
EXPECTED = {
    "check_sample_weight_equivalence_on_dense_data": DRAWS,
    "check_sample_weight_equivalence_on_sparse_data": DRAWS,
}
OUTSIDE = {
    "check_clustering": "passes negative numbers, which KL is not defined for",
    "check_positive_only_tag_during_fit": "wants scikit-learn's own sentence; ours names row, column and value",
}


@parametrize_with_checks(
    [
        LOKMeans(n_clusters=3),
        LOKMeans(n_clusters=3, algorithm="min-d-lo"),
        LOKMeans(n_clusters=3, divergence="kl"),
    ],
    expected_failed_checks=lambda model: EXPECTED | (OUTSIDE if model.divergence == "kl" else {}),
)
def test_scikit_learn_estimator_checks(estimator: Any, check: Any) -> None:
    check(estimator)


X = np.random.default_rng(0).normal(size=(120, 3))


@pytest.mark.slow
def test_import_does_not_import_torch() -> None:
    code = "import sys, minseek.cluster; minseek.cluster.LOKMeans(2).fit([[0.], [1.], [3.]]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "gguf"} & set(done.stdout.split())


def test_scikit_learn_api() -> None:
    model = LOKMeans(5, random_state=0).fit(X)
    assert model.labels_.dtype == np.int32
    assert model.cluster_centers_.shape == (5, 3)
    assert model.n_features_in_ == 3
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    np.testing.assert_array_equal(clone(model).fit_predict(X), model.labels_)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(X), model.labels_)
    assert model.score(X) == pytest.approx(-model.inertia_)
    assert model.score(X, sample_weight=np.full(120, 2.0)) == pytest.approx(-2 * model.inertia_)
    distances = model.transform(X)
    np.testing.assert_allclose((distances.min(axis=1) ** 2).sum(), model.inertia_)
    np.testing.assert_allclose(clone(model).fit_transform(X), distances)
    assert list(model.get_feature_names_out()) == [f"lokmeans{k}" for k in range(5)]
    piped = make_pipeline(StandardScaler(), LOKMeans(4, random_state=0)).fit(X)
    assert piped.predict(X).max() == 3
    assert repr(LOKMeans(3)) == "LOKMeans(n_clusters=3)"
    with pytest.raises(NotFittedError):
        LOKMeans().predict(X)


def test_set_output_returns_data_frames() -> None:
    pandas = pytest.importorskip("pandas")
    frame = LOKMeans(4, random_state=0).set_output(transform="pandas").fit_transform(X)
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns) == [f"lokmeans{k}" for k in range(4)]


@pytest.mark.parametrize("init", ["k-means++", "k-means||", "random", X[:6], lambda x, k, random_state: x[:k]])
@pytest.mark.parametrize("divergence", ["squared_euclidean", "kl", "itakura_saito", "mahalanobis"])
def test_every_init_with_every_divergence(init: Any, divergence: str) -> None:
    x = np.exp(X)
    given = Mahalanobis(np.diag([1.0, 2.0, 3.0])) if divergence == "mahalanobis" else divergence
    start = np.exp(init) if isinstance(init, np.ndarray) else init
    one = LOKMeans(6, divergence=given, init=start, random_state=3).fit(x)
    other = LOKMeans(6, divergence=given, init=start, random_state=3).fit(x)
    assert one.certificate_.optimality == "D"
    np.testing.assert_array_equal(one.labels_, other.labels_)
    np.testing.assert_array_equal(one.predict(x), one.labels_)
    assert one.transform(x).shape == (120, 6)


def test_kmeans_plus_plus_is_as_good_as_scikit_learn() -> None:
    """Loss of the initial centers themselves, mean of 20 draws."""
    from sklearn.cluster import kmeans_plusplus

    from minseek.cluster.divergences import SquaredEuclidean
    from minseek.cluster.init import initial_centers
    from minseek.cluster.points import Points

    x = (
        np.random.default_rng(7).normal(size=(600, 2))
        + 6 * np.random.default_rng(8).normal(size=(15, 2))[np.arange(600) % 15]
    )

    def loss(centers: Any) -> float:
        return float(((x[:, None] - centers) ** 2).sum(axis=2).min(axis=1).sum())

    points, seeds = Points(x), range(20)
    means = {}
    for method in ("k-means++", "k-means||", "random"):
        draws = [initial_centers(method, points, SquaredEuclidean(), 15, np.random.RandomState(s)) for s in seeds]
        means[method] = np.mean([loss(centers) for centers in draws])
    theirs = np.mean([loss(kmeans_plusplus(x, 15, random_state=s)[0]) for s in seeds])
    assert means["k-means++"] < 1.1 * theirs
    assert means["k-means||"] < 1.1 * theirs
    assert means["random"] > 1.5 * theirs


def test_more_starts_are_never_worse() -> None:
    losses = [LOKMeans(10, n_init=n, random_state=0).fit(X).inertia_ for n in (1, 5, 20)]
    assert losses == sorted(losses, reverse=True)
    best = LOKMeans(10, n_init=20, random_state=0).fit(X)
    assert best.certificate_.loss == best.inertia_
    assert best.certificate_.optimality == "D"


def test_given_centers_are_one_start() -> None:
    with pytest.warns(RuntimeWarning, match="only one init instead of n_init=5"):
        LOKMeans(3, init=X[:3], n_init=5).fit(X)


def test_verbose_prints_every_pass(capsys: pytest.CaptureFixture[str]) -> None:
    LOKMeans(5, init=X[:5], verbose=1).fit(X)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "pass 1 (Lloyd): 120 points change"
    assert lines[-1].endswith("(sweep): 0 points change")


def test_max_iter_warns_and_is_recorded() -> None:
    with pytest.warns(ConvergenceWarning, match="max_iter=1 passes ended the search"):
        model = LOKMeans(10, max_iter=1, init=X[:10]).fit(X)
    assert model.certificate_.limit_hit
    assert model.n_iter_ == 1
    assert "max_iter was reached" in str(model.certificate_)


def test_registered_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Squared Euclidean under another name: the generic path of a registered divergence must agree with the
    built-in."""
    monkeypatch.setattr(known, "_REGISTERED", dict(known._REGISTERED))

    @register
    class Square(Divergence):
        name = "square"

        def phi(self, x: Any) -> Any:
            return (x**2).sum(axis=-1)

        def gradient(self, x: Any) -> Any:
            return 2 * x

    one = LOKMeans(6, divergence="square", init=X[:6]).fit(X)
    assert one.certificate_.optimality == "D"
    assert one.inertia_ == pytest.approx(((X - one.cluster_centers_[one.labels_]) ** 2).sum())
    np.testing.assert_allclose(LOKMeans(6, divergence=Square(), init=X[:6]).fit(X).inertia_, one.inertia_)
    with pytest.raises(InputError, match="already registered"):
        register(Square)


def bad(value: float, row: int, column: int) -> Any:
    x = np.abs(X) + 1
    x[row, column] = value
    return x


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (LOKMeans(2), bad(np.nan, 7, 2), "X contains NaN in row 7, column 2; remove or replace"),
        (LOKMeans(2), bad(np.inf, 0, 1), "X contains infinity in row 0, column 1"),
        (LOKMeans(2), bad(-np.inf, 119, 0).astype(np.float32), "X contains infinity in row 119, column 0"),
        (LOKMeans(2), sparse.csr_matrix(bad(np.nan, 5, 1)), "X contains NaN in row 5, column 1"),
        (
            LOKMeans(2, divergence="kl"),
            bad(-0.5, 3, 1),
            "X has -0.5 in row 3, column 1, but .*'kl' .* numbers >= 0 only",
        ),
        (LOKMeans(2, divergence="itakura_saito"), bad(0, 3, 1), "X has 0 in row 3, column 1, .* numbers > 0 only"),
        (LOKMeans(2, divergence="kl"), sparse.csr_matrix(X), "sparse data cannot be clustered by the divergence 'kl'"),
        (
            LOKMeans(2, divergence="cosine"),
            X,
            "divergence='cosine' is not known; choose one of itakura_saito, kl, mahalanobis",
        ),
        (LOKMeans(2, divergence="mahalanobis"), X, "has parameters; pass an object"),
        (
            LOKMeans(2, divergence=Mahalanobis(np.eye(2))),
            X,
            r"X has 3 columns but the matrix of Mahalanobis is \(2, 2\)",
        ),
        (LOKMeans(2, init=X[:3]), X, r"initial centers \(3, 3\) does not match the number of clusters; 2 centers"),
        (LOKMeans(2, init=[[0, 0, np.nan], [1, 1, 1]]), X, "init contains NaN in row 0, column 2"),
        (LOKMeans(200), X, "n_samples=120 should be >= n_clusters=200, .* which are 120; ask for at most"),
        (LOKMeans(0), X, "The 'n_clusters' parameter of LOKMeans must be an int in the range"),
        (LOKMeans(2, algorithm="hartigan"), X, "The 'algorithm' parameter of LOKMeans must be a str among"),
        (LOKMeans(2, tol=-1), X, "The 'tol' parameter"),
    ],
)
def test_invalid_input_gives_one_sentence(model: Any, x: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.fit(x)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.append(np.ones(119), -1.0), "sample_weight is -1.0 in row 119; weights are finite numbers >= 0"),
        (np.zeros(120), "zero"),
        (np.append(np.ones(119), np.nan), "NaN"),
    ],
)
def test_invalid_weights(weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LOKMeans(2).fit(X, sample_weight=weights)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones((2, 3)), r"shape \(2, 3\); give a square one"),
        (np.array([[1.0, 2.0], [0.0, 1.0]]), "not symmetric"),
        (np.array([[1.0, 2.0], [2.0, 1.0]]), "not positive definite: its smallest eigenvalue is -1"),
    ],
)
def test_invalid_matrices(matrix: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Mahalanobis(matrix)


def test_predict_rejects_data_outside_the_domain() -> None:
    model = LOKMeans(2, divergence=KL()).fit(np.exp(X))
    with pytest.raises(InputError, match="X has -1 in row 0, column 0"):
        model.predict([[-1.0, 1.0, 1.0]])
    assert ItakuraSaito().domain == "numbers > 0"


def test_works_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = LOKMeans(8, init=X[:8]).fit(X)
    monkeypatch.setenv("MINSEEK_NATIVE", "0")
    slow = LOKMeans(8, init=X[:8]).fit(X)
    assert slow.certificate_.optimality == "D"
    assert slow.inertia_ == pytest.approx(fast.inertia_, rel=0.05)
    assert KMeans(8, init=X[:8], n_init=1).fit(X).inertia_ >= min(slow.inertia_, fast.inertia_)


def test_register_needs_a_class_with_a_name() -> None:
    class Nameless(Divergence):
        pass

    class Empty(Divergence):
        name = ""

    for kind in (Nameless, Empty):
        with pytest.raises(InputError, match=f"the divergence {kind.__name__} has no name; give it a class attribute"):
            register(kind)
    with pytest.raises(TypeError, match="a registered divergence must be a class, not <"):
        register(Empty())  # type: ignore[type-var]
    assert "" not in known._REGISTERED
