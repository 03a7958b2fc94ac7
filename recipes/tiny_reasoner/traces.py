"""Reasoning traces in the R1 form: a first thought, reconsidering thoughts that begin with "Wait", the answer.

A trace is a list of pieces; a piece that follows from a slip is in the trace, so that it can be found and repaired, but
is not learned: `learn` is False.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from recipes.tiny_reasoner.kinds import Problem
from recipes.tiny_reasoner.sheet import Sheet

_FIRST_SLIPS, _LATER_SLIPS = 0.35, 0.15
_MORE = (0.6, 0.5, 0.5, 0.5)  # chance of another thought after so many


@dataclass(frozen=True)
class Piece:
    """Text of a trace, and whether it is to be learned."""

    text: str
    learn: bool = True


def make_trace(problem: Problem, chance: Random) -> list[Piece]:
    """Everything behind the opening think tag, the closing tag and the answer included."""
    pieces, result = _written(problem, chance, 0, "", _FIRST_SLIPS)
    pieces.append(Piece(f"So {result}.\n"))
    thoughts = 0
    while result != problem.answer or (thoughts < len(_MORE) and chance.random() < _MORE[thoughts]):
        pieces += _reconsider(problem, chance, result)
        result = problem.answer
        thoughts += 1
    return [*pieces, Piece(f"</think>\nThe answer is \\boxed{{{result}}}.")]


def _reconsider(problem: Problem, chance: Random, before: str) -> list[Piece]:
    """A thought that derives the result again, and works carefully where it comes to another one."""
    way = chance.randrange(1, len(problem.ways))
    pieces, result = _written(problem, chance, way, before, _LATER_SLIPS)
    head = Piece(f"Wait, {problem.ways[way]}.\n")
    if result == before == problem.answer:
        return [head, *pieces, Piece(f"Again {result}.\n")]
    sheet = Sheet(chance)
    final = problem.carefully(sheet)
    assert final == problem.answer, f"{problem.prompt}: {final}, not {problem.answer}"
    if result == before:  # the same wrong result twice: no repair to learn from
        return [head, *_written(problem, chance, way, problem.answer, 0.0)[0], Piece(f"So {problem.answer}.\n")]
    doubt = result if "not" in result else f"{result}, not {before}"
    return [head, *pieces, Piece(f"{doubt}. Carefully.\n"), *_lines(sheet), Piece(f"So {final}.\n")]


def _written(problem: Problem, chance: Random, way: int, before: str, slips: float) -> tuple[list[Piece], str]:
    """A derivation, with a slip in it now and then, and its result."""
    slip = None
    if chance.random() < slips:
        sound = Sheet(chance)
        problem.derive(sound, way, before)
        slip = chance.randrange(sound.steps) if sound.steps else None
    sheet = Sheet(chance, slip)
    result = problem.derive(sheet, way, before)
    return _lines(sheet), result


def _lines(sheet: Sheet) -> list[Piece]:
    """The lines before a slip, and those from it on."""
    if sheet.slipped_at is None:
        return [Piece("".join(f"{line}\n" for line in sheet.lines))]
    sound, rest = sheet.lines[: sheet.slipped_at], sheet.lines[sheet.slipped_at :]
    return [Piece("".join(f"{line}\n" for line in sound)), Piece("".join(f"{line}\n" for line in rest), learn=False)]
