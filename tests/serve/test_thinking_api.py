"""Our extensions of the API: efforts, budgets and strategies, the field `minseek`, models and metrics."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

import minseek
from minseek import BudgetForcing, FreshThoughts, InputError, MinSeek, Standard
from minseek.protocol.chat_stream import CleanText
from minseek.protocol.efforts import EFFORTS, Effort
from minseek.protocol.requests import ChatRequest
from minseek.protocol.thinking import ThinkingDefaults, parse_thinking
from minseek.serve.app import create_app
from minseek.serve.server_settings import ServerSettings
from minseek.serve.slot_plan import plan_slots
from tests.helpers.serving import Running, serving
from tests.helpers.tiny_models import save

pytestmark = pytest.mark.usefixtures("one_thread")
CHAT = "/v1/chat/completions"
FORCED = "budget-forcing"
ENDINGS = {"closed", "max-thought-tokens", "loop", "thinking-budget", "context", "kv-budget"}


@pytest.fixture(scope="module")
def running(tiny: minseek.Model) -> Iterator[Running]:
    with serving(tiny) as server:
        yield server


@pytest.fixture
def http(running: Running) -> Iterator[httpx2.Client]:
    with running.http() as client:
        yield client


def body(text: str = "hello", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, **fields}


def ask(http: httpx2.Client, **fields: Any) -> dict[str, Any]:
    response = http.post(CHAT, json=body(**fields))
    assert response.status_code == 200, response.text
    return dict(response.json())


def chunks(http: httpx2.Client, **fields: Any) -> list[dict[str, Any]]:
    """The chunks of a stream, read by nothing but the rules of server-sent events."""
    response = http.post(CHAT, json=body(**fields, stream=True))
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


# Budgets


@pytest.mark.parametrize(
    "name", ["thinking_token_budget", "thinking_budget_tokens", "reasoning_budget_tokens", "thinking"]
)
@pytest.mark.parametrize("budget", [0, 1, 2, 7, 40])
def test_a_budget_is_never_exceeded_and_the_answer_still_comes(http: httpx2.Client, name: str, budget: int) -> None:
    field: dict[str, Any] = {name: {"budget_tokens": budget} if name == "thinking" else budget}
    if name != "thinking":
        field["thinking"] = {"thoughts": "unbounded"} if budget else None
    for text in ("hello", "how", "x y z"):
        got = ask(http, text=text, max_completion_tokens=100, **field)
        reasoning = got["usage"]["completion_tokens_details"]["reasoning_tokens"]
        assert reasoning <= budget
        assert reasoning == sum(t["tokens"] for t in got["minseek"]["thoughts"])
        assert got["usage"]["completion_tokens"] > reasoning, "no answer"
        assert got["usage"]["completion_tokens"] <= 100
        if budget and name != "thinking" and budget > 4:
            assert got["minseek"]["ended_by"] == "thinking-budget"


@pytest.mark.parametrize("total", [1, 2, 3, 5, 16, 61])
@pytest.mark.parametrize(
    "fields",
    [
        *({"reasoning_effort": "none"}, {"reasoning_effort": "low"}, {"reasoning_effort": "max"}),
        *({"thinking": {"thoughts": "unbounded"}}, {"thinking": {"budget_tokens": 1000, "answer_tokens": 4}}),
        {"thinking": {"strategy": "budget-forcing", "answer_tokens": 1000}},
    ],
)
def test_the_total_includes_thinking_and_is_never_exceeded(
    http: httpx2.Client, total: int, fields: dict[str, Any]
) -> None:
    for name in ("max_completion_tokens", "max_tokens"):
        got = ask(http, **{name: total}, **fields)
        usage = got["usage"]
        assert usage["completion_tokens"] <= total
        assert usage["completion_tokens"] > usage["completion_tokens_details"]["reasoning_tokens"]
        if usage["completion_tokens"] == total:
            assert got["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    "fields", [{"vote": True}, {"stop_when_stable": 2}, {"vote": True, "strategy": "budget-forcing"}]
)
def test_answers_that_are_only_compared_count_as_well(http: httpx2.Client, fields: dict[str, Any]) -> None:
    for total in (20, 60, 200):
        got = ask(http, thinking={"thoughts": 4, **fields}, max_completion_tokens=total)
        assert got["usage"]["completion_tokens"] <= total
        pieces = [
            chunk["choices"][0]["delta"].get("content", "")
            for chunk in chunks(http, thinking={"thoughts": 4, **fields}, max_completion_tokens=total)
        ]
        assert "".join(pieces) == got["choices"][0]["message"]["content"]
    few = http.post(CHAT, json=body(thinking={"thoughts": 40, **fields}, max_completion_tokens=20))
    assert (few.status_code, few.json()["error"]["param"]) == (400, "thinking")
    endless = ask(http, thinking={"thoughts": "unbounded", **fields}, max_completion_tokens=60)
    assert endless["usage"]["completion_tokens"] <= 60


@pytest.mark.parametrize(
    ("fields", "strategy", "budget"),
    [
        ({}, Standard(), 3000),
        ({"reasoning_effort": "none"}, Standard(), 0),
        ({"thinking": {"type": "disabled"}}, Standard(), 0),
        ({"thinking_token_budget": 0}, Standard(), 0),
        ({"reasoning_effort": "minimal"}, Standard(), 64),
        ({"reasoning_effort": "minimal", "thinking_token_budget": 9}, Standard(), 9),
        ({"reasoning_effort": "low"}, Standard(), 3000),
        ({"reasoning_effort": "medium"}, MinSeek(2), 3000),
        ({"reasoning_effort": "high", "reasoning_budget_tokens": 70}, MinSeek(6), 70),
        ({"reasoning_effort": "xhigh"}, MinSeek(20), 3000),
        ({"reasoning_effort": "max"}, MinSeek(100), 3000),
        ({"thinking": {"thoughts": "unbounded", "keep": 2, "rule": "latest"}}, MinSeek(None, 2, "latest"), 3000),
        ({"thinking": {"strategy": "budget-forcing", "thoughts": 3}}, BudgetForcing(3), 3000),
        ({"thinking": {"budget_tokens": 50}}, Standard(), 50),
        ({"thinking": {"vote": False}}, Standard(), 3000),
        ({"thinking": {"vote": False}, "reasoning_effort": "high"}, MinSeek(6), 3000),
        ({"thinking": {"vote": False, "type": "disabled"}}, Standard(), 0),
        ({"thinking": {"vote": False, "strategy": "min-seek", "thoughts": 3}}, MinSeek(3), 3000),
        ({"reasoning_effort": "high", "thinking_token_budget": 0}, Standard(), 0),
        ({"reasoning_effort": "none", "thinking": {"type": "disabled", "budget_tokens": 0}}, Standard(), 0),
        ({"thinking": {"type": "enabled"}, "reasoning_effort": "high"}, MinSeek(6), 3000),
    ],
)
def test_strategy_and_budget_of_the_fields(fields: dict[str, Any], strategy: Any, budget: int) -> None:
    defaults = ThinkingDefaults(EFFORTS["low"], slot_tokens=512, max_tokens=4000)
    got, limits = parse_thinking(ChatRequest(**body(), **fields), defaults)
    assert (got, limits.max_thinking_tokens) == (strategy, budget)
    assert limits.max_answer_tokens(budget) == 4000 - budget


@pytest.mark.parametrize(
    ("effort", "total", "strategy"),
    [
        ("low", 4000, Standard()),
        ("medium", 4000, FreshThoughts(2)),
        ("max", 4000, FreshThoughts(100)),
        ("max", 60, FreshThoughts(29)),  # answers after all thoughts fit
        ("high", 1, FreshThoughts(0)),
    ],
)
def test_efforts_induce_thoughts_as_the_models_evidence_recommends(effort: Any, total: int, strategy: Any) -> None:
    defaults = ThinkingDefaults(EFFORTS["low"], slot_tokens=512, max_tokens=total, strategy=FreshThoughts(10))
    got, limits = parse_thinking(ChatRequest(**body(), reasoning_effort=effort), defaults)
    assert got == strategy
    answers = 1 + (strategy.thoughts if strategy != Standard() else 0)
    assert (limits.thinking_budget or 0) + answers * limits.max_answer_tokens(total) <= total
    assert limits.max_answer_tokens(limits.max_thinking_tokens or 0) >= 1


@pytest.mark.parametrize(
    ("options", "strategy"),
    [
        ({"thoughts": 3}, FreshThoughts(3)),
        ({"stop_when_stable": 2}, FreshThoughts(10, stop_when_stable=2)),
        ({"thoughts": 3, "rule": "latest"}, MinSeek(3, rule="latest")),  # an option that only Min-Seek has
        ({"strategy": "min-seek"}, MinSeek()),
    ],
)
def test_options_without_a_name_change_the_models_default(options: dict[str, Any], strategy: Any) -> None:
    defaults = ThinkingDefaults(EFFORTS["low"], slot_tokens=512, max_tokens=4000, strategy=FreshThoughts(10))
    assert parse_thinking(ChatRequest(**body(), thinking=options), defaults)[0] == strategy


@pytest.mark.parametrize(
    ("fields", "strategy", "budget"),
    [
        ({}, Standard(), 0),
        ({"thinking": {"vote": False}}, Standard(), 0),
        ({"thinking": {"type": "enabled"}}, Standard(), 3000),
        ({"thinking": {"type": "enabled", "budget_tokens": 50}}, Standard(), 50),
        ({"thinking": {"type": "enabled", "thoughts": 3}}, MinSeek(3), 3000),
    ],
)
def test_fields_that_turn_thinking_on_by_themselves(fields: dict[str, Any], strategy: Any, budget: int) -> None:
    defaults = ThinkingDefaults(EFFORTS["none"], slot_tokens=512, max_tokens=4000)
    got, limits = parse_thinking(ChatRequest(**body(), **fields), defaults)
    assert (got, limits.max_thinking_tokens) == (strategy, budget)


def test_enabled_keeps_the_servers_own_strategy() -> None:
    defaults = ThinkingDefaults(Effort(MinSeek(4)), slot_tokens=512, max_tokens=4000)
    assert parse_thinking(ChatRequest(**body(), thinking={"type": "enabled"}), defaults)[0] == MinSeek(4)


def test_the_servers_bound_holds_without_a_requests(tiny: minseek.Model) -> None:
    settings = ServerSettings(max_completion_tokens=24, strategy=MinSeek(None))
    with serving(tiny, settings) as running, running.http() as http:
        for fields in ({}, {"max_completion_tokens": 10_000}):
            got = ask(http, **fields)
            assert got["usage"]["completion_tokens"] <= 24
            assert len(got["minseek"]["thoughts"]) > 1
        text = http.post("/v1/completions", json={"prompt": "a", "max_tokens": 400, "temperature": 0}).json()
        assert text["usage"]["completion_tokens"] <= 24


# The extension


def test_the_extension_of_an_answer(http: httpx2.Client, tiny: minseek.Model) -> None:
    got = ask(http, thinking={"thoughts": 4, "max_thought_tokens": 12}, max_completion_tokens=120, n=2)
    assert got["minseek"] == got["choices"][0]["minseek"]
    for choice in got["choices"]:
        own = choice["minseek"]
        assert set(own) == {
            *("thoughts", "kv_tokens_peak", "kv_bytes_peak", "kv_bytes_allocated", "ended_by"),
            *("answer_ended_by", "seconds", "tokens_per_second", "note"),
        }
        assert (own["note"] is None) == (choice["message"]["content"] != "")
        assert own["kv_bytes_peak"] == own["kv_tokens_peak"] * tiny.token_bytes() < own["kv_bytes_allocated"]
        assert [t["index"] for t in own["thoughts"]] == list(range(5))
        assert sum(t["kept"] for t in own["thoughts"]) == 2  # the first and the shortest
        for thought in own["thoughts"]:
            assert set(thought) == {"index", "tokens", "kept", "ended_by", "text"}
            assert thought["ended_by"] in ENDINGS
            assert thought["text"].strip() in choice["message"]["reasoning_content"]


def test_a_stream_reports_thoughts_and_cache(http: httpx2.Client, tiny: minseek.Model) -> None:
    fields: dict[str, Any] = {"thinking": {"thoughts": 5, "max_thought_tokens": 20}, "max_completion_tokens": 200}
    whole = ask(http, **fields)
    chunk_list = chunks(http, **fields)
    notes = [chunk["minseek"] for chunk in chunk_list]
    kinds = [note["type"] for note in notes]
    assert kinds[0] == "thought_started"
    assert kinds[-1] == "finished"
    assert set(kinds) == {"thought_started", "thought", "thought_ended", "answer", "finished"}
    kept, running_index = set[int](), -1
    for chunk, note in zip(chunk_list, notes, strict=True):
        delta = chunk["choices"][0]["delta"]
        assert ("reasoning_content" in delta) == (note["type"] == "thought")
        if note["type"] == "thought_started":
            running_index += 1
            assert note == {"type": "thought_started", "index": running_index, "word": "Wait" if running_index else ""}
        elif note["type"] == "thought":
            assert note["index"] == running_index
            assert 0 < note["tokens"] <= 20
        elif note["type"] == "thought_ended":
            assert note["index"] == running_index
            assert note["tokens"] == whole["minseek"]["thoughts"][running_index]["tokens"]
            if note["kept"]:
                kept.add(running_index)
            if note["dropped"] is not None:
                kept.remove(note["dropped"])
        if "kv_tokens" in note:
            assert note["kv_bytes"] == note["kv_tokens"] * tiny.token_bytes()
            assert note["kv_tokens"] <= whole["minseek"]["kv_tokens_peak"]
    assert kept == {t["index"] for t in whole["minseek"]["thoughts"] if t["kept"]}
    last = {key: value for key, value in notes[-1].items() if key not in ("type", "seconds", "tokens_per_second")}
    assert last == {key: whole["minseek"][key] for key in last}


def test_no_tag_ever_becomes_content(http: httpx2.Client) -> None:
    for text in ("a", "b", "c", "d", "e", "f"):
        for fields in ({"reasoning_effort": "none"}, {"reasoning_effort": "high"}):
            got = ask(http, text=text, max_completion_tokens=150, **fields)
            assert "think>" not in got["choices"][0]["message"]["content"]


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
def test_clean_text_is_the_same_however_it_comes(parts: int) -> None:
    cases = {
        " \n a<t>b </t> c \n": "ab  c",
        "<t></t>": "",
        "a<t": "a<t",
        "a < t> <": "a < t> <",
        "  x\n\n<t>\n": "x",
        "<</t>t>a": "<ta",
        "<t><t": "<t",
        "<</t></t>t></t>": "<t",
        "\n": "",
    }
    for text, wanted in cases.items():
        clean = CleanText(("<t>", "</t>", ""))
        given = [clean.push(text[at : at + parts]) for at in range(0, len(text), parts)]
        given.append(clean.push("", last=True))
        assert "".join(given) == wanted


# Models without tags, and templates that leave the tag to the model


@pytest.mark.slow
@pytest.mark.parametrize("template", ["plain", "leaves", "ignores"])
def test_other_templates(tmp_path: Path, template: str) -> None:
    folder = save(tmp_path / "model", "llama", template, tags=template != "plain")
    model = minseek.load(str(folder), device="cpu", dtype="float32")
    plain = template in ("plain", "ignores")
    with serving(model) as running, running.http() as http:
        default = http.get("/v1/models").json()["data"][0]["minseek"]["default"]
        assert default["thinking_budget"] == (0 if plain else None)
        got = ask(http, max_completion_tokens=40, reasoning_effort="none")
        assert got["choices"][0]["message"]["reasoning_content"] is None
        assert got["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0
        own = ask(http, max_completion_tokens=40)
        if plain:  # plain generation, which is what the model does by itself
            assert own["choices"][0]["message"] == got["choices"][0]["message"]
            prompt = "u:hello<|end|>\na:" if template == "ignores" else "u:hello\na:"
            fields = {"prompt": prompt, "max_tokens": 40, "temperature": 0}
            text = http.post("/v1/completions", json=fields).json()["choices"][0]["text"]
            assert text.strip() == got["choices"][0]["message"]["content"]
        for fields in ({"reasoning_effort": "medium"}, {"thinking_token_budget": 12}):
            thinks = ask(http, max_completion_tokens=80, **fields)
            if plain or "reasoning_effort" in fields:
                assert thinks["minseek"]["thoughts"]
            assert thinks["usage"]["completion_tokens"] > 0


# Models, metrics, description


def test_the_entry_of_the_model(running: Running, http: httpx2.Client, tiny: minseek.Model) -> None:
    (entry,) = http.get("/v1/models").json()["data"]
    assert entry["id"] == Path(tiny.name).name
    assert entry == http.get(f"/v1/models/{entry['id']}").json()
    own = entry["minseek"]
    assert own["slots"] == 4
    assert own["slot_tokens"] * own["token_bytes"] * own["slots"] == own["kv_budget"]
    assert own["default"] == {"strategy": "standard", "thoughts": 0, "thinking_budget": None}
    assert own["efforts"]["high"] == {"strategy": "min-seek", "thoughts": 6, "thinking_budget": None}
    assert list(own["efforts"]) == ["none", "minimal", "low", "medium", "high", "xhigh", "max"]
    assert str(Path(tiny.name).parent) not in json.dumps(entry), "the entry must not reveal the model's directory"
    for name in (entry["id"], tiny.name):
        assert http.post(CHAT, json=body(model=name, max_completion_tokens=4)).status_code == 200


def test_metrics_count_tokens_thoughts_and_requests(tiny: minseek.Model) -> None:
    with serving(tiny, slots=2) as running, running.http() as http:
        got = ask(http, thinking={"thoughts": 3, "max_thought_tokens": 20}, max_completion_tokens=150)
        http.post(CHAT, json=body(temperature=9))
        http.get("/nothing/at/all")
        text = http.get("/metrics").text
        usage = got["usage"]
        wanted = {
            "minseek_prompt_tokens_total": usage["prompt_tokens"],
            "minseek_reasoning_tokens_total": usage["completion_tokens_details"]["reasoning_tokens"],
            'minseek_thoughts_total{fate="kept"}': 2,
            'minseek_thoughts_total{fate="dropped"}': 2,
            f'minseek_requests_total{{route="{CHAT}",status="200"}}': 1,
            f'minseek_requests_total{{route="{CHAT}",status="400"}}': 1,
            'minseek_requests_total{route="other",status="404"}': 1,
            "minseek_slots": 2,
            "minseek_slots_used": 0,
            "minseek_queue_length": 0,
            "minseek_cache_allocated_bytes": running.service.plan.kv_bytes,
            "minseek_cache_bytes": 0,
            f'minseek_first_token_seconds_count{{route="{CHAT}"}}': 1,
            f'minseek_request_seconds_count{{route="{CHAT}"}}': 1,
        }
        values = {name: float(value) for name, _, value in (line.rpartition(" ") for line in text.splitlines())
                  if not name.startswith("#")}  # fmt: skip
        assert {name: values.get(name) for name in wanted} == wanted
        assert values["minseek_generated_tokens_total"] >= usage["completion_tokens"]
        assert 0 < values["minseek_cache_peak_bytes"] <= got["minseek"]["kv_bytes_peak"]
        assert values["process_resident_memory_bytes"] > 1e7


def test_the_description_names_every_status(http: httpx2.Client) -> None:
    description = http.get("/openapi.json").json()
    for path in (CHAT, "/v1/completions"):
        responses = description["paths"][path]["post"]["responses"]
        assert {"200", "400", "404", "413", "429", "500", "503"} <= set(responses)
        assert "422" not in responses
        assert set(responses["200"]["content"]) == {"application/json", "text/event-stream"}
    assert description["components"]["schemas"]["ChatRequest"]["additionalProperties"] is False


# Memory


def test_a_budget_becomes_slots(tiny: minseek.Model) -> None:
    one = tiny.token_bytes()
    whole = plan_slots(tiny)
    assert (whole.slots, whole.slot.capacity) == (4, 512)
    four = plan_slots(tiny, kv_budget=4 * 200 * one)
    assert (four.slots, four.slot.capacity, four.kv_bytes) == (4, 200, 4 * 200 * one)
    assert plan_slots(tiny, kv_budget=100 * 512 * one).slots == 64
    assert plan_slots(tiny, kv_budget=100 * 512 * one, slots=100).slots == 100
    assert plan_slots(tiny, kv_budget=1000 * one, slot_tokens=300).slots == 3
    small = plan_slots(tiny, kv_budget=130 * one)
    assert (small.slots, small.slot.capacity) == (2, 64)
    for options, message in (
        ({"kv_budget": 63 * one}, "a slot needs 64 tokens"),
        ({"kv_budget": 100 * one, "slot_tokens": 101}, "does not hold one slot"),
        ({"kv_budget": 1000 * one, "slot_tokens": 300, "slots": 4}, "only 3 fit"),
        ({"slot_tokens": 513}, "at most the model's context of 512"),
        ({"slot_tokens": 0}, "slot_tokens must be 64 or more"),
        ({"slots": 0}, "must be 1 or more"),
    ):
        with pytest.raises(InputError, match=message):
            plan_slots(tiny, **options)


@pytest.mark.parametrize("wrong", [{"queue": -1}, {"max_completion_tokens": 0}, {"max_body_bytes": 0}, {"api_key": ""}])
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        ServerSettings(**wrong)


def test_a_default_strategy_that_fits_no_chat_is_refused(tiny: minseek.Model) -> None:
    plan = plan_slots(tiny, slots=1, slot_tokens=64)
    with pytest.raises(InputError, match=r"needs at least \d+ tokens, and a slot holds 64"):
        create_app(tiny, plan, ServerSettings(strategy=BudgetForcing(64)))
    with (
        serving(tiny, ServerSettings(strategy=BudgetForcing(8)), slots=1, slot_tokens=64) as running,
        running.http() as http,
    ):
        assert ask(http, text="a", max_completion_tokens=20)["usage"]["completion_tokens"] > 0


def test_a_plan_that_evicts_is_refused(tiny: minseek.Model) -> None:
    with pytest.raises(InputError, match="policy=None"):
        create_app(tiny, minseek.plan(tiny, cap=64, block=16, policy="snapkv", sequences=2))
