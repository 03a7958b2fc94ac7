"""Prompts with facts hidden in them, and texts to hide them in; wordings and texts to tune on, others to report on."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_NAMES = "Abbott Barlow Castillo Dubois Eriksen Fontaine Grimaldi Haddad Iversen Jankowski Kimura Lindqvist"
_CITIES = "Lisbon Nairobi Oslo Quito Riga Sofia Tallinn Utrecht Valencia Warsaw Zagreb Havana"
_THINGS = "lantern anchor violin kettle compass ladder mirror basket hammer candle teapot saddle"
_ANIMALS = "otter falcon badger heron lynx walrus gecko ferret raven bison toucan weasel"
_COLORS = "crimson turquoise violet amber olive indigo scarlet beige magenta teal ivory maroon"

# statement, and the words after which its answer follows; {name}, {city} … are drawn, {x} is the answer
TUNE = (
    (
        "The pass key is {digits}. Remember it. {digits} is the pass key.",
        "What is the pass key? The pass key is",
        "digits",
    ),
    ("The locker code of Ms. {name} is {digits}.", "The locker code of Ms. {name} is", "digits"),
    ("Everyone in {city} knows that the mayor's pet is a {animal}.", "The mayor's pet in {city} is a", "animal"),
    ("Dr. {name} lives in {city}, next to the station.", "Dr. {name} lives in", "city"),
    ("The magic word for the {thing} is {color}.", "The magic word for the {thing} is", "color"),
)
REPORT = (
    ("The secret number is {digits}. Keep it safe.", "The secret number is", "digits"),
    (
        "Remember that the train to {city} leaves from platform {two}.",
        "The train to {city} leaves from platform",
        "two",
    ),
    ("Mr. {name} keeps his keys under the {thing} by the door.", "Mr. {name} keeps his keys under the", "thing"),
    ("The favourite animal of Mrs. {name} is the {animal}.", "The favourite animal of Mrs. {name} is the", "animal"),
    (
        "By the way, the door of house number {two} is painted {color}.",
        "The door of house number {two} is painted",
        "color",
    ),
    ("Captain {name} was born in {city}.", "Captain {name} was born in", "city"),
)
FILLER = (
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. ",
    "One does what one can. The days are short in winter. Bread is baked in the morning. ",
)


@dataclass(frozen=True)
class Needle:
    """A prompt, and what should follow."""

    prompt: str
    answer: str


@cache
def text(name: str) -> str:
    """A real text: GPL-3 and GFDL from Debian's common licenses, or the reference that ships with Python."""
    if name == "python":
        from pydoc_data.topics import topics

        return "\n".join(topics[key] for key in sorted(topics))
    return (Path("/usr/share/common-licenses") / name).read_text()


def needle(tokenizer: Any, *, haystack: str, tokens: int, facts: int, wordings: Any, seed: int) -> Needle:
    """Hide facts in a haystack ("filler" or a text's name) of about `tokens` tokens, and ask for one of them."""
    rng = random.Random(f"{haystack} {tokens} {facts} {seed}")
    if haystack.startswith("filler"):
        body = FILLER[int(haystack[6:] or 0)] * (tokens // 10)
    else:
        whole = text(haystack)
        start = rng.randrange(max(1, len(whole) - 5 * tokens))
        body = whole[start:]
    statements, cue, answer = [], "", ""
    for index, (statement, asks, kind) in enumerate(rng.sample(wordings, min(facts, len(wordings)))):
        drawn = {
            "name": rng.choice(_NAMES.split()),
            "city": rng.choice(_CITIES.split()),
            "thing": rng.choice(_THINGS.split()),
            "animal": rng.choice(_ANIMALS.split()),
            "color": rng.choice(_COLORS.split()),
            "digits": str(rng.randrange(10000, 99999)),
            "two": str(rng.randrange(12, 99)),
        }
        statements.append(statement.format(**drawn))
        if index == 0:
            cue, answer = asks.format(**drawn), drawn[kind]
    ids = tokenizer.encode(body, add_special_tokens=False)[: tokens - sum(len(t) for t in statements) // 4 - 12]
    body = tokenizer.decode(ids)
    depths = sorted((rng.random(), t) for t in statements)
    pieces, at = [], 0
    for depth, statement in depths:
        where = max(at, int(depth * len(body)))
        stop = body.find(". ", where)
        newline = body.find(".\n", where)
        ends = [e for e in (stop, newline) if e >= 0]
        where = min(ends) + 1 if ends else len(body)
        pieces += [body[at:where], " " + statement]
        at = where
    pieces.append(body[at:])
    return Needle("".join(pieces) + "\n\n" + cue, answer)
