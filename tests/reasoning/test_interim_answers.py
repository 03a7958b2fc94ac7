"""Interim answers: one run gives the answers of all shorter ones; runs that stop when they agree, and votes."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minseek
from minseek import BudgetForcing, InputError, InterimAnswer, MinSeek, Standard, Strategy, Thought
from minseek.engine import Engine
from minseek.reasoning.answer_extraction import final_answer
from minseek.reasoning.options import RunOptions
from minseek.reasoning.run import Run
from minseek.reasoning.strategies import KeepRule
from minseek.reasoning.strategy import Decision
from minseek.reasoning.thinking_job import ThinkingJob
from tests.helpers.generation import make_plan
from tests.helpers.scripted import Scripted
from tests.helpers.tiny_models import save

MOST = 6
LIMITS = minseek.Limits(answer_tokens=20, max_thought_tokens=40)
STRATEGIES = [
    *(MinSeek(MOST, rule=rule) for rule in get_args(KeepRule)),
    *(MinSeek(MOST, keep=2), MinSeek(MOST, keep=3, rule="random"), MinSeek(MOST, answer="final-thought")),
    BudgetForcing(MOST),
]
NAMES = [str(strategy) for strategy in STRATEGIES]


def sampling(temperature: float, seed: int = 3) -> minseek.Sampling:
    return minseek.Sampling(temperature=temperature, top_p=1.0, seed=seed)


def followed(model: minseek.Model, strategy: Any, **options: Any) -> tuple[list[InterimAnswer], minseek.Result]:
    """The interim answers of a run, and its result."""
    wanted: dict[str, Any] = {"question": "hello", "sampling": sampling(0.8), "limits": LIMITS} | options
    events = list(minseek.stream(model, strategy=strategy, **wanted))
    assert isinstance(events[-1], minseek.Finished)
    return [event for event in events if isinstance(event, InterimAnswer)], events[-1].result


def same(ours: minseek.Result, theirs: minseek.Result) -> None:
    """Assert equal thoughts and answers."""
    assert (ours.tokens, ours.answer) == (theirs.tokens, theirs.answer)
    assert [(t.tokens, t.text, t.kept, t.ended_by) for t in ours.thoughts] == [
        (t.tokens, t.text, t.kept, t.ended_by) for t in theirs.thoughts
    ]


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=NAMES)
def test_one_run_gives_the_answers_of_all_shorter_ones(tiny: minseek.Model, strategy: Any, temperature: float) -> None:
    options: dict[str, Any] = {"question": "Why?", "sampling": sampling(temperature)}
    interim, whole = followed(tiny, strategy, answer_after="every", **options)
    assert [event.index for event in interim] == list(range(MOST + 1))
    for event in interim:
        own = minseek.reason(tiny, strategy=replace(strategy, thoughts=event.index), limits=LIMITS, **options)
        assert (event.answer, event.ended_by) == (own.answer, own.stats.answer_ended_by)
        assert event.tokens == own.tokens[len(own.tokens) - own.stats.answer_tokens :]
        assert (event.kv_tokens_peak, event.thinking_tokens) == (own.stats.kv_tokens_peak, own.stats.thinking_tokens)
        assert event.kv_bytes_peak == event.kv_tokens_peak * tiny.token_bytes()
    silent = minseek.reason(tiny, strategy=strategy, limits=LIMITS, **options)
    same(whole, silent)
    figures = {
        "kv_tokens": 0,
        "kv_tokens_peak": 0,
        "kv_bytes": 0,
        "kv_bytes_peak": 0,
        "kv_bytes_allocated": 0,
        "interim_tokens": 0,
    }
    timeless = {"seconds": 0.0, "prefill_seconds": 0.0} | figures
    assert replace(whole.stats, **timeless) == replace(silent.stats, **timeless)
    assert silent.stats.interim_tokens == 0
    assert whole.stats.kv_tokens_peak == max(event.kv_tokens_peak for event in interim)


@pytest.mark.parametrize("keys", ["re-rotated", "unrotated"])
@pytest.mark.parametrize("template", ["opens", "leaves", "plain"])
def test_also_of_other_templates_and_key_storages(template: str, keys: Any, tmp_path: Path) -> None:
    model = minseek.load(str(save(tmp_path, "qwen3", template)), device="cpu", dtype="float32")
    interim, whole = followed(model, MinSeek(4), answer_after=[1, 3, 4], key_storage=keys)
    assert [event.index for event in interim] == [1, 3, 4]
    for event in interim:
        own = minseek.reason(
            model, "hello", strategy=MinSeek(event.index), sampling=sampling(0.8), limits=LIMITS, key_storage=keys
        )
        assert (event.answer, event.kv_tokens_peak) == (own.answer, own.stats.kv_tokens_peak)
    assert interim[-1].answer == whole.answer


@given(st.sets(st.integers(0, 9)), st.integers(0, 1000))
@settings(deadline=None, max_examples=40)
def test_interim_answers_do_not_change_the_run(tiny: minseek.Model, answer_after: set[int], seed: int) -> None:
    rng = random.Random(seed)
    strategy = rng.choice([*STRATEGIES, Standard()])
    limits = minseek.Limits(
        answer_tokens=rng.randint(1, 12),
        max_thought_tokens=rng.choice([None, 15, 30]),
        max_tokens=rng.choice([40, 400]),
        thinking_budget=rng.choice([None, None, 3, 25, 60]),
        kv_budget=rng.choice([None, 70 * tiny.token_bytes(), 120 * tiny.token_bytes()]),
    )
    options: dict[str, Any] = {"limits": limits, "sampling": sampling(rng.choice([0.0, 1.0]), seed)}
    if limits.max_thought_tokens is None and limits.kv_budget is None:
        options["limits"] = replace(limits, max_thought_tokens=40)
    run = Run(tiny, "hello", RunOptions(strategy=strategy, answer_after=answer_after, **options))
    events = list(run.events())
    assert isinstance(events[-1], minseek.Finished)
    whole = events[-1].result
    silent = minseek.reason(tiny, "hello", strategy=strategy, **options)
    same(whole, silent)
    interim = [event for event in events if isinstance(event, InterimAnswer)]
    final = isinstance(strategy, MinSeek) and strategy.answer == "final-thought" and len(whole.thoughts) > 1
    *before, last = [event.index for event in interim]
    assert before == sorted(n for n in answer_after if n < last)
    assert last in (whole.stats.thoughts, whole.stats.thoughts - final)
    assert (interim[-1].answer, interim[-1].thinking_tokens) == (silent.answer, silent.stats.thinking_tokens)
    assert interim[-1].kv_tokens_peak == silent.stats.kv_tokens_peak
    assert run.plan.max_tokens_held is None or whole.stats.kv_tokens_peak <= run.plan.max_tokens_held
    assert whole.stats.ended_by == silent.stats.ended_by


def test_tokens_of_interim_answers_are_counted_apart(tiny: minseek.Model) -> None:
    for strategy in (MinSeek(4), MinSeek(4, answer="final-thought")):
        interim, whole = followed(tiny, strategy, answer_after="every")
        shorter = [
            minseek.reason(tiny, "hello", strategy=replace(strategy, thoughts=m), sampling=sampling(0.8), limits=LIMITS)
            for m in range(4)
        ]
        induced = [len(t.tokens) for t in whole.thoughts[:4]]
        alone = sum(r.stats.tokens for r in shorter) - sum(sum(induced[: m + 1]) for m in range(4))
        assert whole.stats.interim_tokens == alone
        assert whole.stats.tokens == whole.stats.thinking_tokens + whole.stats.answer_tokens + alone
        assert len(interim) == 5


def test_interim_answers_in_slots_are_those_of_the_run_alone(tiny: minseek.Model) -> None:
    plan = make_plan(tiny, None, cap=200, block=40)
    questions = ["hello", "Why?", "x", "Name a prime.", "2*3*5"]
    events_by_job: list[list[Any]] = [[] for _ in questions]
    jobs = [
        ThinkingJob(
            *(tiny, question),
            RunOptions(
                strategy=MinSeek(4, rule="random"), sampling=sampling(0.8, seed), limits=LIMITS, answer_after=[0, 2, 4]
            ),
            plan=plan,
            on_event=events_by_job[seed].append,
        )
        for seed, question in enumerate(questions)
    ]
    list(Engine(tiny, plan).run(jobs))
    slot_limits = replace(LIMITS, kv_budget=plan.slot.capacity * tiny.token_bytes())
    for seed, (question, events) in enumerate(zip(questions, events_by_job, strict=True)):
        options = {"question": question, "sampling": sampling(0.8, seed), "limits": slot_limits}
        alone, _ = followed(tiny, MinSeek(4, rule="random"), answer_after=[0, 2, 4], **options)
        assert [event for event in events if isinstance(event, InterimAnswer)] == alone
        assert len(alone) == 3


def test_stop_strings_end_interim_answers_too(tiny: minseek.Model) -> None:
    options: dict[str, Any] = {"answer_after": "every", "limits": LIMITS}
    interim, _ = followed(tiny, MinSeek(3), **options)
    letters = Counter("".join(event.answer for event in interim))
    stop = next(letter for letter, _ in letters.most_common() if letter not in "\ufffd ")
    stopped, result = followed(tiny, MinSeek(3), stop=[stop], **options)
    assert any(event.ended_by == "stop" for event in stopped)
    for event in stopped:
        own = minseek.reason(
            tiny, "hello", strategy=MinSeek(event.index), sampling=sampling(0.8), limits=LIMITS, stop=[stop]
        )
        assert (event.answer, event.ended_by) == (own.answer, own.stats.answer_ended_by)
    assert result.answer == stopped[-1].answer


@pytest.mark.parametrize("run", ["no thinking", "no tag"])
def test_without_thoughts_there_are_no_interim_answers(run: str, tmp_path: Path) -> None:
    model = minseek.load(str(save(tmp_path, "llama", "leaves")), device="cpu", dtype="float32")
    limits = replace(LIMITS, thinking_budget=0) if run == "no thinking" else LIMITS
    strategy = BudgetForcing(3, vote=True) if run == "no thinking" else Standard()
    interim, result = followed(model, strategy, answer_after="every", limits=limits, sampling=sampling(0.0))
    assert (interim, result.thoughts) == ([], [])
    assert result.stats.answer_tokens > 0


@pytest.mark.parametrize(
    ("wrong", "error"),
    [("all", InputError), (3, TypeError), ([-1], InputError), ([1.5], TypeError), ([True], TypeError)],
)
def test_wrong_numbers_of_thoughts_are_refused(tiny: minseek.Model, wrong: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="answer_after must"):
        minseek.stream(tiny, "hello", answer_after=wrong)


# Stops and votes


class Written(Scripted):
    """Scripted thoughts, with an answer after each that is written out by hand."""

    def run_all(self, strategy: Any) -> minseek.Result:
        texts: list[str] = []

        def pick(logits: Any, banned: Sequence[int] = ()) -> int:
            return self.tokens.pop(0)

        run = Run(
            self.model, "hello", RunOptions(strategy=strategy, sampling=minseek.Sampling(), limits=minseek.Limits())
        )
        run._sampler.pick = pick  # type: ignore[method-assign]
        run._sampler.fork = lambda: run._sampler  # type: ignore[method-assign]
        events = list(run.events())
        assert not self.tokens
        assert isinstance(events[-1], minseek.Finished)
        result = events[-1].result
        texts = [event.text for event in events if isinstance(event, minseek.AnswerToken)]
        assert "".join(texts).strip() == result.answer
        answer = [event.token for event in events if isinstance(event, minseek.AnswerToken) and event.token is not None]
        assert result.tokens[-1 - len(answer) :] == [258, *answer]
        assert len(answer) == result.stats.answer_tokens
        self.interim = [event for event in events if isinstance(event, InterimAnswer)]
        return result


def written(model: minseek.Model, answers: list[str], strategy: Any) -> tuple[minseek.Result, list[InterimAnswer]]:
    """A run whose thoughts are all the same, and whose answers are given."""
    script = Written(model, [part for answer in answers for part in ("a</think>", answer + "<|end|>")])
    result = script.run_all(strategy)
    assert [event.answer for event in script.interim] == [answer.strip() for answer in answers]
    words = sum(len(answer) for answer in answers)
    assert result.stats.answer_tokens + result.stats.interim_tokens == words
    return result, script.interim


@pytest.mark.parametrize("kind", [MinSeek, BudgetForcing])
@pytest.mark.parametrize(
    ("window", "answers", "thoughts"),
    [
        (2, ["1", "2", "2"], 2),
        (2, ["1", "1"], 1),
        (3, ["1", "1", "2", "2", "\\boxed{ 2 } it is"], 4),
        (2, ["", "", "3", "", "3", "so 3", "it is \\boxed{3}", "Final answer: 3"], 7),
        (2, ["1", "2", "1", "2"], 3),
        (2, ["1", "2", "1", "1"], 3),
    ],
)
def test_thinking_stops_when_answers_agree(
    tiny: minseek.Model, kind: Any, window: int, answers: list[str], thoughts: int
) -> None:
    unstable = answers == ["1", "2", "1", "2"]
    most = 3 if unstable else 20
    result, _ = written(tiny, answers, kind(most, stop_when_stable=window))
    assert (result.stats.thoughts, result.answer) == (thoughts, answers[-1])
    assert result.stats.ended_by == ("thoughts" if unstable else "stable")


@pytest.mark.parametrize("kind", [MinSeek, BudgetForcing])
@pytest.mark.parametrize(
    ("answers", "wanted"),
    [
        (["1", "2", "2", "1"], "1"),  # the earliest on a tie
        (["1", "so \\boxed{2}", "Final answer: 2", "3"], "so \\boxed{2}"),  # the whole text of the first that says so
        (["", "", "4"], "4"),
        (["", " "], ""),
        (["5"], "5"),
        (["a  b", "a b", "c", "c", "a\nb"], "a  b"),
    ],
)
def test_answers_vote(tiny: minseek.Model, kind: Any, answers: list[str], wanted: str) -> None:
    result, _ = written(tiny, answers, kind(len(answers) - 1, vote=True))
    assert result.answer == wanted
    assert (result.stats.thoughts, result.stats.ended_by) == (len(answers) - 1, "thoughts")


def test_a_vote_may_stop_when_it_is_stable(tiny: minseek.Model) -> None:
    result, _ = written(tiny, ["1", "2", "1", "1"], MinSeek(9, stop_when_stable=2, vote=True))
    assert (result.answer, result.stats.ended_by) == ("1", "stable")
    result, _ = written(tiny, ["1", "1", "3", "1", "2", "2"][2:], MinSeek(9, stop_when_stable=2, vote=True))
    assert (result.answer, result.stats.ended_by) == ("2", "stable")


@pytest.mark.parametrize("answer", ["direct", "final-thought"])
def test_a_vote_is_among_the_answers_of_shorter_runs(tiny: minseek.Model, answer: Any) -> None:
    strategy = MinSeek(MOST, answer=answer)
    interim, _ = followed(tiny, strategy, answer_after="every", sampling=sampling(0.8))
    voted, result = followed(tiny, replace(strategy, vote=True), sampling=sampling(0.8))
    assert [event.answer for event in voted] == [event.answer for event in interim]
    extracted = [final_answer(event.answer) for event in voted]
    assert extracted.count(final_answer(result.answer)) == max(Counter(extracted).values())
    assert result.stats.thinking_tokens == sum(len(t.tokens) for t in result.thoughts)


def test_a_run_that_stops_is_the_run_of_so_many_thoughts(tiny: minseek.Model) -> None:
    """With answers of one token there are few different ones, and two in a row soon agree."""
    limits = replace(LIMITS, answer_tokens=1)
    stopped = 0
    for seed in range(6):
        options: dict[str, Any] = {"sampling": sampling(0.3, seed), "limits": limits}
        _, result = followed(tiny, MinSeek(12, stop_when_stable=2), **options)
        own = minseek.reason(tiny, "hello", strategy=MinSeek(result.stats.thoughts), **options)
        same(result, own)
        stopped += result.stats.ended_by == "stable"
    assert stopped > 1


def test_a_strategy_of_ones_own_needs_neither(tiny: minseek.Model) -> None:
    @dataclass(frozen=True)
    class Own(Strategy):
        thoughts: int | None = 2

        def decide(self, kept: Sequence[Thought], new: Thought, rng: random.Random) -> Decision:
            return Decision(None, "all are kept")

    interim, _ = followed(tiny, Own(), answer_after=[1])
    assert [event.index for event in interim] == [1, 2]
    interim, _ = followed(tiny, Own(1, vote=True))
    assert [event.index for event in interim] == [0, 1]


@pytest.mark.parametrize("wrong", [MinSeek, "min-seek", 3])
def test_an_object_that_is_no_strategy_is_refused(tiny: minseek.Model, wrong: Any) -> None:
    with pytest.raises(TypeError, match="a strategy is MinSeek"):
        minseek.stream(tiny, "hello", strategy=wrong)


@pytest.mark.parametrize("kind", [MinSeek, BudgetForcing])
@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("stop_when_stable", 1, InputError),
        ("stop_when_stable", 0, InputError),
        ("stop_when_stable", 2.0, TypeError),
        ("stop_when_stable", True, TypeError),
        ("vote", 1, TypeError),
        ("vote", None, TypeError),
    ],
)
def test_wrong_options_are_refused(kind: Any, field: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"{field}.*{value}"):
        kind(**{field: value})


# Extraction of the final answer


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("\\boxed{42}", "42"),
        ("so \\boxed{1} or rather \\boxed{ 2\n 3 } then", "2 3"),
        ("\\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed{7} and \\boxed{8", "7"),
        ("\\boxed{8", "\\boxed{8"),
        ("\\boxed{}", ""),
        ("thus\n\nFinal answer:  5 \n", "5"),
        ("Final answer: 5? Final answer: 6", "6"),
        ("Final answer:", "Final answer:"),
        ("Final answer: \\boxed{9}", "9"),
        ("  it is\t4 ", "it is 4"),
        ("", ""),
        ("\\boxed{\\", "\\boxed{\\"),
    ],
)
def test_final_answer_of_a_text(text: str, wanted: str) -> None:
    assert final_answer(text) == wanted


@pytest.mark.slow
@given(st.recursive(st.text("ab 1+", max_size=4), lambda inner: st.lists(inner).map(lambda s: "{" + "".join(s) + "}")))
def test_balanced_braces_are_taken_whole(inside: str) -> None:
    assert final_answer(f"x \\boxed{{0}} so \\boxed{{{inside}}} }} {{") == " ".join(inside.split())
