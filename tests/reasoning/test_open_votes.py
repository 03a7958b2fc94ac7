"""A vote over an open number of thoughts: the same at the command line, in the server and in batch files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import minseek
from minseek.batch import run_file
from minseek.protocol.efforts import EFFORTS
from minseek.protocol.requests import ChatRequest
from minseek.protocol.thinking import ThinkingDefaults, parse_thinking
from minseek.reasoning import FreshThoughts, Limits, MinSeek
from tests.helpers.serving import serving

pytestmark = pytest.mark.usefixtures("one_thread")
OPEN = {"vote": True, "thoughts": "unbounded"}


@given(
    total=st.integers(4, 300),
    answer=st.none() | st.integers(1, 40),
    thinking=st.none() | st.integers(1, 300),
    longest=st.integers(3, 40),
    seed=st.integers(0, 2**31),
    fresh=st.booleans(),
    stable=st.none() | st.integers(2, 4),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_thinking_and_all_answers_stay_within_the_total(
    tiny: minseek.Model,
    total: int,
    answer: int | None,
    thinking: int | None,
    longest: int,
    seed: int,
    fresh: bool,
    stable: int | None,
) -> None:
    limits = Limits.from_total(
        total, thinking_budget=thinking, answer_tokens=answer, answers=None, max_thought_tokens=longest
    )
    strategy = (FreshThoughts if fresh else MinSeek)(None, stop_when_stable=stable, **({} if fresh else {"vote": True}))
    result = minseek.reason(tiny, "Why?", strategy=strategy, limits=limits, sampling=minseek.Sampling(seed=seed))
    stats = result.stats
    assert stats.thinking_tokens + stats.answer_tokens + stats.interim_tokens <= total
    assert thinking is None or stats.thinking_tokens <= thinking
    assert stats.answer_tokens <= (answer or total)
    room = total - stats.tokens
    if stats.ended_by == "thinking-budget" and thinking is None:
        assert room <= 2 * limits.answer_tokens + len(tiny.encode(tiny.thinking.induce)) + 1  # no thought is given away


def test_a_request_votes_until_its_tokens_are_used(tiny: minseek.Model, tmp_path: Path) -> None:
    body = {"messages": [{"role": "user", "content": "Why?"}], "max_tokens": 200, "seed": 3, "temperature": 0.8}
    thinking = {**OPEN, "max_thought_tokens": 12, "answer_tokens": 8}
    limits = Limits.from_total(200, answer_tokens=8, answers=None, max_thought_tokens=12)
    sampling = minseek.Sampling(temperature=0.8, seed=3)
    wanted = minseek.reason(tiny, "Why?", strategy=MinSeek(None, vote=True), limits=limits, sampling=sampling)
    assert wanted.stats.thoughts > 4
    with serving(tiny) as server:
        reply = server.client().chat.completions.create(
            model=server.service.name, **body, extra_body={"thinking": thinking}
        )  # type: ignore[call-overload]
    assert len(reply.minseek["thoughts"]) == len(wanted.thoughts)
    assert reply.usage.completion_tokens == wanted.stats.tokens <= 200
    (tmp_path / "in.jsonl").write_text(json.dumps({"id": 1, **body, "thinking": thinking}) + "\n")
    run_file(tiny, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    record = json.loads((tmp_path / "out.jsonl").read_text())
    assert [thought["text"] for thought in record["thoughts"]] == [thought.text for thought in wanted.thoughts]


@pytest.mark.parametrize(
    "thinking", [OPEN, {"stop_when_stable": 2, "thoughts": "unbounded"}, {"strategy": "fresh", "thoughts": "unbounded"}]
)
def test_the_strategy_is_that_of_the_command_line(thinking: dict[str, object]) -> None:
    body = ChatRequest.model_validate({"messages": [{"role": "user", "content": "a"}], "thinking": thinking})
    strategy, limits = parse_thinking(body, ThinkingDefaults(EFFORTS["low"], 512, 32768))
    wanted = {"vote": MinSeek(None, vote=True), "stop_when_stable": MinSeek(None, stop_when_stable=2)}
    assert strategy == wanted.get(next(iter(thinking)), FreshThoughts(None))
    assert (limits.answers_in_total, limits.total_tokens, limits.answer_tokens) == (True, 32768, 1024)
