"""Detection of generated text that repeats itself, over token ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import ne

MAX_PERIOD = 512
"""Longest cycle that is detected, in tokens."""
MIN_ROUNDS = 3
"""Fewest rounds of a cycle that make a loop."""
MIN_TOKENS = 128
"""Fewest tokens of a loop, all rounds together: shorter repetitions occur in code, lists and verse."""
MIN_TOKENS_SIMPLE = 384
"""Fewest tokens of a loop of a simple cycle: rulers, runs of digits and tables of zeros are that long."""
SIMPLE = 12
"""A cycle with fewer different tokens is simple."""
NEAR_SHARE = 16
"""A near loop's rounds differ from the ones before them in at most one of this many tokens: a counter, a word."""
MIN_NEAR_PERIOD = 16
"""Shortest cycle of a near loop."""
ROW = 48
"""Rows of lists, tables, test cases and drills have fewer tokens than this."""
MIN_ROWS = 32
"""Fewest rounds of a near loop whose cycle is no longer than a row."""
MIN_NEAR_TOKENS = 256
"""Fewest tokens of a near loop of a longer cycle, all rounds together."""

_SUFFIX = 80  # latest tokens; those of a loop have occurred one period before: 3 p or 128 tokens less p are more
_NEAR_SUFFIX = 12  # tokens without a difference, which every round of a near loop has somewhere
_CANDIDATES = 8  # periods compared at a token: the shortest ones; a long run of one token would give hundreds
_NEAR_CANDIDATES = 4
_BASE, _MODULUS = 1_000_003, (1 << 61) - 1  # of a polynomial hash


class LoopDetector:
    """Finds out if a growing sequence of tokens ends in a cycle that was repeated without a break.

    The rounds of a loop are equal, those of a near loop differ in few tokens. A token costs two look-ups of the latest
    tokens, by rolling hashes, among those before them. Only where they have occurred already are rounds compared.

    Attributes
    ----------
    first_round : int
        Tokens of the sequence up to the end of the first round of the cycle, once `push` has returned True.
    """

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._occurrences = _Occurrences(_SUFFIX, _CANDIDATES)
        self._near_occurrences = _Occurrences(_NEAR_SUFFIX, _NEAR_CANDIDATES)
        self.first_round = 0

    def push(self, token: int) -> bool:
        """Append a token; return True if the sequence ends in a loop."""
        self._tokens.append(token)
        for period in self._occurrences.push(self._tokens):
            if self._is_loop(period):
                self.first_round = self._start(period, len(self._tokens) - period) + period
                return True
        near = self._near_occurrences.push(self._tokens)
        period, rounds = next(
            ((p, n) for p in near if p >= MIN_NEAR_PERIOD and (n := self._near_rounds(p)) > 1), (0, 0)
        )  # the shortest
        if rounds and rounds * period >= _near_tokens(period):
            self.first_round = self._start(period, len(self._tokens) - rounds * period) + period
            return True
        return False

    def _is_loop(self, period: int) -> bool:
        """True if the sequence ends in a cycle of this period, in enough rounds and tokens."""
        if not self._repeats(period, max(MIN_ROUNDS * period, MIN_TOKENS)):
            return False
        return self._repeats(period, MIN_TOKENS_SIMPLE) or len(set(self._tokens[-period:])) >= SIMPLE

    def _repeats(self, period: int, length: int) -> bool:
        tokens = self._tokens
        return len(tokens) >= length and tokens[-length + period :] == tokens[-length:-period]

    def _near_rounds(self, period: int) -> int:
        """Rounds of this period at the end that differ in few tokens, each from the one before; as many as needed."""
        tokens, end, rounds = self._tokens, len(self._tokens), 1
        while end >= 2 * period and rounds * period < _near_tokens(period):
            later, earlier = tokens[end - period : end], tokens[end - 2 * period : end - period]
            if sum(map(ne, later, earlier)) > period // NEAR_SHARE or (rounds == 1 and len(set(later)) < SIMPLE):
                break
            rounds, end = rounds + 1, end - period
        return rounds

    def _start(self, period: int, start: int) -> int:
        """First token of the cycle, which goes back from `start` as far as tokens are those of the round after."""
        tokens = self._tokens
        while start and tokens[start - 1] == tokens[start - 1 + period]:
            start -= 1
        return start


def _near_tokens(period: int) -> int:
    """Fewest tokens of a near loop of this period."""
    return MIN_ROWS * period if period < ROW else max(MIN_ROUNDS * period, MIN_NEAR_TOKENS)


class _Occurrences:
    """Earlier occurrences of the last `count` tokens of a growing sequence, at most `most` of them."""

    def __init__(self, count: int, most: int) -> None:
        self._count, self._most, self._oldest = count, most, pow(_BASE, count, _MODULUS)
        self._hash = 0
        self._hashes: list[int] = []  # of the latest tokens, by the number of tokens so far
        self._last: dict[int, int] = {}  # hash -> its latest index
        self._earlier: list[int] = []  # the index before with the same hash, or -1

    def push(self, tokens: Sequence[int]) -> Iterator[int]:
        """Take the last of the tokens; return the distances to earlier occurrences, the shortest first."""
        index = len(tokens) - 1
        oldest = tokens[index - self._count] + 1 if index >= self._count else 0
        value = self._hash = (self._hash * _BASE + tokens[index] + 1 - oldest * self._oldest) % _MODULUS
        at = self._last.get(value, -1)
        self._last[value] = index
        self._hashes.append(value)
        self._earlier.append(at)
        forgotten = index - MAX_PERIOD - 1
        if forgotten >= 0 and self._last.get(self._hashes[forgotten]) == forgotten:
            del self._last[self._hashes[forgotten]]
        return self._distances(index)

    def _distances(self, index: int) -> Iterator[int]:
        at = self._earlier[index]
        for _ in range(self._most):
            if at < max(0, index - MAX_PERIOD):
                return
            yield index - at
            at = self._earlier[at]
