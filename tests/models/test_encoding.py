"""Texts as tokens: what tokenizers put around a text, and texts that continue others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

import minseek
from minseek.batch import run_file
from minseek.models.chat.encoding import encode, encode_continuation, encode_prompt
from minseek.models.loading.load import load
from minseek.serve.server_settings import ServerSettings
from minseek.tune.examples import read_examples
from tests.helpers.serving import serving
from tests.helpers.tiny_models import make_tokenizer
from tests.helpers.tokenizers import save_sentencepiece_model, sentencepiece_like

pytestmark = pytest.mark.usefixtures("one_thread")

SPACED, BYTES = sentencepiece_like(), make_tokenizer()
TEXTS = st.text(st.sampled_from("ahitWe 2=-.\né😀"), max_size=12)
BOS, EOS = 1, 2


@given(TEXTS.filter(bool), st.booleans())
@example("a</s>", True)
@example("<s>a", True)
@settings(deadline=None, max_examples=50)
def test_a_prompt_has_the_tokenizers_beginning_and_not_its_end(text: str, adds_eos: bool) -> None:
    tokenizer = SPACED if adds_eos else sentencepiece_like(eos=False)
    whole = tokenizer(text)["input_ids"]
    assert encode_prompt(tokenizer, text) == (whole[:-1] if adds_eos else whole)
    assert encode_prompt(tokenizer, text)[0] == BOS
    assert encode_prompt(tokenizer, text, add_special_tokens=False) == whole[1 : len(whole) - adds_eos]
    assert encode_prompt(BYTES, text) == BYTES.encode(text, add_special_tokens=False)


def test_an_empty_prompt_has_no_tokens() -> None:
    assert encode_prompt(SPACED, "") == []


@given(TEXTS, TEXTS)
@example("2-2=", "0")
@example("2-", "2=")  # "2=" is one token, which spans the two texts of "2" and "="
@example("2-2", "=0")
@example("is 4.", "Wait")
@example("", "Wait")
@settings(deadline=None, max_examples=60)
def test_a_continuation_is_the_text_and_nothing_else(before: str, text: str) -> None:
    for tokenizer in (SPACED, BYTES):
        prompt, rest = encode(tokenizer, before or "a"), encode_continuation(tokenizer, text, before)
        assert tokenizer.decode(prompt + rest, clean_up_tokenization_spaces=False) == (before or "a") + text
        joined = encode(tokenizer, before + text)
        if before and joined[: len(prompt)] == prompt:
            assert prompt + rest == joined


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sentencepiece_model(tmp_path_factory.mktemp("sentencepiece"))


@pytest.fixture(scope="module")
def model(folder: Path) -> minseek.Model:
    return load(str(folder), device="cpu", dtype="float32")


def greedy(folder: Path, model: minseek.Model, prompt: str, count: int) -> list[int]:
    """Greedy tokens of transformers after a prompt, without the EOS token that its tokenizer puts at the end."""
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = model.tokenizer(prompt, return_tensors="pt")["input_ids"][:, :-1]
    generated = reference.generate(ids, max_new_tokens=count, min_new_tokens=count, do_sample=False)
    return list(generated[0, ids.shape[1] :].tolist())


PROMPTS = ["it", "2-2=", "We 😀"]


def test_raw_prompts_begin_as_in_transformers(folder: Path, model: minseek.Model, tmp_path: Path) -> None:
    wanted = [greedy(folder, model, prompt, 6) for prompt in PROMPTS]
    lengths = [len(model.tokenizer(prompt)["input_ids"]) - 1 for prompt in PROMPTS]
    given = minseek.generate(model, PROMPTS, max_new_tokens=6, ignore_eos=True)
    assert [out.tokens for out in given] == wanted
    assert [out.stats.prompt_tokens for out in given] == lengths
    without = minseek.generate(model, PROMPTS, max_new_tokens=6, ignore_eos=True, add_special_tokens=False)
    assert [out.stats.prompt_tokens for out in without] == [length - 1 for length in lengths]
    assert [out.tokens for out in without] != wanted
    plain = minseek.generate(model, PROMPTS, max_new_tokens=6)
    texts, usages = [out.text for out in plain], [out.stats.prompt_tokens for out in plain]

    lines = [{"id": f"{i} {add}", "prompt": prompt, "max_tokens": 6, "temperature": 0, "add_special_tokens": add}
             for add in (True, None, False) for i, prompt in enumerate(PROMPTS)]  # fmt: skip
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run_file(model, tmp_path / "in.jsonl", tmp_path / "out.jsonl", kv_budget="4MB")
    records = {r["id"]: r for r in map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())}
    for add in (True, None):
        assert [records[f"{i} {add}"]["text"] for i in range(3)] == texts
        assert [records[f"{i} {add}"]["usage"]["prompt_tokens"] for i in range(3)] == usages
    assert [records[f"{i} False"]["usage"]["prompt_tokens"] for i in range(3)] == [n - 1 for n in usages]

    with serving(model, ServerSettings(), slots=2, slot_tokens=128) as running, running.http() as http:
        for add, add_bos in ((True, 0), (None, 0), (False, 1)):
            body = {"prompt": PROMPTS, "max_tokens": 6, "temperature": 0, "add_special_tokens": add}
            response = http.post("/v1/completions", json=body).json()
            assert response["usage"]["prompt_tokens"] == sum(usages) - 3 * add_bos
            if not add_bos:
                assert [choice["text"] for choice in response["choices"]] == texts


def test_a_question_without_a_template_does_not_end_the_text(folder: Path, model: minseek.Model) -> None:
    events = minseek.stream(model, "2-2=", strategy=minseek.Standard(), sampling=minseek.Sampling(temperature=0))
    *_, last = events
    assert isinstance(last, minseek.Finished)
    assert last.result.stats.prompt_tokens == len(model.tokenizer("2-2=")["input_ids"]) - 1
    wanted = greedy(folder, model, "2-2=", 5)
    assert last.result.tokens[:5] == wanted[: len(last.result.tokens)]


def test_texts_put_between_tokens_have_no_space_of_their_own(model: minseek.Model) -> None:
    for text in ("Wait", "\n\nFinal answer:", "it"):
        head = model.encode("a.")
        assert model.decode(head + model.encode_continuation(text)) == "a." + text


def test_a_completion_is_learned_right_after_its_prompt(tmp_path: Path) -> None:
    file = tmp_path / "d.jsonl"
    file.write_text(json.dumps({"prompt": "2-2=", "completion": "0"}) + "\n")
    (found,) = read_examples(file, SPACED, 100).items
    ids = found.ids.tolist()
    assert ids == [BOS, *encode(SPACED, "2-2=0"), EOS]
    assert SPACED.decode(found.ids[found.loss_mask].tolist()) == "0</s>"
    file.write_text(json.dumps({"text": "it"}) + "\n")
    (found,) = read_examples(file, SPACED, 100).items
    assert found.ids.tolist() == [BOS, *encode(SPACED, "it"), EOS]


def test_turns_of_a_conversation_are_learned_as_they_are_generated(tmp_path: Path) -> None:
    tokenizer, file = sentencepiece_like(), tmp_path / "d.jsonl"
    tokenizer.chat_template = (
        "<s>{% for m in messages %}{{ m.role[0] }}:{{ m.content }}.{% endfor %}"
        "{% if add_generation_prompt %}a:{% endif %}"
    )
    talk = [("user", "it"), ("assistant", "2"), ("user", "ha"), ("assistant", "Wait")]
    file.write_text(json.dumps({"messages": [{"role": role, "content": content} for role, content in talk]}) + "\n")
    (found,) = read_examples(file, tokenizer, 100).items
    assert found.ids.tolist() == encode(tokenizer, "<s>u:it.a:2.u:ha.a:Wait.")
    assert tokenizer.decode(found.ids[found.loss_mask].tolist()) == "2.Wait."


def test_long_texts_are_encoded_without_a_warning(model: minseek.Model, capfd: pytest.CaptureFixture[str]) -> None:
    long = "a " * 500
    model.tokenizer.deprecation_warnings = {}
    for tokens in (model.encode(long), model.encode_prompt(long), model.encode_continuation(long)):
        assert len(tokens) > model.tokenizer.model_max_length
    assert "indexing errors" not in capfd.readouterr().err
