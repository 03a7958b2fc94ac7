"""Thoughts that strategies keep, and values that strategies and limits refuse."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from itertools import combinations
from typing import Any, Literal, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minseek import BudgetForcing, InputError, Limits, MinSeek, Standard, Strategy, Thought
from minseek.cli import main
from minseek.protocol.requests import Thinking
from minseek.reasoning.events import Ending
from minseek.reasoning.strategies import KeepRule

CUT_OFF = ["loop", "thinking-budget", "context", "kv-budget"]
FINISHED = ["closed", "max-thought-tokens"]
RULES = list(get_args(KeepRule))
# Few different lengths, so that there are ties; three in four thoughts are finished.
THOUGHTS = st.lists(st.tuples(st.integers(0, 6), st.sampled_from(FINISHED * 4 + CUT_OFF)), max_size=14)


def likely(length: int) -> float | None:
    """Log-probability of a thought of that length, in another order than by length."""
    return (None, -0.5, -2.0, -0.1, -0.5, -7.0, -0.3)[length % 7]


def test_an_ending_either_finishes_a_thought_or_cuts_it_off() -> None:
    assert sorted(FINISHED + CUT_OFF) == sorted(get_args(Ending))
    assert [e for e in get_args(Ending) if Thought(1, ended_by=e).finished] == FINISHED


def settled(strategy: Strategy, lengths: list[tuple[int, Any]], seed: int = 0) -> list[Thought]:
    """The thoughts kept after inducing thoughts of these lengths and endings; each decision is checked on the way."""
    kept: list[Thought] = []
    rng = random.Random(seed)
    for index, (length, ending) in enumerate(lengths, start=1):
        new = Thought(index, tokens=[0] * length, ended_by=ending, logprob=likely(length))
        decision = strategy.decide(tuple(kept), new, rng)
        assert decision.why
        full = isinstance(strategy, MinSeek) and len(kept) == strategy.keep
        assert (decision.dropped is not None) == (isinstance(strategy, MinSeek) and (full or not new.finished))
        assert new.finished or decision.dropped in (new, None)
        kept.append(new)
        if decision.dropped is not None:
            assert sum(thought is decision.dropped for thought in kept) == 1
            kept.remove(decision.dropped)
    return kept


def indices(thoughts: list[Thought]) -> list[int]:
    return [thought.index for thought in thoughts]


@given(THOUGHTS, st.integers(1, 4), st.sampled_from(RULES))
@settings(max_examples=150)
def test_a_rule_keeps_what_brute_force_would_choose(lengths: list[tuple[int, Any]], keep: int, rule: Any) -> None:
    kept = settled(MinSeek(keep=keep, rule=rule), lengths)
    finished = [(n, length) for n, (length, ending) in enumerate(lengths, start=1) if ending in FINISHED]
    by_rule = {
        "shortest": sorted(finished, key=lambda t: (t[1], t[0])),
        "longest": sorted(finished, key=lambda t: (-t[1], t[0])),
        "latest": finished[::-1],
        "most-likely": sorted(finished, key=lambda t: (-(likely(t[1]) or -math.inf), t[0])),
    }
    if rule == "random":
        assert len(kept) == min(keep, len(finished))
        assert set(indices(kept)) <= {n for n, _ in finished}
    else:
        assert indices(kept) == sorted(n for n, _ in by_rule[rule][:keep])


@pytest.mark.parametrize(("thoughts", "keep"), [(1, 1), (3, 1), (7, 1), (5, 2), (5, 3), (5, 4), (3, 4)])
def test_the_random_rule_keeps_every_selection_equally_often(thoughts: int, keep: int) -> None:
    trials, lengths = 1500, [(n, "closed") for n in range(thoughts)]
    kept = Counter(
        frozenset(indices(settled(MinSeek(keep=keep, rule="random"), lengths, seed))) for seed in range(trials)
    )
    selections = [frozenset(s) for s in combinations(range(1, thoughts + 1), min(keep, thoughts))]
    assert set(kept) <= set(selections)
    expected, free = trials / len(selections), len(selections) - 1
    statistic = sum((kept[s] - expected) ** 2 / expected for s in selections)
    # 99.9 % (Wilson-Hilferty); with one selection there is nothing to vary
    assert statistic <= (free * (1 - 2 / (9 * free) + 3.09 * math.sqrt(2 / (9 * free))) ** 3 if free else 0)
    for n in range(1, thoughts + 1):
        share, likely = sum(count for s, count in kept.items() if n in s) / trials, min(1, keep / thoughts)
        assert abs(share - likely) <= 3.9 * math.sqrt(likely * (1 - likely) / trials)


@given(THOUGHTS, st.integers(1, 4), st.sampled_from(RULES))
def test_the_same_chance_gives_the_same_thoughts(lengths: list[tuple[int, Any]], keep: int, rule: Any) -> None:
    strategy = MinSeek(keep=keep, rule=rule)
    assert settled(strategy, lengths, seed=5) == settled(strategy, lengths, seed=5)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("ending", CUT_OFF)
def test_a_thought_that_was_cut_off_goes_even_if_fewer_are_kept(rule: Any, ending: Any) -> None:
    new = Thought(1, tokens=[0], ended_by=ending)
    assert MinSeek(keep=4, rule=rule).decide([], new, random.Random(0)).dropped is new


def test_on_a_tie_the_earlier_thought_stays() -> None:
    old, new = (Thought(index, tokens=[1, 2], logprob=-1.0) for index in (1, 2))
    for rule in ("shortest", "longest", "most-likely"):
        assert MinSeek(rule=rule).decide([old], new, random.Random(0)).dropped is new


@pytest.mark.parametrize("command", ["reason", "serve"])
def test_the_commands_offer_every_rule(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--rule", "nonsense"])
    offered = re.search(r"choose from (.*)\)", capsys.readouterr().err)
    assert offered
    assert re.findall(r"[\w-]+", offered[1]) == RULES
    assert set(get_args(Thinking.model_fields["rule"].annotation)) == {Literal[tuple(RULES)], type(None)}  # type: ignore


def test_the_earlier_name_of_a_rule_is_accepted_and_normalized() -> None:
    assert MinSeek(rule="likeliest") == MinSeek(rule="most-likely")  # type: ignore[arg-type]
    assert MinSeek(rule="likeliest").rule == "most-likely"  # type: ignore[arg-type]
    assert Thinking(rule="likeliest").rule == "most-likely"  # type: ignore[arg-type]


@given(THOUGHTS)
def test_budget_forcing_never_drops(lengths: list[tuple[int, Any]]) -> None:
    assert indices(settled(BudgetForcing(), lengths)) == list(range(1, len(lengths) + 1))


def test_the_defaults_are_those_of_the_paper() -> None:
    assert (MinSeek().keep, MinSeek().rule, MinSeek().answer) == (1, "shortest", "direct")
    assert Limits().max_tokens == 32768
    assert Standard().thoughts == 0


@pytest.mark.parametrize("strategy", [MinSeek, BudgetForcing])
@pytest.mark.parametrize("thoughts", [None, 0, 1, 10**9])
def test_any_count_of_thoughts_is_valid(strategy: Any, thoughts: int | None) -> None:
    assert strategy(thoughts=thoughts).thoughts == thoughts


@pytest.mark.parametrize(
    ("strategy", "field", "value", "error"),
    [
        *((s, "thoughts", -1, InputError) for s in (MinSeek, BudgetForcing)),
        *((s, "thoughts", v, TypeError) for s in (MinSeek, BudgetForcing) for v in (1.5, 2.0, "3", True, [1])),
        *((MinSeek, "keep", v, InputError) for v in (0, -2)),
        *((MinSeek, "keep", v, TypeError) for v in (None, 1.0, "1", True)),
        *((MinSeek, "rule", v, InputError) for v in ("shorter", "Shortest", "", None, 1)),
        *((MinSeek, "answer", v, InputError) for v in ("later", "", None)),
    ],
)
def test_a_wrong_parameter_is_refused_and_named(strategy: Any, field: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=rf"{field}.*{re.escape(repr(value))}"):
        strategy(**{field: value})


COUNTS = ["max_tokens", "thinking_budget", "answer_tokens", "min_thought_tokens", "max_thought_tokens", "total_tokens"]
OPTIONAL = ["total_tokens", "thinking_budget", "kv_budget", "min_thought_tokens", "max_thought_tokens"]


@pytest.mark.parametrize("field", COUNTS)
def test_a_limit_in_tokens_is_an_integer_of_at_least_one_or_for_the_thinking_budget_none(field: str) -> None:
    least = 0 if field == "thinking_budget" else 1
    for value in (least, 2, 10**9):
        assert getattr(Limits(**{field: value}), field) == value
    for value in (least - 1, -2):
        with pytest.raises(InputError, match=rf"{field}.*{value}"):
            Limits(**{field: value})
    wrong: list[Any] = [1.5, 2.0, "3", True, False, [1]]
    for value in wrong if field in OPTIONAL else [*wrong, None]:
        with pytest.raises(TypeError, match=rf"{field}.*{re.escape(repr(value))}"):
            Limits(**{field: value})


@pytest.mark.parametrize("field", OPTIONAL)
def test_a_limit_that_is_none_does_not_bind(field: str) -> None:
    assert getattr(Limits(**{field: None}), field) is None


@pytest.mark.parametrize("value", [1, 16_000_000, "16MB", "1.5 GiB"])
def test_a_budget_in_bytes_is_an_integer_or_a_size(value: int | str) -> None:
    assert Limits(kv_budget=value).kv_budget == value


@pytest.mark.parametrize("value", [0, -1, "0MB", "sixteen", "16XB", ""])
def test_a_budget_that_is_no_size_is_an_input_error(value: int | str) -> None:
    with pytest.raises(InputError, match=r"size"):
        Limits(kv_budget=value)


@pytest.mark.parametrize("value", [1.5, True, b"16MB"])
def test_a_budget_of_a_wrong_type_is_a_type_error(value: Any) -> None:
    with pytest.raises(TypeError, match=repr(value)):
        Limits(kv_budget=value)


@pytest.mark.parametrize("value", ["no", 1, None])
def test_beyond_context_is_true_or_false(value: Any) -> None:
    with pytest.raises(TypeError, match=rf"beyond_context.*{re.escape(repr(value))}"):
        Limits(beyond_context=value)


@given(st.integers(1, 50), st.integers(1, 50))
def test_the_least_length_of_a_thought_is_not_above_the_greatest(least: int, most: int) -> None:
    if least <= most:
        assert Limits(min_thought_tokens=least, max_thought_tokens=most).min_thought_tokens == least
    else:
        with pytest.raises(InputError, match=f"not {least} and {most}$"):
            Limits(min_thought_tokens=least, max_thought_tokens=most)
