"""Input of one forward pass: new tokens of one sequence and the cache that they extend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from minseek.cache import KVCache
from minseek.errors import InputError


@dataclass(frozen=True)
class SequenceChunk:
    """Tokens to append to one sequence's cache.

    Attributes
    ----------
    tokens : sequence of int
        At least one.
    cache : KVCache
        Where their keys and values go; no other feed of the same pass may have it.
    wanted : int
        How many of the last tokens' logits are wanted.
    """

    tokens: Sequence[int]
    cache: KVCache
    wanted: int = 0


def check_token_ids(tokens: Sequence[int], vocab_size: int, source: str = "") -> None:
    """Refuse token ids without a row in the model's embedding.

    Parameters
    ----------
    tokens : sequence of int
    vocab_size : int
        Rows of the embedding.
    source : str
        Origin of the tokens, put after the id in the message, such as " of prompt 3".

    Raises
    ------
    InputError
        With the first id that is out of range.
    """
    if tokens and not 0 <= min(tokens) <= max(tokens) < vocab_size:
        wrong = next(token for token in tokens if not 0 <= token < vocab_size)
        raise InputError(
            f"the token {wrong}{source} is outside the model's vocabulary, ids 0 to {vocab_size - 1}: "
            "encode with the model's own tokenizer"
        )
