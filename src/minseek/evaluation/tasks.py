"""Tasks with known answers, read from a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minseek.errors import InputError, is_instance

_FIELDS = ("id", "question", "answer", "kind", "choices")
_EARLIER = {"prompt": "question"}  # names of fields in older files


@dataclass(frozen=True)
class Task:
    """A question and its correct answer.

    Attributes
    ----------
    id : str
    question : str
        The user's question, choices included; the model's chat template is put around it.
    answer : str
        The expected answer; of a question with choices the letter of the right one.
    kind : str or None
        Topic of the task, for readers of the results.
    choices : tuple of str
        Choices in the order of their letters; empty where the answer is open.
    """

    id: str
    question: str
    answer: str
    kind: str | None = None
    choices: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Hash of question, answer and choices, which tells tasks with the same id apart."""
        parts = json.dumps([self.question, self.answer, self.choices])
        return hashlib.sha256(parts.encode()).hexdigest()[:16]


def read_tasks(path: Path) -> list[Task]:
    """Read tasks from a file of JSON lines, ``{"id", "question", "answer"}`` with or without ``kind`` and ``choices``.

    Raises
    ------
    InputError
        If the file cannot be read, holds no task, or has a line that is not a task.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    lines = enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1)
    return check_tasks([_task(line, f"line {number} of {path}") for number, line in lines if line.strip()], str(path))


def check_tasks(tasks: Iterable[Task], name: str) -> list[Task]:
    """The tasks as a list, if there are any and their ids differ."""
    seen: dict[str, Task] = {}
    for task in tasks:
        if task.id in seen:
            raise InputError(f"two tasks of {name} have the id {task.id!r}: give each its own")
        seen[task.id] = task
    if not seen:
        raise InputError(f'{name} holds no task: write one {{"id": …, "question": …, "answer": …}} a line into it')
    return list(seen.values())


def _task(line: bytes, where: str) -> Task:
    try:
        fields = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise InputError(f'{where} must be an object {{"id": …, "question": …, "answer": …}}, not {line.decode()[:60]}')
    fields = {_EARLIER.get(name, name): value for name, value in fields.items()}
    unknown = next((name for name in fields if name not in _FIELDS), None)
    if unknown is not None:
        raise InputError(f"{where} has a field {unknown!r}: a task has {', '.join(_FIELDS)} and no other")
    for name in ("id", "question", "answer"):
        if name not in fields:
            raise InputError(f"{where} has no {name!r}: every task needs one")
    choices = fields.get("choices") or []
    if not isinstance(choices, list) or not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise InputError(f"choices in {where} must be a list of texts, not {json.dumps(choices)[:60]}")
    task = Task(
        id=_text(fields["id"], "id", where),
        question=_text(fields["question"], "question", where),
        answer=_text(fields["answer"], "answer", where),
        kind=None if fields.get("kind") is None else _text(fields["kind"], "kind", where),
        choices=tuple(choices),
    )
    if task.choices and task.answer not in letters(len(task.choices)):
        raise InputError(
            f"the answer in {where} must be the letter of one of {len(task.choices)} choices, not {task.answer!r}"
        )
    return task


def letters(count: int) -> tuple[str, ...]:
    """The letters of `count` choices, from "A" on."""
    return tuple(chr(ord("A") + index) for index in range(count))


def _text(value: Any, name: str, where: str) -> str:
    """A field that must be a text; numbers, common as ids and answers, are written out."""
    if is_instance(value, (int, float)) and name != "question":
        return json.dumps(value)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{name!r} in {where} must be a text that is not empty, not {json.dumps(value)[:60]}")
    return value
