"""`LOKMeans`: k-means that ends at a local optimum and proves it, as a scikit-learn estimator."""

from __future__ import annotations

import warnings
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from minseek.cluster.backend import Array
from minseek.cluster.certificate import Certificate
from minseek.cluster.checks import check_centers, check_weights
from minseek.cluster.dispatch import make_backend
from minseek.cluster.divergences import Divergence, divergence_of
from minseek.cluster.init import INIT_METHODS, initial_centers
from minseek.cluster.nearest import distances_to_centers, nearest_centers
from minseek.cluster.problem import Problem, cluster_means, find_frame, merge_equal_rows, prepare
from minseek.cluster.restarts import Restarts
from minseek.cluster.search import ALGORITHMS
from minseek.errors import InputError


class LOKMeans(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """K-means for any Bregman divergence that ends at a local optimum and proves it.

    Lloyd's algorithm stops when no point is nearer to another center than to its own. That need not be a local
    optimum: moving a single point can still lower the loss, because its new center moves toward it. ``LOKMeans``
    continues until no single move gains, then checks every one of them.

    Source: Li, Metel, Takeda, *Modified K-means Algorithm with Local Optimality Guarantees*, ICML 2025 (arXiv
    2506.06990), for C- and D-local optimality and the algorithms ``c-lo``, ``d-lo`` and ``min-d-lo``; Slonim,
    Aharoni, Crammer, IJCAI 2013, for sweeps of single moves.

    Parameters
    ----------
    n_clusters : int
        K, at most the number of different rows of positive weight.
    divergence : str or Divergence
        ``"squared_euclidean"``, ``"kl"``, ``"itakura_saito"``, a ``Mahalanobis(matrix)``, or a registered class
        of your own.
    algorithm : str
        ``"sweep"``: Lloyd's to convergence, then sweeps in which each point moves at once if that gains. For study:
        ``"lloyd"`` and the paper's ``"c-lo"``, ``"d-lo"``, ``"min-d-lo"``, which make one move and then resume Lloyd's.
    init : str, array [K, d] or callable
        ``"k-means++"`` (greedy, for the chosen divergence), ``"k-means||"``, ``"random"`` (K points drawn by weight,
        with replacement), the initial centers themselves, or a function of ``(X, n_clusters, random_state)`` that
        returns them.
    n_init : int or "auto"
        Number of starts; the result with the lowest loss is kept. "auto": 10 for ``"random"`` and a callable, else 1.
    max_iter : int
        Limit on the passes over the data that change something in one start, Lloyd's and sweeps together.
    tol : float
        A move counts if it lowers the loss by more than this share of a point's mean loss.
    verbose : int
        If 1, print a line for every pass over the data.
    n_threads : int, optional
        Default: as many as scikit-learn would use, and one for small data. Results do not depend on it.
    random_state : int, RandomState or None

    Attributes
    ----------
    cluster_centers_ : array [K, d]
    labels_ : int32 [n]
    inertia_ : float
        The loss: sum of weights times divergences to the own centers.
    n_iter_ : int
        Passes over the data.
    certificate_ : Certificate
        The optimality that was proved, and the smallest change over all single moves.
    n_features_in_ : int
    feature_names_in_ : array of str [d]

    Examples
    --------
    >>> from minseek.cluster import LOKMeans
    >>> model = LOKMeans(n_clusters=2, init=[[0.0], [2.5]]).fit([[-4.0], [-2.0], [0.0], [1.5], [2.5]])
    >>> model.labels_, round(model.inertia_, 4), model.certificate_.optimality
    (array([0, 0, 1, 1, 1], dtype=int32), 5.1667, 'D')
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_clusters": [Interval(Integral, 1, None, closed="left")],
        "divergence": [str, Divergence],
        "algorithm": [StrOptions(set(ALGORITHMS))],
        "init": [StrOptions(set(INIT_METHODS)), callable, "array-like"],
        "n_init": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "n_threads": [Interval(Integral, 1, None, closed="left"), None],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        divergence: str | Divergence = "squared_euclidean",
        algorithm: str = "sweep",
        init: Any = "k-means++",
        n_init: int | str = "auto",
        max_iter: int = 300,
        tol: float = 1e-9,
        verbose: int = 0,
        n_threads: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.divergence = divergence
        self.algorithm = algorithm
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.verbose = verbose
        self.n_threads = n_threads
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(self, X: ArrayLike, y: None = None, sample_weight: ArrayLike | None = None) -> LOKMeans:
        """Cluster the rows of X.

        Parameters
        ----------
        X : array or CSR matrix [n, d]
            float32 or float64, C-contiguous: read in place (also a ``np.memmap``); anything else is converted.
        sample_weight : array [n], optional
            Not negative; rows of weight zero only get a label.

        Raises
        ------
        InputError
            If the data hold something that is not finite or outside the divergence's domain, or fewer different rows
            than clusters, or squared distances between rows of positive weight overflow or underflow.
        """
        x = self._checked(X, reset=True)
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, x, dtype=np.float64)
        if weights is not None:
            check_weights(weights)
        problem = merge_equal_rows(prepare(x, divergence_of(self.divergence), weights))
        if self.n_clusters > problem.points.count:
            raise InputError(
                f"n_samples={x.shape[0]} should be >= n_clusters={self.n_clusters}, and so should be the different "
                f"ones of positive weight, which are {problem.points.count}; ask for at most that many clusters."
            )
        problem = find_frame(problem, x)
        backend = make_backend(problem.points, problem.divergence, self.n_clusters, self.n_threads)
        restarts = Restarts(self.algorithm, self._resolve_n_init(), self.max_iter, self.tol, bool(self.verbose))
        rng = check_random_state(self.random_state)
        fit = restarts.run(backend, lambda: self._initial_centers(problem, x, rng))
        if fit.certificate.limit_hit:
            warnings.warn(
                f"max_iter={self.max_iter} passes ended the search before it converged; "
                "certificate_ says what holds nevertheless.",
                ConvergenceWarning,
                stacklevel=3,  # past scikit-learn's wrapper of fit
            )
        self.certificate_: Certificate = fit.certificate
        self._origin, self._frame = problem.origin, problem.points.frame
        centers = fit.centers if problem.origin is None else cluster_means(problem, x, fit.labels, self.n_clusters)
        self.cluster_centers_ = centers.astype(x.dtype)
        self.labels_ = problem.points.labels_of_rows(fit.labels)
        if (self.labels_ < 0).any():
            weightless = np.flatnonzero(self.labels_ < 0)
            self.labels_[weightless] = self.predict(x[weightless])
        self.inertia_ = fit.certificate.loss
        self.n_iter_ = min(fit.passes + 1, self.max_iter)  # the pass that changes nothing counts, as in scikit-learn
        self._n_features_out = self.n_clusters
        return self

    def _resolve_n_init(self) -> int:
        if not isinstance(self.init, str) and not callable(self.init):
            if self.n_init not in ("auto", 1):
                warnings.warn(
                    "Explicit initial center position passed: performing only one init "
                    f"instead of n_init={self.n_init}.",
                    RuntimeWarning,
                    stacklevel=4,
                )
            return 1
        if self.n_init != "auto":
            return int(self.n_init)
        return 10 if self.init == "random" or callable(self.init) else 1

    def _initial_centers(self, problem: Problem, x: Any, rng: np.random.RandomState) -> Array:
        """Initial centers [K, d] in the backend's coordinates."""
        if isinstance(self.init, str):
            return initial_centers(self.init, problem.points, problem.divergence, self.n_clusters, rng)
        given = self.init(x, self.n_clusters, random_state=rng) if callable(self.init) else self.init
        return problem.to_backend(check_centers(given, (self.n_clusters, x.shape[1])))

    def _checked(self, X: ArrayLike, *, reset: bool) -> Any:
        return validate_data(
            self,
            X,
            accept_sparse="csr",
            dtype=[np.float64, np.float32],
            order="C",
            ensure_all_finite=False,
            reset=reset,
        )

    def predict(self, X: ArrayLike) -> NDArray[np.int32]:
        """Find the nearest center of each row.

        Parameters
        ----------
        X : array or CSR matrix [n, d]

        Returns
        -------
        int32 array [n]

        Raises
        ------
        NotFittedError
            If called before `fit`.
        InputError
            If the data hold something that is not finite or outside the divergence's domain.
        ValueError
            If the data have another number of columns than those of `fit`.
        """
        check_is_fitted(self)
        return self._nearest(self._problem(self._checked(X, reset=False)))[0]

    def score(self, X: ArrayLike, y: None = None, sample_weight: ArrayLike | None = None) -> float:
        """Minus the loss of X at the fitted centers.

        Parameters
        ----------
        X : array or CSR matrix [n, d]
        sample_weight : array [n], optional

        Returns
        -------
        float
            Minus the sum of weights times divergences to the nearest centers; higher is better.

        Raises
        ------
        NotFittedError, InputError, ValueError
            In the cases of `predict`, and for weights that do not fit the rows.
        """
        check_is_fitted(self)
        x = self._checked(X, reset=False)
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, x, dtype=np.float64)
        problem = self._problem(x, weights)
        divergence = self._nearest(problem)[1]
        with np.errstate(over="ignore"):
            loss = float((divergence * problem.points.weight).sum())
        if not np.isfinite(loss):
            point = int(divergence.argmax())
            row = point if problem.points.rows is None else int(problem.points.rows[point])
            raise InputError(f"X has a row, {row}, so far from every center that the loss overflows; leave it out.")
        return -loss

    def _problem(self, x: Any, weights: NDArray[np.float64] | None = None) -> Problem:
        return prepare(x, divergence_of(self.divergence), weights, origin=self._origin, frame=self._frame)

    def _nearest(self, problem: Problem) -> tuple[NDArray[np.int32], Array]:
        return nearest_centers(problem, self.cluster_centers_.astype(np.float64), self.n_threads)

    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """Compute each row's Euclidean distance (not squared) or chosen divergence to every center.

        Parameters
        ----------
        X : array or CSR matrix [n, d]

        Returns
        -------
        array [n, K]
            In the dtype of X.

        Raises
        ------
        NotFittedError, InputError, ValueError
            In the cases of `predict`.
        """
        check_is_fitted(self)
        x = self._checked(X, reset=False)
        problem, centers = self._problem(x), self.cluster_centers_.astype(np.float64)
        if problem.divergence.name != "squared_euclidean":
            return problem.divergence.pairwise(x.astype(np.float64), centers).astype(x.dtype)
        distances = distances_to_centers(problem, centers, self.n_threads)
        with np.errstate(over="ignore"):
            if problem.user_divergence.name != "squared_euclidean":
                distances **= 2
            return distances.astype(x.dtype, copy=False)

    def fit_predict(self, X: ArrayLike, y: None = None, sample_weight: ArrayLike | None = None) -> NDArray[np.int32]:
        """Cluster X and return its labels."""
        self.fit(X, sample_weight=sample_weight)
        return self.labels_

    def fit_transform(self, X: ArrayLike, y: None = None, sample_weight: ArrayLike | None = None) -> NDArray[Any]:
        """Cluster X and return its distances to the centers."""
        self.fit(X, sample_weight=sample_weight)
        return self.transform(X)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = self.divergence == "squared_euclidean"
        tags.input_tags.positive_only = self.divergence in ("kl", "itakura_saito")
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
