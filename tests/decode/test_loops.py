"""Loops are found where a cycle has been repeated often and long enough, and nowhere else."""

from __future__ import annotations

import random
import time
from itertools import cycle, islice

import pytest

from minseek.decode import loops
from minseek.decode.loops import LoopDetector


def end_of_loop(tokens):
    """Tokens read until the loop was found, and those up to the end of its first round; None if there is none."""
    detector = LoopDetector()
    for count, token in enumerate(tokens, start=1):
        if detector.push(token):
            return count, detector.first_round
    return None


def oracle(tokens):
    """`end_of_loop` by comparing every period at every token, near loops left out."""
    for count in range(1, len(tokens) + 1):
        read = tokens[:count]
        for period in range(1, loops.MAX_PERIOD + 1):
            length = max(loops.MIN_ROUNDS * period, loops.MIN_TOKENS)
            if len(set(read[-period:])) < loops.SIMPLE:
                length = max(length, loops.MIN_TOKENS_SIMPLE)
            if count >= length and read[count - length + period :] == read[count - length : count - period]:
                start = count - period
                while start and read[start - 1] == read[start - 1 + period]:
                    start -= 1
                return count, start + period
    return None


def words(text):
    """Tokens of a text: its words, numbers cut into digits, and every other character by itself."""
    import re

    return [hash(word) % 50_000 for word in re.findall(r" ?[A-Za-z_]+| ?\d|\s+|.", text)]


@pytest.mark.parametrize("period", [12, 13, 30, 43, 100, 200, 511, 512])
@pytest.mark.parametrize("before", [0, 1, 77, 1600])
def test_three_rounds_are_a_loop_whatever_stands_before_them(period, before):
    rng = random.Random(period + before)
    head = [rng.randrange(50_000) for _ in range(before)]
    once = [rng.randrange(50_000, 100_000) for _ in range(period)]
    needed = max(3 * period, loops.MIN_TOKENS)
    early = min(before, period // loops.NEAR_SHARE) if needed >= loops.MIN_NEAR_TOKENS else 0  # nearly three rounds
    looping = head + list(islice(cycle(once), needed + 50))
    assert end_of_loop(looping) == (before + needed - early, before + period - early)
    assert end_of_loop(looping[: before + needed - early - 1]) is None


def test_two_rounds_and_a_bit_are_no_loop():
    once = list(range(200))
    assert end_of_loop((once * 3)[:580] + [9999] + once * 2) is None


@pytest.mark.parametrize("period", [24, 47, 48, 86, 200, 512])
@pytest.mark.parametrize("before", [0, 77, 1600])
@pytest.mark.parametrize("changing", ["counter", "word", "anywhere"])
def test_a_cycle_with_few_tokens_different_in_each_round_is_a_loop(period, before, changing):
    rng = random.Random(period + before)
    if changing == "anywhere" and period < loops.ROW:
        return  # two rounds of a pair may differ less than one and the next
    once = [rng.randrange(50_000, 100_000) for _ in range(period)]
    tokens, few = [rng.randrange(50_000) for _ in range(before)], period // loops.NEAR_SHARE
    needed = 32 * period if period < loops.ROW else max(3 * period, loops.MIN_NEAR_TOKENS)
    for count in range(2 + needed // period):
        places = {"counter": [period // 2], "word": [0], "anywhere": rng.sample(range(period), max(1, few // 2))}[
            changing
        ]
        new = {place: 200_000 + 1000 * count + place for place in places}
        tokens += [new.get(place, token) for place, token in enumerate(once)]
    found, first_round = end_of_loop(tokens)
    assert before + needed - period // 2 <= found <= before + needed + period
    assert before + period // 2 <= first_round <= before + 2 * period
    assert end_of_loop(tokens[: before + needed - period]) is None


@pytest.mark.parametrize("period", [24, 100])
def test_a_cycle_with_many_tokens_different_in_each_round_is_no_loop(period):
    rng, many = random.Random(0), 1 + period // loops.NEAR_SHARE
    rows = []
    for _ in range(40):
        places = rng.sample(range(period), many)
        rows += [rng.randrange(10**6) if place in places else place for place in range(period)]
    assert end_of_loop(rows) is None


def test_a_short_cycle_that_changes_in_each_round_is_no_loop():
    for period in range(1, loops.MIN_NEAR_PERIOD):
        assert end_of_loop([n for round in range(80) for n in [*range(period - 1), 1000 + round]]) is None


def test_a_longer_cycle_than_the_longest_is_no_loop():
    assert end_of_loop(list(range(loops.MAX_PERIOD + 1)) * 4) is None


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [1, 2, 3, 5, 30])
def test_random_sequences_with_cycles_end_where_comparing_everything_ends_them(kinds):
    rng = random.Random(kinds)
    for _ in range(3):
        tokens = []
        while len(tokens) < 400:
            part = [rng.randrange(kinds) for _ in range(rng.choice((1, 2, 7, 25, 60, 150)))]
            tokens += part * rng.choice((1, 2, 3, 4, 9))
        tokens += part * (500 // len(part))
        tokens = tokens[:900]
        assert end_of_loop(tokens) == oracle(tokens)


ZEROS = "grid = [\n" + "    [0, 0, 0, 0, 0, 0, 0, 0],\n" * 8 + "]\nprint(grid)\n"
TABLE = "| name | count | rate |\n|------|------|------|\n" + "| - | 0 | 0 |\n" * 12
ITEMS = "<ul>\n" + '<li><a href="#">Link</a></li>\n' * 6 + "</ul>\n"
NUMBERS = "1" + "0" * 100 + ", " + ", ".join(str(n) for n in range(300))
CODE = "".join(f"    if x == {n}:\n        return names[{n}]\n" for n in range(60))
SONG = "Row, row, row your boat, gently down the stream.\nMerrily, merrily, merrily, merrily, life is but a dream.\n"
RULES = "Title\n" + "-" * 80 + "\n" + "=" * 80 + "\n" + "- - - " * 20 + "\nand so on\n"
VERSE = SONG * 3 + "Again!\n" + SONG * 3


@pytest.mark.parametrize("text", [ZEROS, TABLE, ITEMS, NUMBERS, CODE, VERSE, RULES, "aaa " * 30, "1000000 " * 12])
def test_repetitions_of_ordinary_texts_are_no_loops(text):
    assert end_of_loop(words(text)) is None


def test_a_sentence_said_again_and_again_is_a_loop():
    sentence = "Wait, let me count the days of the week again, to be sure that there are seven of them. "
    tokens = words("A week has seven days. " + sentence * 40)
    found, first_round = end_of_loop(tokens)
    length = len(words(sentence))
    assert found <= 6 + max(3 * length, loops.MIN_TOKENS) + 2
    assert first_round <= 6 + length + 2


COUNTING = "".join(
    f"Step {n}: we look at the number {n}, and as we see it is not yet the number that we wanted to find, so that we "
    "have to go on with the step after it. "
    for n in range(10, 60)
)
REWORDED = "".join(
    f"The {first}{second} has seven days, and seven days are one week, so that the number of days in a week is seven. "
    for first in ("sun", "moon", "star", "rain", "snow", "wind")
    for second in ("day", "night", "fall", "rise", "shine", "time")
)


@pytest.mark.parametrize("text", [COUNTING, REWORDED])
def test_a_sentence_with_a_counter_or_another_word_is_a_loop(text):
    sentences = [sentence + ". " for sentence in text.split(". ")]
    found, first_round = end_of_loop(words("So let us see. " + text))
    assert found <= len(words("So let us see. " + "".join(sentences[:33])))
    assert first_round < found * 2 / 3


RATES = "| year | rate | of all |\n|---|---|---|\n" + "".join(
    f"| {1990 + n} | {n * 7 % 10}.{n * 3 % 10} | {n * 13 % 100} % |\n" for n in range(60)
)
ADDITION = "".join(f"What is {n} plus {n + 4}? {n} plus {n + 4} equals {2 * n + 4}.\n" for n in range(10, 80))
TIMES = "".join(f"{n} x {k} = {n * k}\n" for n in range(2, 10) for k in range(1, 11))
SEQUENCE = "".join(
    f"For n = {n} the rule gives 2 * {n} + 1 = {2 * n + 1}, so the next number is {2 * n + 1}. " for n in range(60)
)
RECORDS = "".join(
    f'  {{"id": {n}, "name": "Item {chr(65 + n % 26)}", "price": {n * 37 % 100}, "in_stock": true}},\n'
    for n in range(60)
)
LINKS = "".join(f'  <li class="item"><a href="/page/{n}.html">Chapter {n}</a></li>\n' for n in range(30))
STEPS = "".join(
    f"{n}. {what} the {thing} and put it aside for later.\n"
    for n, (what, thing) in enumerate(
        ((w, t) for w in ("Wash", "Peel", "Cut", "Salt", "Fry") for t in ("onion", "carrot", "leek", "potato", "fish")),
        1,
    )
)
CHECKS = "".join(f"    assert square({n}) == {n * n}, 'the square of {n}'\n" for n in range(60))
BOTTLES = "".join(
    f"{n} bottles of beer on the wall, {n} bottles of beer. Take one down and pass it around, {n - 1} bottles of "
    "beer on the wall.\n"
    for n in range(99, 10, -1)
)


@pytest.mark.parametrize("text", [RATES, ADDITION, TIMES, SEQUENCE, RECORDS, LINKS, STEPS, CHECKS, BOTTLES])
def test_rows_drills_and_verses_that_change_are_no_loops(text):
    assert end_of_loop(words(text)) is None


def test_a_token_costs_no_measurable_time():
    rng = random.Random(0)
    prose = [rng.randrange(3000) for _ in range(20_000)]
    tables = [token for n in range(500) for token in [1, 2, 3, 1, 2, 3, 1, 2, 1, 2, 1, 2, 1, 2, 100 + n] * 2]
    for tokens in (prose, tables):
        began = time.perf_counter()
        assert end_of_loop(tokens) is None
        assert (time.perf_counter() - began) / len(tokens) < 200e-6  # some µs on an idle machine
