"""From a file of text or JSON lines to sequences of tokens."""

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
from minseek.models.chat.prompts import render_messages

_SHAPES = '{"text": …}, {"prompt": …, "completion": …} or {"messages": […]}'


@dataclass(frozen=True)
class Example:
    """A sequence.

    Attributes
    ----------
    ids : Tensor
        [T], int32.
    learn : Tensor
        [T], bool: tokens that are to be predicted; the first never is.
    """

    ids: Tensor
    learn: Tensor


@dataclass(frozen=True)
class Examples:
    """What a file holds.

    Attributes
    ----------
    items : list of Example
    sha256 : str
        Of the file.
    left_over : int
        Tokens of a text behind its last whole block.
    """

    items: list[Example]
    sha256: str
    left_over: int = 0

    @property
    def tokens(self) -> int:
        """Of all sequences."""
        return sum(len(item.ids) for item in self.items)


def read_examples(path: Path, tokenizer: Any, length: int) -> Examples:
    """Read a ``.txt`` file, cut into blocks of `length` tokens, or a ``.jsonl`` file, a sequence a line.

    A text is tokenised whole, an end token is put behind it, and a rest shorter than a block is left out (unless it is
    all there is). Of JSON lines ``text`` is learnt from the first token to the end token, of ``prompt`` and
    ``completion``, which are put together without a template, the completion, and of ``messages``, in the model's chat
    template, every turn of the assistant. One warning tells how many are longer than `length` and are cut.

    Raises
    ------
    InputError
        If the file cannot be read or a line of it is not such an example; the line is named.
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
        blocks = [ids[start : start + length] for start in range(0, len(ids), length)]
        left_over = 0
        if len(blocks) > 1 and len(blocks[-1]) < length:
            left_over = len(blocks.pop())
        learn = torch.ones(length, dtype=torch.bool)
        return Examples([Example(_as_ids(block), learn[: len(block)]) for block in blocks], digest, left_over)
    return Examples(_lines(path, raw, tokenizer, length), digest)


def _lines(path: Path, raw: bytes, tokenizer: Any, length: int) -> list[Example]:
    found, cut, emptied = [], 0, 0
    for number, line in enumerate(raw.splitlines(), start=1):
        where = f"line {number} of {path}"
        text = _decode(line, where)
        if not text.strip():
            continue
        try:
            parts = _parts(json.loads(text), tokenizer)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where} is not JSON: {error}") from None
        ids = [token for tokens, _ in parts for token in tokens]
        learn = [wanted for tokens, wanted in parts for _ in tokens]
        if not any(learn[1:]):
            raise InputError(f"{where} has no token to learn: leave it out")
        cut += len(ids) > length
        if any(learn[1:length]):
            found.append(Example(_as_ids(ids[:length]), torch.tensor(learn[:length])))
        else:
            emptied += 1
    if cut:
        lost = f", and {emptied} of these have nothing to learn before that and are left out" if emptied else ""
        warnings.warn(
            f"{cut} of {len(found) + emptied} examples in {path} are longer than {length} tokens and are cut{lost}: a "
            "larger length keeps them whole",
            MinseekWarning,
            stacklevel=3,
        )
    if not found:
        raise InputError(f"{path} holds no example to learn: write one a line, as {_SHAPES}")
    return found


def _parts(item: Any, tokenizer: Any) -> list[tuple[list[int], bool]]:
    """Tokens of a line's pieces, and whether each is learnt."""
    kinds = {frozenset(("text",)), frozenset(("prompt", "completion")), frozenset(("messages",))}
    if not isinstance(item, dict) or frozenset(item) not in kinds:
        has = f"the fields {', '.join(map(repr, item))}" if isinstance(item, dict) else type(item).__name__
        raise InputError(f"it has {has}, which is no example: write {_SHAPES}")
    if "messages" in item:
        return _conversation(item["messages"], tokenizer)
    for name, value in item.items():
        if not isinstance(value, str):
            raise InputError(f"{name!r} must be a text, not {json.dumps(value)[:40]}")
    if "text" in item:
        return [(_text_ids(tokenizer, item["text"]), True)]
    prompt = tokenizer.encode(item["prompt"], verbose=False)
    return [(list(prompt), False), ([*_plain_ids(tokenizer, item["completion"]), *_end(tokenizer)], True)]


def _conversation(messages: Any, tokenizer: Any) -> list[tuple[list[int], bool]]:
    """Pieces of a rendered conversation: each turn of the assistant begins where generation would begin."""
    if (
        not isinstance(messages, list)
        or not messages
        or not all(isinstance(m, dict) and set(m) == {"role", "content"} for m in messages)
        or not all(isinstance(value, str) for m in messages for value in m.values())
    ):
        raise InputError("'messages' must be a list of objects with the texts 'role' and 'content'")
    if not tokenizer.chat_template:
        raise InputError("the model has no chat template: give 'prompt' and 'completion' instead of 'messages'")
    whole = _render(tokenizer, messages)
    pieces, at = [], 0
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        if index == 0:
            raise InputError("the first message is the assistant's: begin with the user's")
        opened = render_messages(tokenizer, messages[:index])
        end = len(before) if (before := _render(tokenizer, messages[: index + 1])) == whole[: len(before)] else -1
        # A template may open thinking where generation begins, and write a finished turn without it.
        start = next((place for place, (a, b) in enumerate(zip(opened, whole, strict=False)) if a != b), len(opened))
        if start < max(at, len(_render(tokenizer, messages[:index]))) or end < start:
            raise InputError(
                f"the chat template writes message {index + 1} differently once others follow: give one example for "
                "each turn of the assistant, and end it there"
            )
        pieces += [(whole[at:start], False), (whole[start:end], True)]
        at = end
    pieces.append((whole[at:], False))
    return [(_plain_ids(tokenizer, text), learn) for text, learn in pieces]


def _render(tokenizer: Any, messages: list[dict[str, str]]) -> str:
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False))
    except Exception as error:  # a template is a program of somebody else's; jinja has its own errors
        raise InputError(f"the model's chat template refuses this conversation: {error}") from error


def _text_ids(tokenizer: Any, text: str) -> list[int]:
    ids, end = list(tokenizer.encode(text, verbose=False)), _end(tokenizer)
    return ids if end and ids[-1:] == end else ids + end


def _plain_ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False, verbose=False))


def _end(tokenizer: Any) -> list[int]:
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]


def _as_ids(ids: list[int]) -> Tensor:
    return torch.tensor(ids, dtype=torch.int32)


def _decode(raw: bytes, what: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{what} is not UTF-8 text: {error.reason} at byte {error.start}") from None
