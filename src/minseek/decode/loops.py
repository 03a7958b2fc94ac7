"""Detection of generated text that repeats itself, over token ids."""

from __future__ import annotations

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

_SUFFIX = 80  # latest tokens; those of a loop have occurred one period before: 3 p or 128 tokens less p are more
_CANDIDATES = 8  # periods compared at a token: the shortest ones; a long run of one token would give hundreds
_BASE, _MODULUS = 1_000_003, (1 << 61) - 1  # of a polynomial hash
_OLDEST = pow(_BASE, _SUFFIX, _MODULUS)


class LoopDetector:
    """Finds out if a growing sequence of tokens ends in a cycle that was repeated without a break.

    A token costs one look-up of the latest tokens, by a rolling hash, among those before them. Only where they have
    occurred already are rounds compared.

    Attributes
    ----------
    first_round : int
        Tokens of the sequence up to the end of the first round of the cycle, once `push` has returned True.
    """

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._hash = 0
        self._hashes: list[int] = []  # of the latest tokens, by the number of tokens so far
        self._last: dict[int, int] = {}  # hash -> its latest index
        self._earlier: list[int] = []  # the index before with the same hash, or -1
        self.first_round = 0

    def push(self, token: int) -> bool:
        """Append a token; return True if the sequence ends in a loop."""
        tokens, index = self._tokens, len(self._tokens)
        tokens.append(token)
        oldest = tokens[index - _SUFFIX] + 1 if index >= _SUFFIX else 0
        value = self._hash = (self._hash * _BASE + token + 1 - oldest * _OLDEST) % _MODULUS
        at = self._last.get(value, -1)
        self._last[value] = index
        self._hashes.append(value)
        self._earlier.append(at)
        if index > MAX_PERIOD and self._last.get(self._hashes[index - MAX_PERIOD - 1]) == index - MAX_PERIOD - 1:
            del self._last[self._hashes[index - MAX_PERIOD - 1]]
        for _ in range(_CANDIDATES):
            if at < max(0, index - MAX_PERIOD):
                break
            if self._is_loop(index - at):
                self.first_round = self._first_round(index - at)
                return True
            at = self._earlier[at]
        return False

    def _is_loop(self, period: int) -> bool:
        """True if the sequence ends in a cycle of this period, in enough rounds and tokens."""
        if not self._repeats(period, max(MIN_ROUNDS * period, MIN_TOKENS)):
            return False
        return self._repeats(period, MIN_TOKENS_SIMPLE) or len(set(self._tokens[-period:])) >= SIMPLE

    def _repeats(self, period: int, length: int) -> bool:
        tokens = self._tokens
        return len(tokens) >= length and tokens[-length + period :] == tokens[-length:-period]

    def _first_round(self, period: int) -> int:
        tokens = self._tokens
        start = len(tokens) - period
        while start and tokens[start - 1] == tokens[start - 1 + period]:
            start -= 1
        return start + period
