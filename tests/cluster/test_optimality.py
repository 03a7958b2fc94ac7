"""LOKMeans against brute force, dynamic programming and an independent check of every single move."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.cluster import KMeans, kmeans_plusplus

from minseek.cluster import KL, ItakuraSaito, LOKMeans, Mahalanobis, c_backend, verify
from minseek.cluster.c_backend import CBackend
from minseek.cluster.dispatch import make_backend
from minseek.cluster.divergences import divergence_of
from minseek.cluster.points import Points
from minseek.native.isa import NAMES
from tests.helpers.cluster_oracles import PHI, global_optimum, global_optimum_1d, loss_of, single_moves
from tests.helpers.levels import use_level

ALGORITHMS = ("lloyd", "c-lo", "d-lo", "min-d-lo", "sweep")


@pytest.fixture(params=["C", "NumPy"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test with each backend."""
    if request.param == "NumPy":
        monkeypatch.setenv("MINSEEK_NATIVE", "0")
    return str(request.param)


def data_for(divergence: str, rng: np.random.Generator, n: int, d: int) -> np.ndarray[Any, Any]:
    if divergence == "kl":
        return rng.poisson(3.0, (n, d)).astype(float) + (rng.random((n, d)) < 0.5) * 0.5
    if divergence == "itakura_saito":
        return rng.gamma(2.0, 1.0, (n, d)) + 1e-3
    return rng.normal(size=(n, d))


# Gains that Lloyd's misses
# ------------------------------------------------------------------------------------------


def test_lloyd_stops_although_a_single_move_gains(backend: str) -> None:
    """Example of the method page: Lloyd's ends at 8.5, the best clustering has 5.1667."""
    x, start = np.array([-4.0, -2.0, 0.0, 1.5, 2.5])[:, None], [[0.0], [2.5]]
    plain = LOKMeans(2, init=start, algorithm="lloyd").fit(x)
    assert plain.inertia_ == pytest.approx(8.5)
    assert plain.certificate_.optimality is None  # 0 is as near to -2 as to 2
    assert plain.certificate_.smallest_change == pytest.approx(5.1666667 - 8.5)
    assert [m.row for m in plain.certificate_.moves] == [2]
    for algorithm in ("d-lo", "min-d-lo", "sweep"):
        better = LOKMeans(2, init=start, algorithm=algorithm).fit(x)
        assert better.inertia_ == pytest.approx(5.1666667)
        assert better.certificate_.optimality == "D"
        assert better.certificate_.moves == ()


def test_a_strict_fixed_point_is_c_local_but_need_not_be_d_local(backend: str) -> None:
    x, start = np.array([-4.0, -2.0, -0.05, 1.5, 2.5])[:, None], [[0.0], [2.5]]
    plain = LOKMeans(2, init=start, algorithm="lloyd").fit(x)
    assert plain.certificate_.optimality == "C"
    assert LOKMeans(2, init=start, algorithm="c-lo").fit(x).inertia_ == plain.inertia_
    assert LOKMeans(2, init=start, algorithm="d-lo").fit(x).inertia_ < plain.inertia_


def test_a_tie_is_not_a_local_optimum(backend: str) -> None:
    """0 is as near to -2 as to 2: a fixed point of Lloyd's that c-lo leaves."""
    x, start = np.array([-4.0, -2.0, 0.0, 1.5, 2.5])[:, None], [[0.0], [2.5]]
    assert LOKMeans(2, init=start, algorithm="lloyd").fit(x).certificate_.optimality is None
    tied = LOKMeans(2, init=start, algorithm="c-lo").fit(x)
    assert tied.certificate_.optimality in ("C", "D")
    assert tied.inertia_ < LOKMeans(2, init=start, algorithm="lloyd").fit(x).inertia_


# Oracles -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("divergence", sorted(PHI))
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("weighted", [False, True])
def test_certificate_agrees_with_an_independent_check_of_every_move(
    backend: str, divergence: str, algorithm: str, weighted: bool
) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        x = data_for(divergence, rng, 24, 3)
        weights = rng.random(24) + 0.1 if weighted else np.ones(24)
        model = LOKMeans(4, divergence=divergence, algorithm=algorithm, init="random", n_init=1, random_state=seed)
        model.fit(x, sample_weight=weights if weighted else None)
        found, proof = model.labels_, model.certificate_
        change = single_moves(x, weights, found, 4, PHI[divergence])
        change[np.arange(24), found] = np.inf
        assert model.inertia_ == pytest.approx(loss_of(x, weights, found, PHI[divergence]), rel=1e-9)
        assert proof.smallest_change == pytest.approx(change.min(), rel=1e-6, abs=1e-10)
        assert (proof.optimality == "D") == (change.min() >= -proof.tolerance)
        assert len(proof.moves) == (change.min(axis=1) < -proof.tolerance).sum()
        for move in proof.moves:
            assert move.change == pytest.approx(change[move.row, move.target], rel=1e-6)
            assert move.source == found[move.row]
        if algorithm in ("d-lo", "min-d-lo", "sweep"):
            assert proof.optimality == "D"
        if algorithm == "c-lo":
            assert proof.optimality in ("C", "D")
        for k in range(4):  # the mean is the best center under every divergence
            np.testing.assert_allclose(
                model.cluster_centers_[k],
                np.average(x[found == k], axis=0, weights=weights[found == k]),
                rtol=1e-9,
                atol=1e-12,
            )


@pytest.mark.slow
@pytest.mark.parametrize("divergence", sorted(PHI))
def test_many_starts_find_the_global_optimum(backend: str, divergence: str) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        x = data_for(divergence, rng, 7, 2)
        weights = rng.integers(1, 4, 7).astype(float)
        model = LOKMeans(3, divergence=divergence, n_init=30, random_state=0).fit(x, sample_weight=weights)
        assert model.inertia_ == pytest.approx(global_optimum(x, weights, 3, PHI[divergence]), rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-50, 50), min_size=4, max_size=25, unique=True), st.integers(2, 4), st.integers(0, 10**6))
def test_one_dimensional_loss_is_close_to_the_exact_optimum_and_never_below(
    numbers: list[int], clusters: int, seed: int
) -> None:
    x = np.array(numbers, dtype=float)
    weights = np.random.default_rng(seed).integers(1, 5, len(x)).astype(float)
    best = global_optimum_1d(x, weights, clusters)
    model = LOKMeans(clusters, n_init=20, random_state=seed).fit(x[:, None], sample_weight=weights)
    assert model.inertia_ >= best * (1 - 1e-9) - 1e-9
    assert model.inertia_ <= best * 1.25 + 1e-9
    assert model.certificate_.optimality == "D"


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(1, 9),
    st.integers(1, 40),
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from(["none", "integers", "reals", "some zero"]),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_every_shape_weight_and_type_ends_with_a_proof(
    n: int, d: int, k: int, dtype: Any, weighting: str, coarse: bool, seed: int
) -> None:
    """Coarse data are full of ties and equal rows."""
    rng = np.random.default_rng(seed)
    x = (rng.integers(-2, 3, (n, d)) if coarse else rng.normal(size=(n, d))).astype(dtype)
    weights = {
        "none": None,
        "integers": rng.integers(1, 4, n).astype(float),
        "reals": rng.random(n) + 1e-3,
        "some zero": rng.integers(0, 3, n).astype(float) + (np.arange(n) == 0),
    }[weighting]
    used = np.ones(n) if weights is None else weights
    different = len(np.unique(x[used > 0], axis=0))
    model = LOKMeans(min(k, different), random_state=seed % 1000)
    model.fit(x, sample_weight=weights)
    assert model.certificate_.optimality == "D", model.certificate_
    assert not model.certificate_.limit_hit
    assert model.cluster_centers_.dtype == dtype
    assert len(np.unique(model.labels_[used > 0])) == model.n_clusters
    exact = loss_of(x.astype(float)[used > 0], used[used > 0], model.labels_[used > 0], PHI["squared_euclidean"])
    assert model.inertia_ == pytest.approx(exact, rel=1e-5 if dtype == np.float32 else 1e-8, abs=1e-8)
    again = verify(x, model.labels_, sample_weight=weights, n_clusters=model.n_clusters)
    assert again.optimality == "D"


# Backends, bounds, threads and containers agree
# ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "d", "k"), [(3000, 2, 40), (2000, 16, 100), (5000, 7, 13), (700, 40, 600)])
def test_threads_do_not_change_results(dtype: Any, n: int, d: int, k: int) -> None:
    """The kernels give the same labels and loss with one thread and with two."""
    rng = np.random.default_rng(n)
    x = (rng.normal(size=(n, d)) + 4 * rng.normal(size=(20, d))[rng.integers(0, 20, n)]).astype(dtype)
    start = x[rng.choice(n, k, replace=False)]
    models = [LOKMeans(k, init=start, n_threads=threads, max_iter=1000).fit(x) for threads in (1, 2)]
    np.testing.assert_array_equal(models[0].labels_, models[1].labels_)
    assert models[0].inertia_ == models[1].inertia_
    assert models[0].certificate_.optimality == "D"
    assert models[0].certificate_.moves == ()


@pytest.mark.parametrize(("n_threads", "n", "wanted"), [(None, 6_000, 1), (None, 60_000, 3), (2, 60, 2)])
def test_threads_are_those_asked_for_and_by_default_one_for_small_data(
    n_threads: int | None, n: int, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(c_backend, "_default_threads", lambda: 3)
    points = Points(np.zeros((n, 16)))
    backend = make_backend(points, divergence_of("squared_euclidean"), 20, n_threads)
    assert isinstance(backend, CBackend)
    assert backend._state.n_threads == wanted


@pytest.mark.parametrize("kind", ["float32", "float64", "CSR", "weighted"])
@pytest.mark.parametrize(("n", "d", "k"), [(1500, 3, 30), (1500, 20, 100), (1500, 2, 300)])
def test_bounds_do_not_change_results(monkeypatch: pytest.MonkeyPatch, kind: str, n: int, d: int, k: int) -> None:
    """Without any bound, every pass over all centers, the search takes exactly the same steps."""
    rng = np.random.default_rng(k)
    x: Any = rng.normal(size=(n, d)) + 3 * rng.normal(size=(15, d))[rng.integers(0, 15, n)]
    weights = rng.integers(1, 5, n) * 0.5 if kind == "weighted" else None
    start = x[rng.choice(n, k, replace=False)]
    x = x.astype(np.float32) if kind == "float32" else sparse.csr_matrix(x) if kind == "CSR" else x
    bounded = LOKMeans(k, init=start, max_iter=1000, n_threads=1).fit(x, sample_weight=weights)
    for name in ("assign", "sweep"):
        step = getattr(CBackend, name)

        def without_bounds(self: CBackend, *args: Any, step: Any = step) -> Any:
            self._reset_bounds()
            self._arrays["point_clock"][:] = -1
            return step(self, *args)

        monkeypatch.setattr(CBackend, name, without_bounds)
    plain = LOKMeans(k, init=start, max_iter=1000, n_threads=1).fit(x, sample_weight=weights)
    np.testing.assert_array_equal(bounded.labels_, plain.labels_)
    assert bounded.n_iter_ == plain.n_iter_


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_backends_agree(monkeypatch: pytest.MonkeyPatch, dtype: Any) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(500, 5)).astype(dtype)
    start = x[:20]
    fast = LOKMeans(20, init=start).fit(x)
    monkeypatch.setenv("MINSEEK_NATIVE", "0")
    plain = LOKMeans(20, init=start).fit(x)
    assert fast.inertia_ == pytest.approx(
        plain.inertia_, rel=2e-2
    )  # sweeps look at the points in another order of moves
    assert plain.certificate_.optimality == fast.certificate_.optimality == "D"
    for labels in (fast.labels_, rng.integers(0, 20, 500)):
        slow = verify(x, labels)
        monkeypatch.delenv("MINSEEK_NATIVE")
        quick = verify(x, labels)
        monkeypatch.setenv("MINSEEK_NATIVE", "0")
        assert quick.loss == pytest.approx(slow.loss, rel=1e-9)
        assert quick.smallest_change == pytest.approx(slow.smallest_change, rel=1e-6)
        assert quick.smallest_gap == pytest.approx(slow.smallest_gap, rel=1e-5, abs=1e-9)
        assert [m[:3] for m in quick.moves] == [m[:3] for m in slow.moves]


@pytest.mark.parametrize("kind", ["float32", "float64", "CSR"])
@pytest.mark.parametrize("isa", NAMES)
def test_instruction_sets_agree(monkeypatch: pytest.MonkeyPatch, isa: str, kind: str) -> None:
    """Vectors of any width give the same moves, computed in double, and the same clustering but for rounding."""
    rng = np.random.default_rng(7)
    x: Any = rng.normal(size=(1200, 11)) + 3 * rng.normal(size=(15, 11))[rng.integers(0, 15, 1200)]
    start, labels = x[:70], rng.integers(0, 70, 1200)
    x = x.astype(np.float32) if kind == "float32" else sparse.csr_matrix(x) if kind == "CSR" else x
    widest, widest_proof = LOKMeans(70, init=start, max_iter=1000).fit(x), verify(x, labels)
    use_level(isa, monkeypatch)
    model, proof = LOKMeans(70, init=start, max_iter=1000).fit(x), verify(x, labels)
    assert model.certificate_.optimality == "D"
    np.testing.assert_array_equal(model.labels_, widest.labels_)
    assert model.inertia_ == pytest.approx(widest.inertia_, rel=1e-12)
    assert proof.smallest_gap == pytest.approx(widest_proof.smallest_gap, rel=1e-9)
    assert [move[:3] for move in proof.moves] == [move[:3] for move in widest_proof.moves]
    np.testing.assert_allclose([m.change for m in proof.moves], [m.change for m in widest_proof.moves], rtol=1e-9)


def test_lloyd_equals_scikit_learn(backend: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 6))
    start = x[:30]
    theirs = KMeans(30, init=start, n_init=1, tol=0, max_iter=1000).fit(x)
    ours = LOKMeans(30, init=start, algorithm="lloyd", max_iter=1000).fit(x)
    np.testing.assert_array_equal(ours.labels_, theirs.labels_)
    assert ours.inertia_ == pytest.approx(theirs.inertia_, rel=1e-12)


def test_sparse_equals_dense(backend: str) -> None:
    rng = np.random.default_rng(3)
    x = sparse.random_array((400, 60), density=0.1, rng=rng, format="csr")
    start = x[:12].toarray() + rng.normal(size=(12, 60)) * 0.01
    dense, thin = LOKMeans(12, init=start).fit(x.toarray()), LOKMeans(12, init=start).fit(x)
    np.testing.assert_array_equal(dense.labels_, thin.labels_)
    assert thin.inertia_ == pytest.approx(dense.inertia_, rel=1e-9)
    np.testing.assert_allclose(thin.cluster_centers_, dense.cluster_centers_, atol=1e-10)
    assert thin.certificate_.optimality == "D"
    assert verify(x, thin.labels_).smallest_change == pytest.approx(
        verify(x.toarray(), thin.labels_).smallest_change, rel=1e-6
    )
    np.testing.assert_array_equal(thin.predict(x), thin.labels_)


def test_score_of_new_rows_uses_the_fitted_centers(backend: str) -> None:
    """Scored rows must not change the centers they are compared with, in CSR or dense."""
    rng = np.random.default_rng(8)
    x = sparse.random_array((300, 40), density=0.2, rng=rng, format="csr")
    other = sparse.random_array((50, 40), density=0.2, rng=rng, format="csr")
    for data, new_rows in ((x, other), (x.toarray(), other.toarray())):
        model = LOKMeans(6, random_state=0).fit(data)
        expected = ((other.toarray()[:, None] - model.cluster_centers_) ** 2).sum(axis=2).min(axis=1).sum()
        assert -model.score(new_rows) == pytest.approx(expected, rel=1e-9)
    assert LOKMeans(6, init="k-means||", random_state=0).fit(x).certificate_.optimality == "D"


@pytest.mark.slow
@pytest.mark.parametrize("wide_index", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_csr_of_every_kind(dtype: Any, wide_index: bool) -> None:
    """Explicit zeros, columns out of order, 64-bit indices, empty rows."""
    rows = np.array([[0, 1, 0, 2], [0, 1, 0, 2], [0, 0, 0, 0], [3, 0, 0, 0], [0, 0, 5, 0]], dtype=dtype)
    x = sparse.csr_matrix(rows)
    x.data = np.append(x.data, [0]).astype(dtype)
    x.indices, x.indptr = np.append(x.indices, [1]), np.append(x.indptr[:-1], x.indptr[-1] + 1)
    x = sparse.csr_matrix((x.data, x.indices, x.indptr), shape=rows.shape)
    x.indices[:2], x.data[:2] = x.indices[:2][::-1].copy(), x.data[:2][::-1].copy()
    x.has_sorted_indices = False
    if wide_index:
        x.indices, x.indptr = x.indices.astype(np.int64), x.indptr.astype(np.int64)
    model = LOKMeans(4, random_state=0).fit(x)
    assert model.labels_[0] == model.labels_[1]
    assert model.inertia_ == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="which are 4"):
        LOKMeans(5).fit(x)


def test_memory_mapped_file_gives_the_same_result(tmp_path: Any) -> None:
    x = np.random.default_rng(0).normal(size=(2000, 8)).astype(np.float32)
    file = np.memmap(tmp_path / "x", dtype=np.float32, mode="w+", shape=x.shape)
    file[:] = x
    file.flush()
    readonly = np.memmap(tmp_path / "x", dtype=np.float32, mode="r", shape=x.shape)
    one, other = (LOKMeans(25, random_state=1).fit(data) for data in (x, readonly))
    np.testing.assert_array_equal(one.labels_, other.labels_)
    assert one.certificate_ == other.certificate_


def test_mahalanobis_is_euclidean_in_other_coordinates(backend: str) -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(200, 3)) @ rng.normal(size=(3, 3)) + 100
    matrix = np.linalg.inv(np.cov(x.T))
    start = x[:7]
    model = LOKMeans(7, divergence=Mahalanobis(matrix), init=start).fit(x)
    other = LOKMeans(7, init=start @ np.linalg.cholesky(matrix)).fit(x @ np.linalg.cholesky(matrix))
    np.testing.assert_array_equal(model.labels_, other.labels_)
    assert model.inertia_ == pytest.approx(other.inertia_, rel=1e-9)
    np.testing.assert_allclose(model.cluster_centers_[0], x[model.labels_ == 0].mean(axis=0))
    np.testing.assert_array_equal(model.predict(x), model.labels_)
    gaps = x[:, None] - model.cluster_centers_
    np.testing.assert_allclose(model.transform(x), np.einsum("nki,ij,nkj->nk", gaps, matrix, gaps), rtol=1e-9)


# Scale, shift, ties, rounding
# ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-12, 1e-5, 1.0, 1e6, 1e12])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_scaling_the_data_changes_nothing(backend: str, scale: float, dtype: Any, algorithm: str) -> None:
    """By powers of two exactly; the paper's reference code does not end on data times 1e-5."""
    x = np.random.default_rng(2).normal(size=(150, 4)).astype(dtype)
    exact = 2.0 ** round(np.log2(scale))
    one = LOKMeans(10, algorithm=algorithm, init=x[:10]).fit(x)
    scaled = (x * exact).astype(dtype)
    other = LOKMeans(10, algorithm=algorithm, init=scaled[:10]).fit(scaled)
    np.testing.assert_array_equal(one.labels_, other.labels_)
    assert other.certificate_.optimality == one.certificate_.optimality
    assert other.inertia_ == pytest.approx(one.inertia_ * exact**2, rel=1e-9)
    assert other.certificate_.tolerance == pytest.approx(one.certificate_.tolerance * exact**2, rel=1e-9)


@pytest.mark.parametrize("shift", [1e3, 1e6, 1e9, 1e12])
def test_shifting_the_data_by_whole_numbers_changes_nothing(backend: str, shift: float) -> None:
    x = np.round(np.random.default_rng(2).normal(size=(150, 4)) * 1000)  # whole numbers survive the shift exactly
    one, other = (LOKMeans(10, init=data[:10]).fit(data) for data in (x, x + shift))
    assert other.certificate_.optimality == "D"
    np.testing.assert_array_equal(one.labels_, other.labels_)
    assert other.inertia_ == pytest.approx(one.inertia_, rel=1e-9)


@pytest.mark.parametrize("kind", ["dense", "float32", "CSR"])
@pytest.mark.parametrize("spread", [1e-3, 1e-6, 1e-9, 1e-12])
def test_tight_groups_far_apart_end_without_a_limit(backend: str, kind: str, spread: float) -> None:
    """Rounding must not move points back and forth between rows that differ in little more than their last digits."""
    rng = np.random.default_rng(6)
    x: Any = 1000 * rng.normal(size=(6, 12))[rng.integers(0, 6, 300)] + spread * rng.normal(size=(300, 12))
    x = x.astype(np.float32) if kind == "float32" else sparse.csr_matrix(x) if kind == "CSR" else x
    for seed in range(3):
        clusters = 6 if kind == "float32" else 15  # float32 holds fewer different rows
        model = LOKMeans(clusters, init="random", n_init=1, random_state=seed, max_iter=500).fit(x)
        assert not model.certificate_.limit_hit
        assert model.certificate_.optimality == "D"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_grid_full_of_ties_ends_without_a_limit(backend: str, algorithm: str) -> None:
    """On a grid many points are equally near to two centers, again and again."""
    x = np.stack(np.meshgrid(np.arange(8.0), np.arange(8.0)), axis=-1).reshape(-1, 2)
    for seed in range(5):
        model = LOKMeans(7, algorithm=algorithm, init="random", n_init=1, random_state=seed, max_iter=2000).fit(x)
        assert not model.certificate_.limit_hit


def test_sweeps_never_end_above_scikit_learn(backend: str) -> None:
    """From scikit-learn's result this is a theorem; from the same initial centers, too, if Lloyd's takes the same
    steps."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(400, 3))
        start = kmeans_plusplus(x, 20, random_state=seed)[0]
        theirs = KMeans(20, init=start, n_init=1, tol=0, max_iter=1000).fit(x)
        assert LOKMeans(20, init=start).fit(x).inertia_ <= theirs.inertia_ * (1 + 1e-12)
        assert LOKMeans(20, init=theirs.cluster_centers_).fit(x).inertia_ <= theirs.inertia_ * (1 + 1e-12)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_empty_clusters_are_filled(backend: str, algorithm: str) -> None:
    x = np.random.default_rng(0).normal(size=(50, 2))
    start = np.vstack([x[:2], np.full((3, 2), 100.0), x[:1]])  # three far away, two the same
    for data in (x, sparse.csr_matrix(x)):
        model = LOKMeans(6, init=start, algorithm=algorithm).fit(data)
        assert len(np.unique(model.labels_)) == 6


def test_equal_rows_move_together(backend: str) -> None:
    """Merged or given as weights: the same clustering, and never apart."""
    rng = np.random.default_rng(4)
    x = rng.integers(0, 4, (300, 2)).astype(float)
    rows, first, group, counts = np.unique(x, axis=0, return_index=True, return_inverse=True, return_counts=True)
    order = np.argsort(first)  # sweeps go through the points in order
    rows, counts, start = rows[order], counts[order], rows[:5]
    one, other = LOKMeans(5, init=start).fit(x), LOKMeans(5, init=start).fit(rows, sample_weight=counts)
    assert one.inertia_ == pytest.approx(other.inertia_, rel=1e-9)
    for g in range(len(first)):
        assert len(set(one.labels_[group.reshape(-1) == g])) == 1


def test_as_many_clusters_as_different_rows(backend: str) -> None:
    x = np.array([[0.0], [1.0], [1.0], [-0.0], [5.0]])
    model = LOKMeans(3).fit(x)
    assert model.inertia_ == 0
    assert model.certificate_.optimality == "D"
    with pytest.raises(ValueError, match=r"n_samples=5 should be >= n_clusters=4, .* which are 3"):
        LOKMeans(4).fit(x)


def test_constant_columns_one_cluster_and_one_row(backend: str) -> None:
    x = np.column_stack([np.full(30, 7.0), np.random.default_rng(0).normal(size=30), np.zeros(30)])
    assert LOKMeans(4).fit(x).certificate_.optimality == "D"
    single = LOKMeans(1).fit(x)
    assert single.inertia_ == pytest.approx(((x - x.mean(axis=0)) ** 2).sum())
    assert single.certificate_.optimality == "D"
    assert single.certificate_.smallest_change == np.inf
    assert LOKMeans(1).fit(x[:1]).inertia_ == 0


def test_rows_of_weight_zero_only_get_a_label(backend: str) -> None:
    x = np.vstack([np.random.default_rng(0).normal(size=(40, 2)), [[50.0, 50.0]]])
    weights = np.append(np.ones(40), 0.0)
    model = LOKMeans(4, init=x[:4]).fit(x, sample_weight=weights)
    assert model.inertia_ == pytest.approx(LOKMeans(4, init=x[:4]).fit(x[:40]).inertia_, rel=1e-9)
    assert model.labels_[40] == ((model.cluster_centers_ - 50) ** 2).sum(axis=1).argmin()


def test_kl_moves_cross_an_infinite_divergence(backend: str) -> None:
    """A center that is zero in a coordinate in which a point is not is infinitely far in KL, but joining its cluster
    has a finite cost."""
    x = np.array([[5.0, 0.0], [6.0, 0.0], [5.5, 0.1], [0.0, 9.0], [0.0, 8.0]])
    model = LOKMeans(2, divergence="kl", init=[[5.5, 0.0], [0.0, 8.5]]).fit(x)
    np.testing.assert_array_equal(model.labels_ == model.labels_[0], [True, True, True, False, False])
    assert np.isfinite(model.inertia_)
    assert model.certificate_.optimality == "D"


# verify
# ----------------------------------------------------------------------------------------------------------------


def test_verify_refutes_scikit_learn_with_moves_that_gain() -> None:
    x = np.random.default_rng(0).normal(size=(500, 3))
    labels = KMeans(30, n_init=1, random_state=0, tol=0).fit(x).labels_
    proof = verify(x, labels)
    assert proof.optimality != "D"
    before = loss_of(x, np.ones(500), labels, PHI["squared_euclidean"])
    assert proof.loss == pytest.approx(before)
    assert [m.change for m in proof.moves] == sorted(m.change for m in proof.moves)
    moved = labels.copy()
    moved[proof.moves[0].row] = proof.moves[0].target
    assert loss_of(x, np.ones(500), moved, PHI["squared_euclidean"]) == pytest.approx(before + proof.moves[0].change)
    assert "gain by moving" in str(proof)


def test_verify_counts_empty_clusters(backend: str) -> None:
    x = np.array([[0.0], [1.0], [5.0]])
    assert verify(x, [0, 0, 1]).optimality == "D"
    refuted = verify(x, [0, 0, 1], n_clusters=3)
    assert refuted.optimality is None
    assert {m.target for m in refuted.moves} == {2}


def test_verify_keeps_equal_rows_with_different_labels_apart(backend: str) -> None:
    x = np.array([[0.0], [0.0], [0.0], [1.0], [1.0]])
    assert verify(x, [0, 0, 1, 1, 1]).optimality != "D"
    assert verify(x, [0, 0, 0, 1, 1]).optimality == "D"


@pytest.mark.parametrize(
    ("labels", "more", "message"),
    [
        ([0, 1], {}, "one integer or text for each of the 3 rows"),
        ([0.5, 1, 1], {}, "one integer or text for each"),
        ([0, -1, 1], {}, "labels contain -1, but there are 2 clusters"),
        ([0, 5, 1], {"n_clusters": 3}, "labels contain 5, but there are 3 clusters"),
        ([0, 1, 1], {"sample_weight": [1.0, 2.0]}, "sample_weight has shape"),
        ([0, 1, 1], {"sample_weight": [1.0, -2.0, 1]}, "sample_weight is -2.0 in row 1"),
        ([0, 1, 1], {"tol": -1}, "tol must be 0 or more, not -1; it is a share"),
        ([0, 1, 1], {"tol": np.nan}, "tol must be 0 or more, not nan"),
        ([0, 1, 1], {"tol": "small"}, "tol must be a number, not 'small'"),
        ([0, 1, 1], {"n_clusters": 2.5}, "n_clusters must be an integer, not 2.5"),
    ],
)
def test_verify_rejects_invalid_input(labels: list[float], more: dict[str, Any], message: str) -> None:
    wrong_type = isinstance(more.get("tol"), str) or isinstance(more.get("n_clusters"), float)
    with pytest.raises(TypeError if wrong_type else ValueError, match=message):
        verify([[0.0], [1.0], [2.0]], labels, **more)


# Divergences
# -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("divergence", [KL(), ItakuraSaito()])
def test_divergences_match_their_definition(divergence: Any) -> None:
    rng = np.random.default_rng(0)
    x, c = rng.gamma(2, 1, (20, 5)), rng.gamma(2, 1, (7, 5))
    phi = PHI[divergence.name]
    gradient = np.log(c) + 1 if divergence.name == "kl" else -1 / c
    expected = phi(x)[:, None] - phi(c) - np.einsum("nkd,kd->nk", x[:, None] - c, gradient)
    np.testing.assert_allclose(divergence.pairwise(x, c), expected, rtol=1e-10)


@pytest.mark.parametrize("divergence", [KL(), ItakuraSaito()])
def test_divergences_are_accurate_near_the_center(divergence: Any) -> None:
    """Second order: D(c (1 + t), c) ~ t^2 / 2 times c (KL) or 1 (Itakura-Saito), for which the plain formula has
    no digit left."""
    c, t = np.array([[3.0]]), 1e-7
    expected = t**2 / 2 * (3.0 if divergence.name == "kl" else 1.0)
    assert divergence.between(c * (1 + t), c)[0] == pytest.approx(expected, rel=1e-2)
