"""A loaded model: weights, tokenizer, thinking format, and sessions over them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from minseek.cache import CacheShape, KeyStorage, SlotPool, SlotShape, ThoughtCache
from minseek.errors import InputError, check_type
from minseek.models.chat.encoding import encode, encode_continuation, encode_prompt
from minseek.models.chat.thinking_format import ThinkingFormat, choose_format
from minseek.models.device import DeviceChoice
from minseek.models.forward.chunk import SequenceChunk, check_token_ids
from minseek.models.forward.decoder import Decoder
from minseek.models.induction import find_induction_layers
from minseek.models.loading.recommended import Recommended
from minseek.models.matrix import float_rows
from minseek.models.process_memory import resident_part
from minseek.models.weights import DecoderWeights
from minseek.units import format_bytes


@dataclass(frozen=True)
class SessionStats:
    """Tokens that a session's cache holds and held at most, their bytes, and the most bytes allocated for it."""

    length: int
    peak_length: int
    nbytes: int
    peak_bytes: int
    allocated_bytes: int


class Session:
    """One sequence: appends tokens, returns logits, and can drop spans of tokens from its cache."""

    def __init__(self, decoder: Decoder, cache: ThoughtCache) -> None:
        self._decoder, self._cache = decoder, cache

    @property
    def length(self) -> int:
        """Tokens in the cache, which is also the position of the next token."""
        return self._cache.length

    def forward(self, tokens: Sequence[int]) -> Tensor:
        """Append tokens; the logits after the last one, float32, [vocab]."""
        return self._decoder.forward(tokens, self._cache)

    def drop(self, start: int, stop: int) -> None:
        """Drop tokens ``start .. stop - 1``; later tokens move left to contiguous positions."""
        self._cache.drop(start, stop)

    def stats(self) -> SessionStats:
        """Current and peak size of the cache."""
        cache = self._cache
        now, most, token_bytes = cache.length, cache.peak_length, cache.shape.token_bytes(cache.key_storage)
        return SessionStats(now, most, now * token_bytes, most * token_bytes, cache.peak_bytes)


class Model:
    """A loaded model, as `minseek.load` returns it.

    Attributes
    ----------
    name : str
        Name that was given to `minseek.load`.
    tokenizer
        The transformers tokenizer.
    thinking : ThinkingFormat
        Format of its thinking.
    placement : DeviceChoice
        Device and dtype.
    recommended : Recommended or None
        Strategy that the evidence on this model recommends, if it comes with one.
    memory : int or None
        Bytes that the whole process may take; None is no limit.
    """

    def __init__(
        self,
        name: str,
        weights: DecoderWeights,
        tokenizer: Any,
        placement: DeviceChoice,
        thinking: str | ThinkingFormat | None = None,
        recommended: Recommended | None = None,
    ) -> None:
        self.recommended = recommended
        self.memory: int | None = None
        self.name, self.weights, self.placement = name, weights, placement
        self.tokenizer = tokenizer
        self.thinking = choose_format(thinking, tokenizer)
        # Called twice a token: transformers' checks around it would take longer than the decoding itself.
        self._plain_decode = getattr(getattr(tokenizer, "backend_tokenizer", None), "decode", None)
        self._decoder = Decoder(weights)
        eos = tokenizer.eos_token_id
        self.eos_token_ids = frozenset(weights.config.eos_token_ids) | (frozenset() if eos is None else {eos})

    @property
    def architecture(self) -> str:
        """Name of the architecture, such as "llama"; a key of `minseek.models.VERIFIED`."""
        return self.weights.config.architecture

    @property
    def max_positions(self) -> int:
        """Context length that the model was trained for, in tokens."""
        return self.weights.config.max_positions

    @property
    def num_layers(self) -> int:
        """Decoder layers."""
        return self.weights.config.num_layers

    @property
    def num_heads(self) -> int:
        """Query heads of a layer."""
        return self.weights.config.num_heads

    @property
    def hidden_size(self) -> int:
        """Width of a hidden state."""
        return self.weights.hidden_size

    @property
    def vocab_size(self) -> int:
        """Number of token ids: rows of the embedding."""
        return len(self.weights.embedding)

    @property
    def cache_shape(self) -> CacheShape:
        """Layers, key/value heads, head dimension and dtype of the KV cache."""
        return self.weights.shape

    @property
    def backend(self) -> str:
        """Implementation of the forward pass: "C" or "PyTorch"."""
        return self._decoder.backend

    @cached_property
    def induction_layers(self) -> tuple[int, ...]:
        """Layers with strong induction heads, measured at first use; see `minseek.models.induction`."""
        return find_induction_layers(self._decoder)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights in memory; a tied embedding counts once."""
        return self.weights.weight_bytes

    @property
    def resident_bytes(self) -> int:
        """Bytes of the weights and of the forward pass's workspace that are in memory now."""
        return resident_part([*self.weights.tensors, *self._decoder.workspace])

    def token_bytes(self, key_storage: KeyStorage = "re-rotated") -> int:
        """Bytes of KV cache per token."""
        return self.weights.shape.token_bytes(key_storage)

    def make_slot_pool(self, slot: SlotShape, slots: int, *, window: int = 0) -> SlotPool:
        """Allocate slots for sequences of this model, on its device, as `SlotPool` does."""
        return SlotPool(slot, self.weights.rotary, slots, window=window, device=self.weights.device)

    def check_token_ids(self, tokens: Sequence[int], source: str = "") -> None:
        """Refuse token ids out of range; see `minseek.models.check_token_ids`."""
        check_token_ids(tokens, self.vocab_size, source)

    def fingerprint(self) -> str:
        """Hash of the last norm and of some rows of the weights, as 16 hexadecimal digits; training changes it."""
        weights, digest = self.weights, hashlib.sha256()
        down = weights.layers[-1].down
        first_rows = (float_rows(matrix, 0, min(16, len(matrix))) for matrix in (weights.embedding, down))
        for tensor in (weights.norm, *first_rows):
            digest.update(tensor.float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def session(
        self,
        *,
        key_storage: KeyStorage = "re-rotated",
        max_tokens: int | None = None,
        cache: ThoughtCache | None = None,
    ) -> Session:
        """Begin a sequence in `cache` or in a new one, which is allocated at once if `max_tokens` bounds it."""
        if cache is not None:
            return Session(self._decoder, cache)
        device, shape = self.weights.device, self.cache_shape
        try:
            if max_tokens is not None and key_storage == "re-rotated" and self._decoder.uses_cuda_graphs:
                slot = SlotShape(shape, 0, max_tokens, evicts=False)
                cache = ThoughtCache.over(self.make_slot_pool(slot, 1).slots[0])
            else:
                cache = ThoughtCache(
                    shape, self.weights.rotary, key_storage=key_storage, max_tokens=max_tokens, device=device
                )
        except RuntimeError as error:  # torch raises it for every failure
            size = format_bytes((max_tokens or 0) * shape.token_bytes(key_storage))
            raise InputError(f"a cache of {size} could not be allocated on {device}: give a smaller budget") from error
        return Session(self._decoder, cache)

    def forward_batch(self, chunks: Sequence[SequenceChunk]) -> tuple[Tensor, Tensor]:
        """One pass over new tokens of several sequences; see `minseek.models.forward.decoder.Decoder.forward_batch`."""
        return self._decoder.forward_batch(chunks)

    def activation_bytes(self, tokens: int, longest: int, num_logits: int) -> int:
        """Bytes of activations of a pass; see `minseek.models.forward.decoder.Decoder.activation_bytes`."""
        return self._decoder.activation_bytes(tokens, longest, num_logits)

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without any special tokens around it."""
        return encode(self.tokenizer, text)

    def encode_prompt(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Tokens of a text to continue, with the special tokens that the tokenizer puts before a text, such as BOS."""
        return encode_prompt(self.tokenizer, text, add_special_tokens=add_special_tokens)

    def encode_continuation(self, text: str) -> list[int]:
        """Tokens of a text after another one, without the space that some tokenizers put before a text."""
        return encode_continuation(self.tokenizer, text)

    def decode(self, tokens: list[int]) -> str:
        """Text of tokens, special tokens included."""
        if self._plain_decode is not None:
            return str(self._plain_decode(tokens, skip_special_tokens=False))
        return str(self.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def __repr__(self) -> str:
        kind = str(self.placement.dtype).removeprefix("torch.")
        return f"<minseek.Model {self.name!r}: {self.architecture}, {kind}>"


def check_model(model: object) -> None:
    """Refuse anything but a `Model`, such as a model's name.

    Raises
    ------
    TypeError
        With the value.
    """
    check_type("model must be what minseek.load returns", model, Model, ": load it first")
