"""Input of a forward pass, and the check of its token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from minseek.cache import KVCache
from minseek.errors import InputError


@dataclass(frozen=True)
class SequenceChunk:
    """New tokens of one sequence and the cache that they extend.

    Attributes
    ----------
    tokens : sequence of int
        At least one.
    cache : KVCache
        Cache that the tokens' keys and values are appended to; not used by another chunk of the same pass.
    num_logits : int
        Number of last tokens whose logits are returned.
    """

    tokens: Sequence[int]
    cache: KVCache
    num_logits: int = 0


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
