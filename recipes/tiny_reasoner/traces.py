"""Reasoning traces in the R1 form: a first thought, reconsidering thoughts that begin with "Wait", the answer.

A trace is a list of pieces, some of which are read but not learned (`learn` is False): what follows from a slip, so
that it can be found and repaired but is not imitated, and the "Wait" of a thought that stands there as if induced. So
how often the model thinks again by itself does not depend on how well it does so when it is made to.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from recipes.tiny_reasoner.kinds import Problem
from recipes.tiny_reasoner.sheet import Sheet

_FIRST_SLIPS, _LATER_SLIPS = 0.35, 0.15
_MORE, _MOST = 0.45, 4  # chance of another thought after a right one; how many of these at most
_OWN = 0.25  # share of them that the model is to begin by itself


@dataclass(frozen=True)
class Piece:
    """Text of a trace, and whether it is to be learned."""

    text: str
    learn: bool = True


def make_trace(problem: Problem, chance: Random) -> list[Piece]:
    """Everything behind the opening think tag, the closing tag and the answer included."""
    pieces, result = _written(problem, chance, 0, "", _FIRST_SLIPS)
    pieces.append(Piece(f"So {result}.\n"))
    thoughts = way = 0
    while (wrong := result != problem.answer) or (thoughts < _MOST and chance.random() < _MORE):
        own = not wrong and chance.random() < _OWN
        way = chance.choice([w for w in range(1, len(problem.ways) + 1) if w != way])
        pieces += [Piece("Wait", learn=own), *_reconsider(problem, chance, way, result)]
        result = problem.answer
        thoughts += 1
    return [*pieces, Piece(f"</think>\nThe answer is \\boxed{{{result}}}.")]


def _reconsider(problem: Problem, chance: Random, way: int, before: str) -> list[Piece]:
    """What follows "Wait": the result derived in another way, and worked out carefully where another one comes out."""
    sheet = Sheet(chance)
    final = problem.carefully(sheet)
    assert final == problem.answer, f"{problem.prompt}: {final}, not {problem.answer}"
    if way == len(problem.ways):
        end = f"Again {final}.\n" if final == before else f"{final}, not {before}.\nSo {final}.\n"
        return [Piece(", carefully.\n"), *_lines(sheet), Piece(end)]
    head = Piece(f", {problem.ways[way]}.\n")
    pieces, result = _written(problem, chance, way, before, _LATER_SLIPS)
    if result == before == problem.answer:
        return [head, *pieces, Piece(f"Again {result}.\n")]
    if result == before:  # the same wrong result twice: no repair to learn from
        return [head, *_written(problem, chance, way, problem.answer, 0.0)[0], Piece(f"So {final}.\n")]
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
