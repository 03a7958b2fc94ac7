"""Numbers that do not fit: fill values, far rows, weights of zero, huge labels."""

from __future__ import annotations

import re
import subprocess
import sys
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from minseek.cluster import KL, LOKMeans, Mahalanobis, verify
from minseek.cluster.c_backend import CBackend
from minseek.cluster.divergences import SquaredEuclidean
from minseek.cluster.init import initial_centers
from minseek.cluster.points import Points
from minseek.errors import InputError

LARGEST = np.finfo(np.float64).max
CONTAINERS = {
    "float64": lambda x: np.asarray(x, np.float64),
    "float32": lambda x: np.asarray(x, np.float32),
    "CSR": lambda x: sparse.csr_matrix(np.asarray(x, np.float64)),
}


@pytest.fixture(params=["C", "NumPy"], autouse=True)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run every test with each backend."""
    if request.param == "NumPy":
        monkeypatch.setenv("MINSEEK_NATIVE", "0")
    return str(request.param)


def blobs(n: int = 150, d: int = 3, seed: int = 0) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) + 8 * rng.normal(size=(5, d))[np.arange(n) % 5]


def exact_nearest(row: Any, centers: Any) -> set[int]:
    """The nearest centers in exact arithmetic."""
    squares = [
        sum((Fraction(float(a)) - Fraction(float(b))) ** 2 for a, b in zip(row, c, strict=True)) for c in centers
    ]
    return {k for k, square in enumerate(squares) if square == min(squares)}


# Fit: refused with row, column and value -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["float64", "CSR"])
@pytest.mark.parametrize("value", [-LARGEST, LARGEST, 1e200, -1e155])
@pytest.mark.parametrize("columns", [[2, 0, 1], [1, 1, 1]])
def test_fill_values_are_refused_with_their_place(kind: str, value: float, columns: list[int]) -> None:
    x = blobs()
    x[[17, 60, 99], columns] = value
    place = rf"X has {re.escape(f'{value:.6g}')} in row (17|60|99), column [012], too far from the others"
    with pytest.raises(InputError, match=place):
        LOKMeans(3, random_state=0).fit(CONTAINERS[kind](x))
    with pytest.raises(InputError, match=place):
        verify(CONTAINERS[kind](x), np.arange(150) % 3)


@pytest.mark.parametrize("kind", ["float64", "CSR"])
@pytest.mark.parametrize("factor", [1e154, 1e-300, 1e-160])
def test_no_certificate_where_squares_do_not_fit(kind: str, factor: float) -> None:
    x = np.r_[np.arange(40), 1000 + np.arange(40)][:, None] * factor
    for method in ("k-means++", "k-means||", "random"):
        with pytest.raises(InputError, match=r"row \d+, column 0, .*(over|under)flow.*scale X"):
            LOKMeans(2, init=method, random_state=0).fit(CONTAINERS[kind](x))
    with pytest.raises(InputError, match=r"(over|under)flow"):
        verify(CONTAINERS[kind](x), np.arange(80) % 2)


@pytest.mark.parametrize("kind", ["float64", "CSR"])
@pytest.mark.parametrize("power", [-470, -300, 260, 470])
@pytest.mark.parametrize("method", ["k-means++", "k-means||"])
def test_what_fits_is_clustered_as_at_scale_one(kind: str, power: int, method: str) -> None:
    """Seeding, too: squares of 1e154 and more were cut off, so that the first seeds came from anywhere."""
    x = blobs()
    one, other = (LOKMeans(5, init=method, random_state=1).fit(CONTAINERS[kind](data)) for data in (x, x * 2.0**power))
    np.testing.assert_array_equal(one.labels_, other.labels_)
    assert other.inertia_ == pytest.approx(one.inertia_ * 4.0**power, rel=1e-12, abs=0)
    assert other.certificate_.optimality == "D"
    np.testing.assert_array_equal(other.predict(CONTAINERS[kind](x * 2.0**power)), other.labels_)


def test_a_loss_that_has_rounded_to_zero_proves_nothing() -> None:
    """Next to 1, 1e-200 and 3e-200 are the same: any split of the small rows is as good within the tolerance."""
    x = np.array([[0.0], [1e-200], [3e-200], [1.0]])
    proof = verify(x, [0, 0, 1, 2])
    assert proof.tolerance > proof.loss
    assert verify(np.array([[0.0], [1.0]]), [0, 1]).tolerance == 0


@pytest.mark.parametrize("value", [1e30, 1e200, LARGEST])
@pytest.mark.parametrize("kind", list(CONTAINERS))
def test_initial_centers_far_from_the_data_are_refused(kind: str, value: float) -> None:
    """They left labels at -1, which the kernels then wrote to."""
    with pytest.raises(InputError, match=r"center 1 has .* in column 2, more than 2\*\*50 times as far"):
        LOKMeans(2, init=[[0.0, 0, 0], [0, 0, value]]).fit(CONTAINERS[kind](blobs()))


def test_far_initial_centers_leave_no_mark_on_the_tolerance() -> None:
    x = blobs()
    near, far = (LOKMeans(3, init=np.vstack([x[:2], [[v, v, v]]])).fit(x) for v in (30.0, 1e12))
    assert far.certificate_.tolerance < 1.5 * near.certificate_.tolerance


@pytest.mark.parametrize("weight", [1e300, 1e-300, LARGEST])
def test_weights_that_do_not_fit_are_refused(weight: float) -> None:
    weights = np.full(150, weight)
    weights[7] *= 1 if weight == LARGEST else 2
    with pytest.raises(InputError, match=r"sample_weight is .* in row \d+, which is (too large|the largest)"):
        LOKMeans(3).fit(blobs(), sample_weight=weights)


@pytest.mark.parametrize("kind", ["float64", "float32"])
@pytest.mark.parametrize("power", [-90, 80])
def test_only_ratios_of_weights_count(kind: str, power: int) -> None:
    x, weights = CONTAINERS[kind](blobs()), np.random.default_rng(0).integers(1, 5, 150).astype(float)
    one, other = (LOKMeans(9, random_state=0).fit(x, sample_weight=weights * w) for w in (1.0, 2.0**power))
    np.testing.assert_array_equal(one.labels_, other.labels_)
    assert other.certificate_.optimality == "D"


def test_other_divergences_give_no_certificate_on_an_infinite_loss() -> None:
    x = np.abs(blobs()) + 1
    x[3] = LARGEST
    x[4] = LARGEST / 3
    with np.errstate(all="ignore"), pytest.raises(InputError, match=r"the loss is (inf|nan): row \d+"):
        LOKMeans(1, divergence=KL()).fit(x)
    with pytest.raises(InputError, match="row 3"):
        LOKMeans(3, divergence=Mahalanobis(np.diag([1.0, 2.0, 3.0]))).fit(x)


def test_a_label_of_minus_one_never_reaches_the_kernels(backend: str) -> None:
    if backend == "NumPy":
        pytest.skip("no kernels")
    from minseek.cluster.kmeans_state import load_kernels

    points = Points(blobs())
    library = load_kernels(points)
    assert library is not None
    kernels = CBackend(points, 3, library)
    kernels.set_centers(blobs()[:3])
    kernels._arrays["labels_new"][:] = -1
    with pytest.raises(RuntimeError, match="no center is nearest to row 0"):
        kernels.apply_assignment()


@pytest.mark.slow
def test_fill_values_do_not_damage_memory() -> None:
    """In a process of its own, since heap corruption ends it; with the cells in rows of weight zero, too."""
    code = """
import numpy as np
from minseek.cluster import LOKMeans
x = np.random.default_rng(0).normal(size=(150, 3))
weights = np.ones(150)
x[[17, 60, 99], [2, 0, 1]], weights[[17, 60, 99]] = -np.finfo(float).max, 0
for seed in range(5):
    for data in (x, np.random.default_rng(0).normal(size=(150, 3)) * 1e155):
        try:
            LOKMeans(3, random_state=seed).fit(data)
            print("accepted")
        except ValueError:
            pass
    model = LOKMeans(3, random_state=seed).fit(x, sample_weight=weights)
    assert model.labels_.min() >= 0 and model.certificate_.optimality == "D"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


# Rows of weight zero -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(CONTAINERS))
@pytest.mark.parametrize("value", [1e18, 1e20, 9.97e36])
@pytest.mark.parametrize("method", ["k-means++", "k-means||", "random"])
def test_rows_of_weight_zero_change_nothing(kind: str, value: float, method: str) -> None:
    x, extra = blobs(), np.full((5, 3), value)
    weights = np.r_[np.ones(150), np.zeros(5)]
    one = LOKMeans(5, init=method, random_state=0).fit(CONTAINERS[kind](x), sample_weight=np.ones(150))
    other = LOKMeans(5, init=method, random_state=0)
    other.fit(CONTAINERS[kind](np.vstack([x, extra])), sample_weight=weights)
    np.testing.assert_array_equal(one.labels_, other.labels_[:150])
    np.testing.assert_array_equal(one.cluster_centers_, other.cluster_centers_)
    assert one.certificate_ == other.certificate_
    again = verify(CONTAINERS[kind](np.vstack([x, extra])), other.labels_, sample_weight=weights)
    assert again.loss == pytest.approx(one.inertia_, rel=1e-6)
    for row in range(150, 155):
        stored = CONTAINERS[kind](extra).toarray()[0] if kind == "CSR" else CONTAINERS[kind](extra)[0]
        assert other.labels_[row] in exact_nearest(stored, other.cluster_centers_)


def test_rows_of_weight_zero_do_not_change_mahalanobis() -> None:
    x, weights = blobs(), np.r_[np.ones(150), 0.0]
    matrix = Mahalanobis(np.diag([1.0, 2.0, 3.0]))
    one = LOKMeans(5, divergence=matrix, random_state=0).fit(x)
    other = LOKMeans(5, divergence=matrix, random_state=0).fit(np.vstack([x, np.full(3, 1e18)]), sample_weight=weights)
    np.testing.assert_array_equal(one.labels_, other.labels_[:150])
    np.testing.assert_array_equal(one.cluster_centers_, other.cluster_centers_)


# predict, score, transform -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(CONTAINERS))
@pytest.mark.parametrize("value", [1e5, 1e8, 1e11, 1e20, 9.97e36])
def test_labels_do_not_depend_on_the_other_rows(kind: str, value: float) -> None:
    """A batch's far rows set neither origin nor scale, and get the nearest center themselves."""
    x = blobs()
    model = LOKMeans(5, random_state=0).fit(CONTAINERS[kind](x))
    far = value * np.random.default_rng(1).normal(size=(8, 3))
    both = CONTAINERS[kind](np.vstack([x, far]))
    labels, distances = model.predict(both), model.transform(both)
    np.testing.assert_array_equal(labels[:150], model.labels_)
    alone = np.concatenate([model.predict(both[i : i + 1]) for i in range(len(labels))])
    np.testing.assert_array_equal(alone, labels)
    np.testing.assert_array_equal(np.vstack([model.transform(both[i : i + 1]) for i in range(len(labels))]), distances)
    rows = both.toarray() if kind == "CSR" else both
    if kind != "CSR" or value > 1e8:  # squared distances of CSR rows are rounded relative to the squared norm
        for i in range(150, 158):
            assert labels[i] in exact_nearest(rows[i], model.cluster_centers_)
    np.testing.assert_array_equal(distances[np.arange(158), labels], distances.min(axis=1))
    expected = (
        np.sqrt(((rows[:, None].astype(float) - model.cluster_centers_) ** 2).sum(axis=2)).min(axis=1) ** 2
    ).sum()
    assert model.score(both) == pytest.approx(-expected, rel=1e-5)


def test_score_that_overflows_is_refused() -> None:
    model = LOKMeans(5, random_state=0).fit(blobs())
    with pytest.raises(InputError, match="X has a row, 1, so far from every center"):
        model.score([[0.0, 0, 0], [1e200, 0, 0]])
    assert model.predict([[1e308, -1e308, 0]])[0] in exact_nearest([1e308, -1e308, 0], model.cluster_centers_)
    np.testing.assert_allclose(model.transform([[1e307, 0, 0]]), 1e307)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["float64", "float32"])
@pytest.mark.parametrize("d", [1, 3, 40])
def test_the_nearest_by_transform_is_the_label(kind: str, d: int) -> None:
    """On rows between the centers and twice as far out as them, decided in double precision."""
    x = CONTAINERS[kind](blobs(600, d))
    model = LOKMeans(40, random_state=0).fit(x)
    rows = np.vstack([x, (x[:300] + x[300:]) / 2, 2 * x, 9 * x]).astype(x.dtype)
    distances, labels = model.transform(rows), model.predict(rows)
    np.testing.assert_array_equal(distances[np.arange(len(rows)), labels], distances.min(axis=1))
    for i in range(0, len(rows), 50):
        assert labels[i] in exact_nearest(rows[i], model.cluster_centers_)


def test_transform_of_unix_times_keeps_its_digits() -> None:
    bursts = 1.7e9 + np.r_[0, 10, 20].repeat(50) + np.tile(np.linspace(0, 1, 50), 3)
    model = LOKMeans(3, random_state=0).fit(bursts[:, None])
    distances = model.transform(bursts[:, None])
    np.testing.assert_allclose(distances, np.abs(bursts[:, None] - model.cluster_centers_[:, 0]), atol=1e-6)
    np.testing.assert_array_equal(distances.argmin(axis=1), model.labels_)


def test_a_fit_on_csr_and_a_fit_on_an_array_predict_each_other() -> None:
    x = blobs()
    for model in (LOKMeans(5, init=x[:5]).fit(x), LOKMeans(5, init=x[:5]).fit(sparse.csr_matrix(x))):
        np.testing.assert_array_equal(model.predict(x), model.labels_)
        np.testing.assert_array_equal(model.predict(sparse.csr_matrix(x)), model.labels_)


def test_one_cluster_of_equal_rows_predicts_any_row() -> None:
    model = LOKMeans(1).fit(np.full((20, 2), 0.1))
    assert model.predict([[5.0, 0.1], [1e300, 0], [0.1, 0.1]]).tolist() == [0, 0, 0]
    assert LOKMeans(1).fit(np.full((20, 2), 1e-140)).inertia_ == 0


# verify --------------------------------------------------------------------------------------------------------------


def test_verify_takes_any_integers_as_names() -> None:
    x = blobs()
    small = np.random.default_rng(0).integers(0, 2, 150)
    plain, huge = verify(x, small), verify(x, np.where(small == 1, 2_000_000_000, 0))
    assert (plain.loss, plain.smallest_change, plain.optimality) == (huge.loss, huge.smallest_change, huge.optimality)
    names = {0: 0, 1: 2_000_000_000}
    assert [m.row for m in huge.moves] == [m.row for m in plain.moves]
    assert [(m.source, m.target) for m in huge.moves] == [(names[m.source], names[m.target]) for m in plain.moves]
    assert verify(x, small.astype(np.uint64) + 2**63).loss == plain.loss


def test_verify_says_which_clusters_are_empty() -> None:
    x = np.array([[0.0], [1.0], [5.0], [6.0]])
    assert verify(x, [0, 0, 7, 7]).optimality == "D"
    refuted = verify(x, [0, 0, 7, 7], n_clusters=9)
    assert refuted.optimality is None
    assert {m.target for m in refuted.moves} == {1}
    assert {m.source for m in refuted.moves} == {0, 7}
    assert str(refuted).endswith("; clusters 1-6, 8 are empty")
    assert str(verify(x, [1, 1, 2, 2], n_clusters=3)).endswith("; cluster 0 is empty")
    assert verify(x, [0, 0, 1, 1], n_clusters=2_000_000_000).empty_clusters == (range(2, 2_000_000_000),)


@pytest.mark.parametrize("dtype", [str, object])
def test_verify_takes_text_labels(dtype: Any) -> None:
    x = np.array([[0.0], [1.0], [5.0], [6.0]])
    moves = verify(x, np.array(["a", "b", "b", "b"], dtype=dtype)).moves
    assert [(m.row, m.source, m.target) for m in moves] == [(1, "b", "a")]
    with pytest.raises(InputError, match="labels mix text and numbers"):
        verify(x, np.array(["a", 1, "b", 2], dtype=object))
    with pytest.raises(InputError, match="must be integers where n_clusters is given, not 'a'"):
        verify(x, ["a", "b", "b", "b"], n_clusters=2)


def test_verify_leaves_noise_out_on_request() -> None:
    x = np.array([[0.0], [1.0], [1e200], [5.0], [6.0]])
    assert verify(x, [0, 0, -1, 1, 1], noise_label=-1) == verify(x[[0, 1, 3, 4]], [0, 0, 1, 1])
    assert verify(x, ["a", "a", "noise", "b", "b"], noise_label="noise").optimality == "D"
    with pytest.raises(InputError, match=r"labels contain -1, .*noise_label=-1 leaves such rows out"):
        verify(x, [0, 0, -1, 1, 1])
    with pytest.raises(InputError, match="every label is noise_label=-1"):
        verify(x, [-1] * 5, noise_label=-1)


def test_seeding_of_large_numbers_is_as_good_as_of_small_ones() -> None:
    x = blobs()
    one, other = (
        initial_centers("k-means++", Points(data), SquaredEuclidean(), 5, np.random.RandomState(0))
        for data in (x, x * 2.0**300)
    )
    np.testing.assert_array_equal(one * 2.0**300, other)
