"""95 % intervals of shares, over tasks that were each tried once or several times."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_Z = 1.959963984540054  # the normal distribution's 97.5 % quantile
_SAMPLES = 2000


def wilson(right: float, of: float) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson 1927): good for few trials and for shares near 0 and 1."""
    share, spread = right / of, _Z * _Z / of
    middle = (share + spread / 2) / (1 + spread)
    half = _Z * sqrt(share * (1 - share) / of + spread / (4 * of)) / (1 + spread)
    return min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))


class Bootstrap:
    """Cluster bootstrap: tasks are drawn with replacement, with all their tries, which are not independent.

    Parameters
    ----------
    tasks : int
        Number of tasks; every array below has one entry for each.
    seed : int
        Seed of the draws, which are shared by all figures, so that they can be compared.
    """

    def __init__(self, tasks: int, seed: int = 0, samples: int = _SAMPLES) -> None:
        rng = np.random.default_rng(seed)
        self._counts: Floats = rng.multinomial(tasks, np.full(tasks, 1 / tasks), size=samples).astype(float)

    def ratio(self, above: Floats, below: Floats) -> tuple[float, float]:
        """The interval (percentiles) of one sum over another, such as right tries over tries. [tasks] each."""
        top, bottom = self._counts @ above, self._counts @ below
        drawn = top[bottom != 0] / bottom[bottom != 0]
        if not len(drawn):
            return float("nan"), float("nan")
        low, high = np.percentile(drawn, (2.5, 97.5))
        return float(low), float(high)


def paired_interval(gains: Floats, tries: Floats, bootstrap: Bootstrap) -> tuple[float, float]:
    """The interval of the mean gain of one kind of tries over another, over the same tasks; sums and numbers, [tasks].

    Bonett and Price's (2012, adjusted Wald for paired shares) where each task gained or lost a whole answer or nothing:
    the bootstrap is too narrow where few did, and has no width where none did. Else the bootstrap's.
    """
    means = gains / tries
    if not np.isin(means, (-1.0, 0.0, 1.0)).all():
        return bootstrap.ratio(gains, tries)
    count = len(means) + 2
    up, down = (float((means == way).sum() + 1) / count for way in (1.0, -1.0))
    half = _Z * sqrt((up + down - (up - down) ** 2) / count)
    return max(-1.0, up - down - half), min(1.0, up - down + half)


def share_interval(right: Floats, tries: Floats, bootstrap: Bootstrap) -> tuple[float, float]:
    """The interval of the share of right tries, [tasks] each.

    Wilson's where every task was tried once; else the bootstrap's, unless all tasks came out alike: then it has no
    width, and Wilson's with one try for each task is given, which is too wide rather than too narrow.
    """
    shares = right / tries
    if tries.max() == 1 or (shares.min() == shares.max() and shares[0] in (0.0, 1.0)):
        return wilson(float(shares.sum()), len(shares))
    return bootstrap.ratio(right, tries)
