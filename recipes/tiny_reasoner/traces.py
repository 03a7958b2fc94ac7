"""Reasoning traces in the R1 form: a first thought, reconsidering thoughts that begin with "Wait", the answer.

A trace is a list of pieces, some of which have no loss (`learn` is False): steps after a slip, so that the model learns
to find and repair slips but not to make them, and the "Wait" of a thought that counts as induced. Thus the model's own
tendency to think again does not depend on its ability to do so when it is induced.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from recipes.tiny_reasoner.kinds import Problem
from recipes.tiny_reasoner.sheet import Sheet

_FIRST_SLIPS, _LATER_SLIPS = 0.35, 0.15
_MORE, _MOST = 0.45, 4  # probability of another thought after a correct one; their maximum number
_OWN = 0.25  # share of these that the model learns to begin by itself


@dataclass(frozen=True)
class Piece:
    """Text of a trace; `learn` is True if its tokens have a loss."""

    text: str
    learn: bool = True


def make_trace(problem: Problem, rng: Random) -> list[Piece]:
    """The trace after the opening think tag, including the closing tag and the answer."""
    pieces, result = _derivation(problem, rng, 0, "", _FIRST_SLIPS)
    pieces.append(Piece(f"So {result}.\n"))
    thoughts = way = 0
    while (wrong := result != problem.answer) or (thoughts < _MOST and rng.random() < _MORE):
        own = not wrong and rng.random() < _OWN
        way = rng.choice([w for w in range(1, len(problem.ways) + 1) if w != way])
        pieces += [Piece("Wait", learn=own), *_reconsider(problem, rng, way, result)]
        result = problem.answer
        thoughts += 1
    return [*pieces, Piece(f"</think>\nThe answer is \\boxed{{{result}}}.")]


def _reconsider(problem: Problem, rng: Random, way: int, before: str) -> list[Piece]:
    """Text after "Wait": another derivation of the result, followed by a careful one if the results differ."""
    sheet = Sheet(rng)
    final = problem.carefully(sheet)
    assert final == problem.answer, f"{problem.prompt}: {final}, not {problem.answer}"
    if way == len(problem.ways):
        end = f"Again {final}.\n" if final == before else f"{final}, not {before}.\nSo {final}.\n"
        return [Piece(", carefully.\n"), *_lines(sheet), Piece(end)]
    head = Piece(f", {problem.ways[way]}.\n")
    pieces, result = _derivation(problem, rng, way, before, _LATER_SLIPS)
    if result == before == problem.answer:
        return [head, *pieces, Piece(f"Again {result}.\n")]
    if result == before:  # the same wrong result twice: no repair to learn from
        return [head, *_derivation(problem, rng, way, problem.answer, 0.0)[0], Piece(f"So {final}.\n")]
    doubt = result if "not" in result else f"{result}, not {before}"
    return [head, *pieces, Piece(f"{doubt}. Carefully.\n"), *_lines(sheet), Piece(f"So {final}.\n")]


def _derivation(problem: Problem, rng: Random, way: int, before: str, slips: float) -> tuple[list[Piece], str]:
    """A derivation, with a slip with probability `slips`, and its result."""
    slip = None
    if rng.random() < slips:
        sound = Sheet(rng)
        problem.derive(sound, way, before)
        slip = rng.randrange(sound.steps) if sound.steps else None
    sheet = Sheet(rng, slip)
    result = problem.derive(sheet, way, before)
    return _lines(sheet), result


def _lines(sheet: Sheet) -> list[Piece]:
    """Lines before a slip, and lines from the slip on."""
    if sheet.slipped_at is None:
        return [Piece("".join(f"{line}\n" for line in sheet.lines))]
    sound, rest = sheet.lines[: sheet.slipped_at], sheet.lines[sheet.slipped_at :]
    return [Piece("".join(f"{line}\n" for line in sound)), Piece("".join(f"{line}\n" for line in rest), learn=False)]
