"""Data sets by name, fetched with the package ``datasets``.

The wording of the prompts is ours: the question, then a sentence that asks for the answer in a box (for mathematics the
one that DeepSeek-R1's authors recommend). Columns are those of the data sets' cards on the Hugging Face Hub.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from minseek.errors import InputError
from minseek.evaluation.tasks import Task, check_tasks, letters

BOXED = "Please reason step by step, and put your final answer within \\boxed{}."
LETTER = "Please reason step by step, and put the letter of your final answer within \\boxed{}."
Row = Mapping[str, Any]


@dataclass(frozen=True)
class NamedSet:
    """Location of a data set, and the conversion of a row into a task.

    Attributes
    ----------
    hub_id, config, split : str
        Arguments of ``datasets.load_dataset``; the config may be None.
    task : callable
        Makes a task from a row and its number.
    note : str
        Condition for fetching it, for error messages.
    """

    hub_id: str
    config: str | None
    split: str
    task: Callable[[Row, int], Task]
    note: str = ""


def load_named(name: str) -> list[Task]:
    """Load the tasks of a data set of `NAMED_SETS`, from the Hub or the cache of ``datasets``.

    Raises
    ------
    InputError
        If ``datasets`` is not installed, or the data set cannot be fetched or has other columns.
    """
    found = NAMED_SETS[name]
    try:
        from datasets import load_dataset
    except ImportError:
        raise InputError(
            f"the data set {name} is fetched with the package datasets, which is not installed: pip install datasets, "
            "or give a file of tasks"
        ) from None
    try:
        rows = list(load_dataset(found.hub_id, found.config, split=found.split))
    except Exception as error:  # the network, the Hub, a gate, a parser: each with errors of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"the data set {name} ({found.hub_id}) cannot be fetched{found.note}: {reason}") from error
    try:
        tasks = [found.task(row, index) for index, row in enumerate(rows)]
    except KeyError as error:
        raise InputError(
            f"the data set {name} ({found.hub_id}) has no column {error}: it has changed, so give a file of tasks"
        ) from None
    return check_tasks(tasks, name)


def _mathematics(id_column: str | None) -> Callable[[Row, int], Task]:
    def task(row: Row, index: int) -> Task:
        name = str(row[id_column]) if id_column else str(index)
        return Task(name, f"{row['problem']}\n\n{BOXED}", _digits(row["answer"]), kind=row.get("subject"))

    return task


def _digits(answer: Any) -> str:
    """An answer as text; the AMC set stores its whole numbers as floats."""
    return str(int(answer)) if isinstance(answer, float) and answer.is_integer() else str(answer)


def _gpqa(row: Row, index: int) -> Task:
    """A task with its choices in an order that depends only on the question's id."""
    name = str(row.get("Record ID") or index)
    choices = [row["Correct Answer"], *(row[f"Incorrect Answer {n}"] for n in (1, 2, 3))]
    order = Random(name).sample(range(len(choices)), len(choices))
    return _choice(
        name, row["Question"], [choices[index] for index in order], order.index(0), row.get("High-level domain")
    )


def _mmlu_pro(row: Row, index: int) -> Task:
    options = [option for option in row["options"] if option != "N/A"]
    return _choice(str(row["question_id"]), row["question"], options, int(row["answer_index"]), row.get("category"))


def _choice(name: str, question: str, choices: list[str], right: int, kind: str | None) -> Task:
    choices, names = [choice.strip() for choice in choices], letters(len(choices))
    listed = "\n".join(f"{letter}) {choice}" for letter, choice in zip(names, choices, strict=True))
    return Task(name, f"{question.strip()}\n\n{listed}\n\n{LETTER}", names[right], kind, tuple(choices))


NAMED_SETS = {
    "aime-2024": NamedSet("HuggingFaceH4/aime_2024", None, "train", _mathematics("id")),
    "math-500": NamedSet("HuggingFaceH4/MATH-500", None, "test", _mathematics("unique_id")),
    "amc": NamedSet("AI-MO/aimo-validation-amc", None, "train", _mathematics("id")),
    "gpqa-diamond": NamedSet(
        *("Idavidrein/gpqa", "gpqa_diamond", "train", _gpqa),
        note="; its terms must be accepted on the Hub, and a token be there",
    ),
    "mmlu-pro": NamedSet("TIGER-Lab/MMLU-Pro", None, "test", _mmlu_pro),
}
"""Data sets of the Min-Seek paper, by the names that ``minseek eval`` takes."""
