"""Problems with known answers, by kind and difficulty, and which of them are held out.

``python -m recipes.tiny_reasoner.problems --split test --count 500 > tasks.jsonl`` writes tasks for ``minseek eval``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from random import Random
from zlib import crc32

from recipes.tiny_reasoner.kinds import KINDS, Problem

DIFFICULTIES = (1, 2, 3, 4, 5)
_HELD_OUT = 16  # one in 16 prompts is never trained on


def is_held_out(prompt: str) -> bool:
    """True if a prompt belongs to the test split, by a hash of its text, so that no seed can mix the splits."""
    return crc32(prompt.encode()) % _HELD_OUT == 0


def draw(rng: Random, *, test: bool, kind: str | None = None, difficulty: int | None = None) -> tuple[str, Problem]:
    """Draw a problem, from the test split or the training split; returns its kind and the problem."""
    while True:
        name = kind or rng.choice(list(KINDS))
        problem = KINDS[name](rng, difficulty or rng.choice(DIFFICULTIES))
        if is_held_out(problem.prompt) == test:
            return name, problem


def tasks(split: str, count: int, seed: int, difficulty: int | None = None) -> Iterator[dict[str, str]]:
    """Generate distinct tasks, alternating between the kinds."""
    rng, seen = Random(f"{split} {seed}"), set[str]()
    while len(seen) < count:
        kind, problem = draw(rng, test=split == "test", kind=list(KINDS)[len(seen) % len(KINDS)], difficulty=difficulty)
        if problem.prompt not in seen:
            seen.add(problem.prompt)
            yield {"id": f"{split}-{len(seen)}", "question": problem.prompt, "answer": problem.answer, "kind": kind}


def main() -> None:
    """Write tasks to standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", choices=("test", "train"), default="test")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--difficulty", type=int, choices=DIFFICULTIES)
    args = parser.parse_args()
    for task in tasks(args.split, args.count, args.seed, args.difficulty):
        print(json.dumps(task))


if __name__ == "__main__":
    main()
