"""Training sequences, read from a file of text or JSON lines."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minseek.errors import InputError, MinseekWarning
from minseek.models.chat.encoding import encode_continuation, encode_prompt
from minseek.tune.conversations import read_conversation

_SHAPES = '{"text": …}, {"prompt": …, "completion": …} or {"messages": […]}'


@dataclass(frozen=True)
class Example:
    """A sequence of tokens.

    Attributes
    ----------
    ids : Tensor
        [T], int32.
    loss_mask : Tensor
        [T], bool: True for the tokens to be predicted; the first never is one.
    """

    ids: Tensor
    loss_mask: Tensor


@dataclass(frozen=True)
class Examples:
    """The sequences of a file.

    Attributes
    ----------
    items : list of Example
    sha256 : str
        Hash of the file.
    left_over : int
        Tokens of a text after its last whole block.
    """

    items: list[Example]
    sha256: str
    left_over: int = 0

    @property
    def tokens(self) -> int:
        """Number of tokens of all sequences."""
        return sum(len(item.ids) for item in self.items)


def read_examples(path: Path, tokenizer: Any, max_length: int) -> Examples:
    """Read a ``.txt`` file, cut into blocks of `max_length` tokens, or a ``.jsonl`` file, a sequence a line.

    A text is tokenized whole and ends with an end-of-sequence token; a rest shorter than a block is left out unless it
    is all there is. The loss covers all tokens of ``text``, the completion of ``prompt`` and ``completion`` (joined
    without a template), and every turn of the assistant in ``messages`` (in the model's chat template; the last
    answer keeps its thinking, see `read_conversation`). One warning gives the number of sequences that are longer than
    `max_length` and are cut, and one that of answers whose thinking is lost.

    Raises
    ------
    InputError
        If the file cannot be read or a line is no such example; the line is named.
    """
    if path.suffix not in (".txt", ".jsonl"):
        raise InputError(f"{path} is neither a .txt nor a .jsonl file: give it the ending that says how to read it")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    digest = hashlib.sha256(raw).hexdigest()
    if path.suffix == ".txt":
        ids = _text_ids(tokenizer, _decode(raw, str(path)))
        if len(ids) < 2:
            raise InputError(f"{path} is empty: write the text to learn into it")
        blocks = [ids[start : start + max_length] for start in range(0, len(ids), max_length)]
        left_over = 0
        if len(blocks) > 1 and len(blocks[-1]) < max_length:
            left_over = len(blocks.pop())
        loss_mask = torch.ones(max_length, dtype=torch.bool)
        return Examples([Example(_as_ids(block), loss_mask[: len(block)]) for block in blocks], digest, left_over)
    return Examples(_read_lines(path, raw, tokenizer, max_length), digest)


def _read_lines(path: Path, raw: bytes, tokenizer: Any, max_length: int) -> list[Example]:
    found, num_cut, num_emptied, num_thoughtless = [], 0, 0, 0
    for number, line in enumerate(raw.splitlines(), start=1):
        where = f"line {number} of {path}"
        text = _decode(line, where)
        if not text.strip():
            continue
        try:
            item = json.loads(text)
            json.dumps(item, ensure_ascii=False).encode()
            pieces, thoughtless = _tokenize(item, tokenizer)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        except UnicodeEncodeError:  # JSON can hold half a surrogate pair; no tokenizer takes it
            raise InputError(f"{where} has half a surrogate pair, which is no Unicode text: leave it out") from None
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where} is not JSON: {error}") from None
        ids = [token for tokens, _ in pieces for token in tokens]
        loss_mask = [has_loss for tokens, has_loss in pieces for _ in tokens]
        if not any(loss_mask[1:]):
            raise InputError(f"{where} has no token to learn: leave it out")
        num_cut += len(ids) > max_length
        num_thoughtless += thoughtless
        if any(loss_mask[1:max_length]):
            found.append(Example(_as_ids(ids[:max_length]), torch.tensor(loss_mask[:max_length])))
        else:
            num_emptied += 1
    if num_cut:
        lost = f", and {num_emptied} of these have nothing to learn before that and are left out" if num_emptied else ""
        warnings.warn(
            f"{num_cut} of {len(found) + num_emptied} examples in {path} are longer than {max_length} tokens and are "
            f"cut{lost}: a larger max_length keeps them whole",
            MinseekWarning,
            stacklevel=3,
        )
    if num_thoughtless:
        warnings.warn(
            f"{num_thoughtless} answers in {path} that others follow are learned without their thinking, which the "
            "model's chat template leaves out there: end an example with each of them to learn it",
            MinseekWarning,
            stacklevel=3,
        )
    if not found:
        raise InputError(f"{path} holds no example to learn: write one a line, as {_SHAPES}")
    return found


def _tokenize(item: Any, tokenizer: Any) -> tuple[list[tuple[list[int], bool]], int]:
    """Tokens of a line's pieces, each with True if it counts in the loss, and the number of answers without thinking.

    The latter are those whose thinking the chat template leaves out.
    """
    kinds = {frozenset(("text",)), frozenset(("prompt", "completion")), frozenset(("messages",))}
    if not isinstance(item, dict) or frozenset(item) not in kinds:
        has = f"the fields {', '.join(map(repr, item))}" if isinstance(item, dict) else type(item).__name__
        raise InputError(f"it has {has}, which is no example: write {_SHAPES}")
    if "messages" in item:
        conversation = read_conversation(item["messages"], tokenizer)
        return conversation.encode(tokenizer), conversation.num_thoughtless
    for name, value in item.items():
        if not isinstance(value, str):
            raise InputError(f"{name!r} must be a text, not {json.dumps(value)[:40]}")
    if "text" in item:
        return [(_text_ids(tokenizer, item["text"]), True)], 0
    completion = encode_continuation(tokenizer, item["completion"], before=item["prompt"])
    return [(encode_prompt(tokenizer, item["prompt"]), False), ([*completion, *_eos(tokenizer)], True)], 0


def _text_ids(tokenizer: Any, text: str) -> list[int]:
    ids, eos = encode_prompt(tokenizer, text), _eos(tokenizer)
    return ids if eos and ids[-1:] == eos else ids + eos


def _eos(tokenizer: Any) -> list[int]:
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]


def _as_ids(ids: list[int]) -> Tensor:
    return torch.tensor(ids, dtype=torch.int32)


def _decode(raw: bytes, source: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{source} is not UTF-8 text: {error.reason} at byte {error.start}") from None
