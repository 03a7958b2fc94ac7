"""The recipe of the model `tiny`: its problems, traces, batches and network."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import islice, pairwise
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

import minseek
from minseek.models import fitting_alias
from minseek.models.loading.aliases import TINY
from recipes.tiny_reasoner.batches import batches
from recipes.tiny_reasoner.evaluate import evaluate, table
from recipes.tiny_reasoner.kinds import KINDS
from recipes.tiny_reasoner.network import LlamaSize, Network
from recipes.tiny_reasoner.problems import DIFFICULTIES, draw, is_held_out, tasks
from recipes.tiny_reasoner.sheet import Sheet
from recipes.tiny_reasoner.tokenizer import ASSISTANT, END, OPEN, USER
from recipes.tiny_reasoner.traces import make_trace
from recipes.tiny_reasoner.train import factor, make_tokenizer, train

ROOT = Path(__file__).parents[2]
seeds = st.integers(0, 2**32)


@pytest.fixture(scope="module")
def tokenizer():  # type: ignore[no-untyped-def]
    return make_tokenizer(0)


def solved(kind: str, prompt: str) -> str:
    """The answer, worked out from the words of the problem alone."""
    numbers = [int(n) for n in re.findall(r"-?\d+", prompt)]
    if kind == "arithmetic":
        return str(eval(prompt.removeprefix("Compute ").rstrip(".")))
    if kind == "modular":
        x = numbers[1]
        for a, b in re.findall(r"x=(\d+)x\+(\d+)", prompt):
            x = (int(a) * x + int(b)) % numbers[0]
        return str(x)
    if kind == "equation":
        text = prompt.removeprefix("Solve ").removesuffix(" for x.")
        sides = re.sub(r"(\d)(?=[x(])", r"\1*", text).replace("=", "==")
        return next(str(x) for x in range(-50, 100) if eval(sides, {"x": x}))
    if kind == "sequence":
        terms, num_terms = [int(n) for n in re.findall(r"-?\d+", prompt.split(".")[0])], 1
        if later := re.search(r"(\d+) terms later", prompt):
            num_terms = int(later[1])
        steps = [b - a for a, b in pairwise(terms)]
        doubles = len(set(steps)) > 1 and all(b == 2 * a for a, b in pairwise(steps))
        step, term, growth = steps[-1], terms[-1], steps[1] - steps[0]
        for _ in range(num_terms):
            step = 2 * step if doubles else step + growth
            term += step
        return str(term)
    text, changes = prompt.removeprefix("Take ").split(". ")[0].split(": ")
    values = [int(v) for v in text.split()]
    for change in changes.split(", "):
        if change == "sort":
            values.sort()
        elif change == "reverse":
            values.reverse()
        elif change == "drop the first":
            del values[0]
        elif change == "drop the last":
            del values[-1]
        elif change == "swap the ends":
            values[0], values[-1] = values[-1], values[0]
        elif change.startswith("keep"):
            values = [v for v in values if v % 2 == change.endswith("odd")]
        elif change == "double each":
            values = [v + v for v in values]
        elif added := re.fullmatch(r"add (\d+) to each", change):
            values = [v + int(added[1]) for v in values]
        else:
            for _ in range(int(change.removeprefix("rotate left by "))):
                values.append(values.pop(0))
    return str(sum(values)) if "sum" in prompt else " ".join(map(str, values))


@pytest.mark.parametrize("kind", KINDS)
@given(seed=seeds, difficulty=st.sampled_from(DIFFICULTIES))
@settings(max_examples=60, deadline=None)
def test_answers_and_all_sound_derivations_are_right(kind: str, seed: int, difficulty: int) -> None:
    problem = KINDS[kind](Random(seed), difficulty)
    assert problem.answer == solved(kind, problem.prompt)
    for way in range(len(problem.ways)):
        assert problem.derive(Sheet(Random(seed)), way, problem.answer) == problem.answer
    assert problem.carefully(Sheet(Random(seed))) == problem.answer


@pytest.mark.parametrize("kind", KINDS)
@given(seed=seeds)
@settings(max_examples=60, deadline=None)
def test_a_trace_ends_right_and_nothing_wrong_is_learned(kind: str, seed: int) -> None:
    rng = Random(seed)
    _, problem = draw(rng, test=False, kind=kind)
    pieces = make_trace(problem, rng)
    text = "".join(piece.text for piece in pieces)
    thoughts, _, answer = text.partition("</think>\n")
    assert answer == f"The answer is \\boxed{{{problem.answer}}}."
    assert all(t.startswith("Wait, ") for t in re.split(r"(?<=\n)(?=Wait)", thoughts)[1:])
    for piece in pieces:
        for left, right in re.findall(r"^([-\d+*/()]+)=(-?\d+)$", piece.text if piece.learn else "", re.M):
            if "/" not in left:
                assert eval(left) == int(right)


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_is_not_to_think_again_because_it_was_wrong(kind: str) -> None:
    own = induced = closed = 0
    for seed in range(400):
        _, problem = draw(Random(seed), test=False, kind=kind)
        before = ""
        for piece in make_trace(problem, Random(seed)):
            if piece.text == "Wait":
                right = re.findall(r"^(?:So|Again) (.*)\.$", before, re.M)[-1] == problem.answer
                assert right or not piece.learn, "it would learn to think again where it was wrong"
                own, induced = own + piece.learn, induced + (not piece.learn)
            before += piece.text
        closed += 1
    assert own < 0.35 * closed, "first thoughts mostly close"
    assert own < induced / 2


@pytest.mark.parametrize("kind", KINDS)
def test_another_way_has_other_lines(kind: str) -> None:
    same = lines = 0
    for seed in range(200):
        _, problem = draw(Random(seed), test=False, kind=kind)
        first, second = Sheet(Random(0)), Sheet(Random(0))
        problem.derive(first, 0, "")
        problem.derive(second, 1, problem.answer)
        results = [{line for line in sheet.lines if set(line) & set("=:")} for sheet in (first, second)]
        same, lines = same + len(results[0] & results[1]), lines + len(results[1])
    assert same < 0.35 * lines, f"{same} of {lines} can be copied"


@given(seed=seeds)
@settings(max_examples=30, deadline=None)
def test_a_slip_changes_the_step_it_is_in(seed: int) -> None:
    _, problem = draw(Random(seed), test=False, kind="arithmetic")
    sound, slipped = Sheet(Random(seed)), Sheet(Random(seed), slip=0)
    problem.derive(sound, 0, "")
    problem.derive(slipped, 0, "")
    assert slipped.slipped_at == 0
    assert sound.lines[0] != slipped.lines[0]
    assert sound.lines[0].split("=")[0] == slipped.lines[0].split("=")[0]


def test_the_splits_do_not_meet_and_tasks_do_not_repeat() -> None:
    held_out = list(tasks("test", 200, seed=3))
    trained = list(tasks("train", 200, seed=3))
    assert all(is_held_out(task["question"]) for task in held_out)
    assert not any(is_held_out(task["question"]) for task in trained)
    assert len({task["question"] for task in held_out}) == 200
    assert {task["kind"] for task in held_out} == set(KINDS)


def test_tiny_is_the_model_for_its_problems_and_for_nothing_else() -> None:
    assert all(fitting_alias(task["question"]) == "tiny" for task in tasks("train", 300, seed=1))
    for question in ("How many days are in a week?", "Compute the area of a circle.", "Take a walk: why?", "x"):
        assert fitting_alias(question) == "smollm2"


def test_the_command_writes_tasks() -> None:
    command = [sys.executable, "-m", "recipes.tiny_reasoner.problems", "--count", "7", "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert [json.loads(line) for line in done.stdout.splitlines()] == list(tasks("test", 7, seed=1))


def test_the_tokenizer_writes_any_text(tokenizer) -> None:  # type: ignore[no-untyped-def]
    for text in ("Compute 12*(3-45).\n", "Grüße, 世界 🌍!", "Wait, from the right.\n", "a\tb\r\n\x00"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("Wait")) == 1
    assert len(tokenizer.encode("1234")) == 4
    chat = [{"role": "user", "content": "1+1?"}]
    rendered = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert rendered == f"{USER}1+1?{ASSISTANT}{OPEN}\n"
    turns = [*chat, {"role": "assistant", "content": "2"}, {"role": "user", "content": "And 2+2?"}]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert rendered == f"{USER}1+1?{ASSISTANT}2{END}{USER}And 2+2?{ASSISTANT}{OPEN}\n"


def test_batches_are_those_of_a_run_that_was_not_stopped(tokenizer) -> None:  # type: ignore[no-untyped-def]
    whole = list(islice(batches(tokenizer, 5, 1024), 20))
    for start in (3, 16, 19):
        rest = next(batches(tokenizer, 5, 1024, start=start))
        assert torch.equal(rest.tokens, whole[start].tokens)
        assert torch.equal(rest.targets, whole[start].targets)
    for batch in whole:
        learned = batch.targets >= 0
        assert batch.tokens.numel() == 1024
        assert torch.equal(batch.tokens[:, 1:][learned[:, :-1]], batch.targets[:, :-1][learned[:, :-1]])
        begins = batch.tokens == tokenizer.convert_tokens_to_ids(USER)
        assert (batch.positions[begins] == 0).all()
        assert not (learned & (batch.trace_ids < 0)).any()


def test_the_saved_model_is_the_trained_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Network(
        LlamaSize(64, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4, num_kv_heads=2, max_positions=32)
    )
    for parameter in network.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter)).copy_(parameter.bfloat16().float())
    network.save(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    rows = torch.randint(0, 64, (1, 12)), torch.randint(0, 64, (1, 7))
    packed = torch.cat(rows, 1)
    positions = torch.cat([torch.arange(12), torch.arange(7)])[None]
    trace_ids = torch.tensor([[0] * 12 + [1] * 7])
    for target in (rows[0].shape[1] - 1, packed.shape[1] - 1):  # the last token of each row's trace
        for wanted in (3, 40):
            targets = torch.full_like(packed, -100)
            targets[0, target] = wanted
            row = rows[0] if target < 12 else rows[1]
            expected = -model(row).logits[0, -1].log_softmax(-1)[wanted]
            assert network(packed, positions, trace_ids, targets).item() == pytest.approx(expected.item(), abs=0.05)


@pytest.mark.slow
def test_training_learns_and_a_stopped_run_goes_on(tmp_path: Path, monkeypatch, capsys, one_thread) -> None:  # type: ignore[no-untyped-def]
    import recipes.tiny_reasoner.train as module

    for name, value in {"TOKENS": 512, "_SAVE_EVERY": 8, "_SHOW_EVERY": 8, "_WARM_UP": 1}.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(
        module,
        "LlamaSize",
        lambda vocab_size: LlamaSize(vocab_size, hidden_size=32, intermediate_size=48, num_layers=1),
    )
    with torch.enable_grad():
        train(tmp_path / "whole", steps=24, seed=0, compiled=False)
        losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", capsys.readouterr().out)]
        assert losses == sorted(losses, reverse=True)
        assert len(losses) == 3
        monkeypatch.setattr(module, "batches", lambda *a, **k: islice(batches(*a, **k), 16))
        train(tmp_path / "parts", steps=24, seed=0, compiled=False)
        train(tmp_path / "parts", steps=24, seed=0, compiled=False)
    states = [torch.load(tmp_path / name / "state.pt") for name in ("whole", "parts")]
    assert states[0]["step"] == states[1]["step"] == 24
    for name, value in states[0]["network"].items():
        assert torch.allclose(value, states[1]["network"][name], atol=1e-6), name


def test_the_learning_rate_rises_stays_and_falls_to_nothing() -> None:
    assert factor(0, 1000) < factor(50, 1000) < factor(100, 1000) == factor(400, 1000) == 1.0
    assert 1.0 > factor(401, 1000) > factor(700, 1000) > factor(999, 1000) == pytest.approx(1 / 600)


@pytest.mark.slow
def test_the_shipped_model_is_one_of_transformers() -> None:
    model = minseek.load("tiny", device="cpu", dtype="float32")
    plain = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    assert sum(file.stat().st_size for file in TINY.iterdir()) < 16_000_000
    assert plain.config.max_position_embeddings == model.max_positions == 512
    for task in tasks("test", 5, seed=9):
        chat = [{"role": "user", "content": task["question"]}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=False)
        expected = plain.generate(ids, max_new_tokens=80, do_sample=False)[0, ids.shape[1] :].tolist()
        run = minseek.reason(
            model, task["question"], strategy=minseek.Standard(), sampling=minseek.Sampling(temperature=0)
        )
        length = min(len(run.tokens), 80)
        assert run.tokens[:length] == expected[:length]


@pytest.mark.slow
def test_the_shipped_model_solves_held_out_problems() -> None:
    figures = evaluate("tiny", 20, seed=7)
    assert figures["problems"] == 100
    assert 0.4 < figures["accuracy"] < 0.9  # type: ignore[operator]
    assert table(figures).count("|") == 7 * 7
