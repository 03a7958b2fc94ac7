"""Tuning: what is learnt, with which gradients and in how much memory, and that a stopped run is the same run."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

import minseek
from minseek.tune import Settings, TunePlan, TuneResult, TuneRun, tune
from minseek.tune.batches import Batch, BatchSampler, collate
from minseek.tune.checkpoint import read_checkpoint, write_checkpoint
from minseek.tune.examples import Example, read_examples
from minseek.tune.loss import add_gradients, loss_sum
from minseek.tune.memory import LiveTensors, ProcessMeter
from minseek.tune.model import checkpoint_layers, load_model, read_config
from minseek.tune.optimizers import make_optimizer
from minseek.tune.plan import peak_of_pass, plan_tuning
from minseek.tune.schedule import learning_rate
from minseek.tune.trainable import select_layers
from minseek.tune.trainer import Trainer
from tests.helpers.tiny_models import ARCHITECTURES, make_reference, make_tokenizer, save

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::minseek.MinseekWarning"),
]
CPU = torch.device("cpu")
PLANS: dict[Any, TunePlan] = {}
FAST = {"max_length": 32, "gradient_accumulation_steps": 2, "steps": 4, "format": "float32"}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tied two-layer Llama that learns quickly."""
    folder = tmp_path_factory.mktemp("small")
    return save(folder, "llama-tied", num_hidden_layers=2, closes=1.0, initializer_range=0.05)


@pytest.fixture(autouse=True)
def plans_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of the same settings have the same plan, and it takes longer than they do."""

    def planned(config: Any, settings: Settings, **sizes: Any) -> TunePlan:
        key = (config.to_json_string(), replace(settings, seed=0, steps=1, lr=1.0), *sizes.items())
        if key not in PLANS:
            PLANS[key] = plan_tuning(config, settings, **sizes)
        return PLANS[key]

    monkeypatch.setattr("minseek.tune.run.plan_tuning", planned)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "data.txt"
    file.write_text("the cat sat on the mat and the dog sat on the log; " * 20)
    return file


def examples(count: int, seed: int = 0) -> list[Example]:
    """Random sequences of many lengths, of which random tokens are learnt."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        length = int(torch.randint(2, 40, (), generator=generator))
        loss_mask = torch.rand(length, generator=generator) < 0.6
        loss_mask[-1] = True
        made.append(Example(torch.randint(256, (length,), generator=generator, dtype=torch.int32), loss_mask))
    return made


def labels(items: list[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """Padded tokens and transformers' labels."""
    longest = max(len(item.ids) for item in items)
    ids, wanted = torch.zeros(len(items), longest, dtype=torch.int64), torch.full((len(items), longest), -100)
    for row, item in enumerate(items):
        ids[row, : len(item.ids)] = item.ids
        wanted[row, : len(item.ids)] = torch.where(item.loss_mask, item.ids, -100)
    return ids, wanted


# Data


def test_a_text_is_cut_into_whole_blocks(tmp_path: Path) -> None:
    tokenizer, file = make_tokenizer(), tmp_path / "t.txt"
    for size in (1, 5, 9, 10, 19, 20, 21, 57):
        file.write_text("".join(random.Random(size).choices("abcdefgh", k=size)))
        ids = [*tokenizer.encode(file.read_text()), 256]
        whole = read_examples(file, tokenizer, 10)
        got = [token for item in whole.items for token in item.ids.tolist()]
        kept = len(ids) - len(ids) % 10 if len(ids) >= 10 else len(ids)
        assert got == ids[:kept]
        assert whole.left_over == len(ids) - kept
        assert all(len(item.ids) == min(10, len(ids)) and item.loss_mask.all() for item in whole.items)


def learnt(tmp_path: Path, item: dict[str, Any], template: str = "leaves", length: int = 500) -> tuple[str, str]:
    """A line as a whole, and what of it is learnt."""
    tokenizer, file = make_tokenizer(template), tmp_path / "d.jsonl"
    file.write_text(json.dumps(item) + "\n\n")
    (found,) = read_examples(file, tokenizer, length).items
    return tokenizer.decode(found.ids.tolist()), tokenizer.decode(found.ids[found.loss_mask].tolist())


def test_what_of_a_line_is_learnt(tmp_path: Path) -> None:
    assert learnt(tmp_path, {"text": "Hé you"}) == ("Hé you<|end|>", "Hé you<|end|>")
    given = {"prompt": "2+2=", "completion": "4"}
    assert learnt(tmp_path, given) == ("2+2=4<|end|>", "4<|end|>")
    turns = [("system", "s1"), ("user", "u1"), ("assistant", "a1"), ("user", "u2"), ("assistant", "a2")]
    talk = {"messages": [{"role": role, "content": content} for role, content in turns]}
    whole = "s:s1\nu:u1\na:a1\nu:u2\na:a2\n"
    for template in ("leaves", "plain", "opens"):
        assert learnt(tmp_path, talk, template) == (whole, "a1\na2\n")
    marked = "s:s1<|end|>\nu:u1<|end|>\na:a1<|end|>\nu:u2<|end|>\na:a2<|end|>\n"
    assert learnt(tmp_path, talk, "ignores") == (marked, "a1<|end|>\na2<|end|>\n")
    question = {"messages": [*talk["messages"], {"role": "user", "content": "u3"}]}
    assert learnt(tmp_path, question) == (whole + "u:u3\n", "a1\na2\n")


def test_a_template_that_rewrites_earlier_turns_is_refused(tmp_path: Path) -> None:
    tokenizer, file = make_tokenizer(), tmp_path / "d.jsonl"
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role[0] }}:{% if loop.last %}!{% endif %}{{ m.content }}\n{% endfor %}"
    )
    talk = [{"role": role, "content": "x"} for role in ("user", "assistant", "user", "assistant")]
    file.write_text(json.dumps({"messages": talk}))
    with pytest.raises(minseek.InputError, match=r"line 1 of .*message 2 differently once others follow"):
        read_examples(file, tokenizer, 100)


@pytest.mark.filterwarnings("default::minseek.MinseekWarning")
def test_long_lines_are_cut_with_one_warning(tmp_path: Path) -> None:
    file = tmp_path / "d.jsonl"
    lines = [{"text": "x" * n} for n in (5, 20, 30)] + [{"prompt": "p" * 15, "completion": "c"}]
    file.write_text("\n".join(map(json.dumps, lines)))
    with pytest.warns(
        minseek.MinseekWarning, match=r"3 of 4 examples .* longer than 12 .* 1 of these .*left out"
    ) as caught:
        found = read_examples(file, make_tokenizer(), 12).items
    assert [len(item.ids) for item in found] == [6, 12, 12]
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "is not JSON"),
        ("[1]", "it has list"),
        ('{"txt": "x"}', "'txt'"),
        ('{"text": 3}', "'text' must be a text, not 3"),
        ('{"prompt": "x"}', "'prompt'"),
        ('{"prompt": "x", "completion": null}', "'completion' must be a text"),
        ('{"messages": []}', "'messages' must be a list"),
        ('{"messages": [{"role": "user"}]}', "'role' and 'content'"),
        ('{"messages": [{"role": "user", "content": "x"}]}', "no token to learn"),
        ('{"messages": [{"role": "assistant", "content": "x"}]}', "begin with the user's"),
        ('{"text": ""}', "no token to learn"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "d.jsonl"
    file.write_text(f'{{"text": "good"}}\n\n{line}\n{{"text": "good"}}\n')
    with pytest.raises(minseek.InputError, match=r"^line 3 of ") as refused:
        read_examples(file, make_tokenizer(), 100)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("d.txt", b"", "is empty"),
        ("d.txt", b"ab\xff", "is not UTF-8 text: invalid start byte at byte 2"),
        ("d.jsonl", b"\n\n", "holds no example"),
        ("d.jsonl", b"\xff\n", "line 1 of"),
        ("d.csv", b"x", "neither a .txt nor a .jsonl file"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(minseek.InputError, match=said):
        read_examples(tmp_path / name, make_tokenizer(), 100)


# BatchSampler


@pytest.mark.parametrize(("count", "batch", "accumulate"), [(7, 2, 2), (3, 1, 8), (12, 3, 2), (1, 2, 1)])
def test_every_epoch_reads_every_example_once(count: int, batch: int, accumulate: int) -> None:
    sampler = BatchSampler(count, batch, accumulate, steps=None, epochs=3, seed=5)
    steps = [sampler.passes(step) for step in range(sampler.steps)]
    flat = [index for step in steps for chosen in step for index in chosen]
    assert [sorted(flat[at : at + count]) for at in range(0, 3 * count, count)] == [list(range(count))] * 3
    assert len(flat) == 3 * count
    assert all(len(step) <= accumulate and all(1 <= len(c) <= batch for c in step) for step in steps)
    again = BatchSampler(count, batch, accumulate, steps=None, epochs=3, seed=5)
    assert again.passes(sampler.steps // 2) == steps[sampler.steps // 2]  # a place needs no history
    if count > 3:
        assert flat[:count] != flat[count : 2 * count]
        assert BatchSampler(count, batch, accumulate, steps=9, epochs=None, seed=6).passes(0) != steps[0]


def test_a_batch_is_padded_and_its_targets_are_the_next_tokens() -> None:
    items = examples(5)
    batch = collate(items, CPU)
    ids, wanted = labels(items)
    pairs = {(int(row), int(at) - 1): int(wanted[row, at]) for row, at in (wanted != -100).nonzero() if at > 0}
    width = batch.ids.shape[1]
    got = {
        (int(w) // width, int(w) % width): int(t) for w, t in zip(batch.target_positions, batch.targets, strict=True)
    }
    assert torch.equal(batch.ids, ids)
    assert got == pairs


def test_learning_rates() -> None:
    rates = {name: [learning_rate(2.0, name, step, 10, 4) for step in range(10)] for name in ("constant", "linear")}
    assert rates["constant"] == [0.5, 1, 1.5, 2, 2, 2, 2, 2, 2, 2]
    assert rates["linear"][4:] == pytest.approx([2 * (1 - n / 6) for n in range(6)])
    cosine = [learning_rate(1.0, "cosine", step, 8, 0) for step in range(8)]
    assert cosine == pytest.approx([(1 + math.cos(math.pi * n / 8)) / 2 for n in range(8)])


# Loss and gradients


def gradients_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def with_gradients(model: Any, layers: str | None = None) -> Any:
    for weight in select_layers(model, layers):
        weight.grad = torch.zeros_like(weight)
    return model


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize(
    "variant", [*ARCHITECTURES, "llama-tied", "llama-biases", "llama-llama3", "qwen2-window", "mistral-window"]
)
def test_loss_and_gradients_are_those_of_transformers(
    variant: str, checkpointed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minseek.tune.loss._LOGIT_BYTES", 4 * 272 * 11)  # chunks of 11 rows
    items = examples(4)
    ids, wanted = labels(items)
    oracle, model = make_reference(variant), with_gradients(make_reference(variant))
    oracle.requires_grad_(True)
    with torch.enable_grad():
        loss = oracle(input_ids=ids, labels=wanted).loss
        loss.backward()
    if checkpointed:
        checkpoint_layers(model)
    batch = collate(items, CPU)
    got = add_gradients(model, batch, 1 / len(batch.targets))
    torch.testing.assert_close(got, loss.detach(), rtol=1e-5, atol=0)
    torch.testing.assert_close(loss_sum(model, batch) / len(batch.targets), loss.detach(), rtol=1e-5, atol=0)
    right, found = gradients_of(oracle), gradients_of(model)
    assert found.keys() == right.keys()
    for name, gradient in right.items():
        torch.testing.assert_close(found[name], gradient, rtol=2e-4, atol=2e-6, msg=name)


def test_bfloat16_gradients_are_as_near_as_autograds() -> None:
    items, exact = examples(6), with_gradients(make_reference("llama-tied"))
    ids, wanted = labels(items)
    batch = collate(items, CPU)
    add_gradients(exact, batch, 1 / len(batch.targets))
    model = with_gradients(make_reference("llama-tied").to(torch.bfloat16))
    add_gradients(model, batch, 1 / len(batch.targets))
    plain = make_reference("llama-tied").to(torch.bfloat16).requires_grad_(True)
    with torch.enable_grad():
        plain(input_ids=ids, labels=wanted).loss.backward()
    right = gradients_of(exact)

    def error(found: dict[str, torch.Tensor]) -> float:
        return math.sqrt(sum(float((found[name].float() - right[name]).square().sum()) for name in right))

    size = math.sqrt(sum(float(g.square().sum()) for g in right.values()))
    assert error(gradients_of(model)) < 0.1 * size
    assert error(gradients_of(model)) < 1.2 * error(gradients_of(plain))


def test_passes_add_up_to_one_large_batch() -> None:
    items = examples(6)
    one, many = with_gradients(make_reference("qwen3")), with_gradients(make_reference("qwen3"))
    whole = collate(items, CPU)
    loss = add_gradients(one, whole, 1 / len(whole.targets))
    parts = sum(
        float(add_gradients(many, collate(items[at : at + 2], CPU), 1 / len(whole.targets))) for at in (0, 2, 4)
    )
    assert parts == pytest.approx(float(loss), rel=1e-5)
    for name, gradient in gradients_of(one).items():
        torch.testing.assert_close(gradients_of(many)[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_a_step_is_that_of_torch_on_the_mean_loss() -> None:
    """Weights after two steps of plain float32 SGD with momentum, clipped, are torch's own."""
    items, settings = (
        examples(8),
        Settings(format="float32", lr=0.5, momentum=0.9, weight_decay=0.01, max_grad_norm=0.3),
    )
    sampler = BatchSampler(8, 2, 2, steps=2, epochs=None, seed=0)
    model, oracle = make_reference("llama"), make_reference("llama").requires_grad_(True)
    trainer = Trainer(model, select_layers(model, None), items, [], sampler, settings)
    torch_sgd = torch.optim.SGD(oracle.parameters(), lr=0.5, momentum=0.9, weight_decay=0.01)
    for step in range(2):
        chosen = [items[index] for passed in sampler.passes(step) for index in passed]
        ids, wanted = labels(chosen)
        torch_sgd.zero_grad()
        with torch.enable_grad():
            loss = oracle(input_ids=ids, labels=wanted).loss
            loss.backward()
        assert torch.nn.utils.clip_grad_norm_(oracle.parameters(), 0.3) > 0.3
        torch_sgd.step()
        got, tokens = trainer.step(step)
        assert got == pytest.approx(float(loss), rel=1e-5)
        assert tokens == sum(len(item.ids) for item in chosen)
    for (name, weight), own in zip(model.named_parameters(), oracle.parameters(), strict=True):
        torch.testing.assert_close(weight.detach(), own.detach(), rtol=1e-4, atol=1e-5, msg=name)


# Memory


def test_live_tensors_are_counted_until_they_are_freed() -> None:
    counter, size = LiveTensors(), 4 * 1000
    with counter:
        a = torch.zeros(1000)
        view = a[10:20]
        assert counter.live == size
        b = a + 1
        del a
        assert counter.live == 2 * size  # the view keeps it
        del view
        assert counter.live == size
        c = (b * 2) * 3
        del c
    assert counter.live == size
    assert counter.peak == 3 * size


@pytest.mark.parametrize(
    ("variant", "layers"),
    [
        *((variant, None) for variant in (*ARCHITECTURES, "llama-tied", "qwen2-window", "mistral-window")),
        *(("llama", layers) for layers in ("1", "head", "2,norm", "0,embedding")),
    ],
)
@pytest.mark.parametrize("lean", [False, True])
def test_the_plan_counts_what_a_pass_really_holds(variant: str, lean: bool, layers: str | None) -> None:
    model = make_reference(variant).to(torch.bfloat16)
    settings = Settings(gradient_checkpointing=lean, layers=layers)
    plan = plan_tuning(model.config, settings, length=48, batch_size=3, device=CPU)
    if lean:
        checkpoint_layers(model)
    trained = select_layers(model, layers)
    ids = torch.randint(256, (3, 48))
    where = torch.arange(3 * 48).view(3, 48)[:, :-1].flatten()
    batch = Batch(ids, where, ids.flatten()[where + 1])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("minseek.tune.plan.STEP_BYTES", 0)  # it covers all activations of so small a model
        planned = plan_tuning(model.config, settings, length=48, batch_size=3, device=CPU)
    assert planned.weights == sum(weight.nbytes for weight in model.parameters())
    assert planned.gradients == sum(weight.nbytes for weight in trained)
    assert planned.weights + planned.gradients + planned.activations == peak_of_pass(model, trained, batch)
    assert plan.activations == 16 * 2**20
    assert (plan.parameters, plan.state) == (sum(weight.numel() for weight in model.parameters()), 0)


def test_state_in_plans_is_what_optimizers_keep() -> None:
    kinds = [
        Settings(momentum=0.5),
        Settings(optimizer="adamw"),
        Settings(optimizer="adamw", format="float32"),
        Settings(optimizer="pisgd", momentum=0.5),
    ]
    for settings in kinds:
        model = with_gradients(make_reference("llama").to(settings.dtype))
        optimizer = make_optimizer(select_layers(model, None), settings)
        optimizer.step(lambda: torch.zeros(()))
        kept = sum(
            value.nbytes
            for state in optimizer.state.values()
            for value in state.values()
            if isinstance(value, torch.Tensor) and value.numel() > 1
        )
        passing = settings.dtype.itemsize if settings.optimizer == "pisgd" else 0
        plan = plan_tuning(model.config, settings, length=16, batch_size=1, device=CPU)
        assert plan.state == kept + passing * plan.trained


def test_checkpointing_holds_less_and_the_logits_are_never_whole() -> None:
    config = make_reference("llama", num_hidden_layers=8, vocab_size=20_000).config
    sizes = {
        lean: plan_tuning(
            config, Settings(gradient_checkpointing=lean), length=512, batch_size=4, device=CPU
        ).activations
        for lean in (False, True)
    }
    assert sizes[True] < 0.6 * sizes[False]
    assert sizes[True] < 4 * 512 * 20_000 * 4  # bytes of all logits in float32


def test_the_plan_holds_on_real_memory(tmp_path: Path) -> None:
    """A model large enough to show: 40 MB of weights."""
    sizes = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 4, "head_dim": 64, "vocab_size": 8000}
    folder = save(tmp_path / "model", "llama", num_attention_heads=8, closes=1.0, **sizes)
    (tmp_path / "d.txt").write_text("a few words of no importance; " * 100)
    settings = Settings(max_length=256, batch_size=2, gradient_accumulation_steps=2, steps=2, eval_share=0)
    tuning = TuneRun(str(folder), tmp_path / "d.txt", settings, device="cpu")
    budget = tuning.plan.total
    outcome = tuning.run(tmp_path / "out", memory_budget=budget)
    plan = tuning.plan
    assert outcome.finished
    assert outcome.memory is not None
    assert plan.weights + plan.gradients < outcome.memory < plan.total


def test_a_budget_that_is_too_small_is_refused_with_what_fits(small: Path, text: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("minseek.tune.plan.STEP_BYTES", 0)
        patched.setattr("minseek.tune.plan.WORKSPACE", 0)
        tuning = TuneRun(str(small), text, Settings(max_length=65, batch_size=4, steps=1), device="cpu")
        plan = tuning.plan
        fixed = plan.weights + plan.gradients + plan.state

        def advice(budget: int) -> str:
            with pytest.raises(minseek.InputError) as refused:
                tuning.run(tmp_path / "out", memory_budget=budget)
            return str(refused.value)

        near = advice(plan.total - 1)
        assert "--gradient-checkpointing" in near
        assert "--batch-size 1" in near
        assert "--max-length 32" in near
        lean = replace(tuning.settings, gradient_checkpointing=True)
        one = plan_tuning(tuning.config, lean, length=65, batch_size=1, device=CPU).total
        assert "--gradient-checkpointing, --batch-size 1 and --max-length 65 together" in advice(one)
        assert "it takes" in advice(fixed)
        assert "train fewer layers" in advice(fixed)
        tuning.check_budget(plan.total)
    assert not (tmp_path / "out").exists()


def test_a_run_that_passes_its_budget_stops_with_a_checkpoint(
    small: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning, whole = (TuneRun(str(small), text, Settings(**FAST), device="cpu") for _ in range(2))
    monkeypatch.setattr(ProcessMeter, "peak", lambda _: tuning.plan.total + 1)
    with pytest.raises(minseek.InputError, match="was stopped after step 1, which"):
        tuning.run(tmp_path / "out", memory_budget=tuning.plan.total)
    monkeypatch.undo()
    assert tuning.run(tmp_path / "out").finished
    assert whole.run(tmp_path / "whole").finished
    assert weights_in(tmp_path / "out") == weights_in(tmp_path / "whole")


# Runs


def weights_in(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def log_of(folder: Path) -> list[dict[str, Any]]:
    """Without what differs between equal runs."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in line if name not in ("seconds", "memory")} for line in lines]


OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.3, "momentum": 0.8, "schedule": "cosine"},
    "sgd-plain": {"lr": 0.3, "max_grad_norm": 0.5, "layers": "1,norm"},
    "pisgd": {"optimizer": "pisgd", "samples": 2, "radius": 0.5, "momentum": 0.5},
    "adamw": {"optimizer": "adamw", "lr": 0.003, "warmup": 2, "schedule": "linear", "gradient_checkpointing": True},
}


@pytest.mark.parametrize("kind", [*OPTIMIZERS, "float32"])
def test_a_run_stopped_at_every_step_is_the_same_run(small: Path, text: Path, tmp_path: Path, kind: str) -> None:
    own = OPTIMIZERS.get(kind, {"format": "float32", "momentum": 0.9})
    settings = Settings(
        max_length=32, gradient_accumulation_steps=2, batch_size=2, steps=6, eval_every=2, seed=3, **own
    )

    def run(out: str, **how: Any) -> TuneResult:
        return TuneRun(str(small), text, settings, device="cpu").run(tmp_path / out, **how)

    assert run("whole").finished
    outcomes = []
    while not outcomes or not outcomes[-1].finished:
        outcomes.append(run("parts", stop=lambda: True))
    assert len(outcomes) == 6
    assert weights_in(tmp_path / "parts") == weights_in(tmp_path / "whole")
    assert log_of(tmp_path / "parts") == log_of(tmp_path / "whole")
    assert outcomes[-1].tokens == 6 * 4 * 32
    other = replace(settings, seed=4)
    assert TuneRun(str(small), text, other, device="cpu").run(tmp_path / "other").finished
    assert weights_in(tmp_path / "other") != weights_in(tmp_path / "whole")


def test_a_run_stopped_by_an_earlier_version_is_resumed(small: Path, text: Path, tmp_path: Path) -> None:
    """Its folder has other names of settings, and another spelling in the checkpoint."""
    settings = Settings(**FAST)
    tune(str(small), text, tmp_path / "whole", settings, device="cpu")
    out = tmp_path / "parts"
    assert not TuneRun(str(small), text, settings, device="cpu").run(out, stop=lambda: True).finished
    record = (out / "tune.json").read_text()
    earlier = {"batch_size": "batch", "gradient_accumulation_steps": "accumulate"}
    for new, old in {**earlier, "max_length": "length", "max_grad_norm": "clip"}.items():
        assert record.count(f'"{new}"') == 1
        record = record.replace(f'"{new}"', f'"{old}"')
    (out / "tune.json").write_text(record)
    state = torch.load(out / "checkpoint" / "state.pt", weights_only=True)
    torch.save({"optimiser": state["optimizer"], "progress": state["progress"]}, out / "checkpoint" / "state.pt")
    assert TuneRun(str(small), text, settings, device="cpu").run(out).finished
    assert weights_in(out) == weights_in(tmp_path / "whole")
    assert log_of(out) == log_of(tmp_path / "whole")


def test_a_killed_run_goes_on_from_its_last_checkpoint(
    small: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(**{**FAST, "steps": 7})
    tune(str(small), text, tmp_path / "whole", settings, device="cpu")
    real, calls = Trainer.step, []

    def step(trainer: Trainer, number: int) -> tuple[float, int]:
        calls.append(number)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(trainer, number)

    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(KeyboardInterrupt):
        tune(str(small), text, tmp_path / "out", settings, device="cpu", checkpoint_every=3)
    # killed between the renames of a later checkpoint
    (tmp_path / "out" / "checkpoint").rename(tmp_path / "out" / "checkpoint.old")
    (tmp_path / "out" / "checkpoint.new").mkdir()
    tune(str(small), text, tmp_path / "out", settings, device="cpu", checkpoint_every=2)
    assert calls[6:] == [3, 4, 5, 6]
    assert weights_in(tmp_path / "out") == weights_in(tmp_path / "whole")
    assert log_of(tmp_path / "out") == log_of(tmp_path / "whole")
    assert not [item for item in (tmp_path / "out").iterdir() if "checkpoint" in item.name or "new" in item.name]


def test_a_checkpoint_is_replaced_whole(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_gradients(load_model(small, read_config("x", small), torch.float32, CPU))
    trained = select_layers(model, None)
    optimizer, folder = make_optimizer(trained, Settings(momentum=0.5, format="float32")), tmp_path / "checkpoint"
    write_checkpoint(folder, model, optimizer, {"step": 1})
    before = trained[0].clone()
    monkeypatch.setattr("torch.save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    trained[0].add_(1)
    with pytest.raises(OSError, match="No space"):
        write_checkpoint(folder, model, optimizer, {"step": 2})
    assert read_checkpoint(folder, model, optimizer) == {"step": 1}
    assert torch.equal(trained[0], before)
    (folder / "state.pt").write_bytes(b"nonsense")
    with pytest.raises(minseek.InputError, match="damaged"):
        read_checkpoint(folder, model, optimizer)


@pytest.mark.parametrize("kind", ["bf16", "float32"])
@pytest.mark.parametrize("variant", [*ARCHITECTURES, "llama-tied", "llama-llama3", "qwen3-yarn"])
def test_the_output_is_a_plain_model(variant: str, kind: Any, text: Path, tmp_path: Path) -> None:
    source = save(tmp_path / "model", variant)
    settings = Settings(**{**FAST, "format": kind, "steps": 1})
    assert tune(str(source), text, tmp_path / "out", settings, device="cpu").finished
    out, dtype = tmp_path / "out", settings.dtype
    plain, before = (AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval() for folder in (out, source))
    assert plain.dtype == dtype
    assert plain.generation_config.eos_token_id == 256
    changed = [not torch.equal(a, b.to(dtype)) for a, b in zip(plain.parameters(), before.parameters(), strict=True)]
    assert any(changed)
    ids = torch.randint(256, (1, 20))
    own = load_model(out, read_config("x", out), dtype, CPU)
    assert torch.equal(own(ids).logits, plain(ids).logits)
    ours = minseek.load(str(out), device="cpu", dtype="float32")
    wanted = plain.float()(ids).logits[0, -1]
    torch.testing.assert_close(ours.session().forward(ids[0].tolist()), wanted, rtol=1e-3, atol=1e-3)
    assert ours.tokenizer.chat_template == make_tokenizer().chat_template
    assert {item.name for item in out.iterdir()} >= {"config.json", "generation_config.json", "tune.json", "log.jsonl"}


def test_weights_come_as_transformers_loads_them(small: Path, tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    sharded = tmp_path / "sharded"
    AutoModelForCausalLM.from_pretrained(small).save_pretrained(sharded, max_shard_size="20KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    for folder in (small, sharded, *tiny_folders.values()):
        for dtype in (torch.float32, torch.bfloat16):
            own = load_model(folder, read_config("x", folder), dtype, CPU)
            right = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
            for (name, a), b in zip(own.named_parameters(), right.parameters(), strict=True):
                assert torch.equal(a, b), name
            ids = torch.randint(256, (1, 9))
            assert torch.equal(own(ids).logits, right.eval()(ids).logits)


def test_damaged_weights_are_refused(small: Path, text: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(small, tmp_path / "copy")
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for content, said in ((whole[:-5], "cut off"), (b"nonsense", "damaged"), (b"\xff" * 20, "damaged")):
        file.write_bytes(content)
        with pytest.raises(minseek.InputError, match=said):
            tune(str(folder), text, tmp_path / "out", Settings(**FAST), device="cpu")
    file.write_bytes(whole.replace(b"layers.1.mlp.up", b"layers.9.mlp.up"))
    with pytest.raises(minseek.InputError, match=r"the tensor .* is unknown"):
        tune(str(folder), text, tmp_path / "out", Settings(**FAST), device="cpu")
    file.unlink()
    with pytest.raises(minseek.InputError, match=r"no \.safetensors files"):
        tune(str(folder), text, tmp_path / "out", Settings(**FAST), device="cpu")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("layers", "moves"),
    [
        ("1", lambda name: ".layers.1." in name),
        ("0-1,norm", lambda name: ".layers." in name or name == "model.norm.weight"),
        ("embedding", lambda name: "embed" in name),
        ("head", lambda name: "lm_head" in name),
        (None, lambda _: True),
    ],
)
@pytest.mark.parametrize("optimizer", ["sgd", "pisgd", "adamw"])
def test_only_selected_layers_move(
    layers: str | None, moves: Callable[[str], bool], optimizer: Any, text: Path, tmp_path: Path
) -> None:
    source = save(tmp_path / "model", "llama", num_hidden_layers=2)
    settings = Settings(layers=layers, optimizer=optimizer, lr=0.5, **{**FAST, "steps": 2})
    tune(str(source), text, tmp_path / "out", settings, device="cpu")
    before, after = (AutoModelForCausalLM.from_pretrained(folder) for folder in (source, tmp_path / "out"))
    for (name, a), b in zip(before.named_parameters(), after.parameters(), strict=True):
        assert torch.equal(a, b) != moves(name), name


def test_a_tied_matrix_is_tuned_from_both_ends(small: Path) -> None:
    model = load_model(small, read_config("x", small), torch.float32, CPU)
    with pytest.warns(minseek.MinseekWarning, match="one matrix"):
        assert select_layers(model, "head") == [model.model.embed_tokens.weight]


@pytest.mark.parametrize(
    ("layers", "said"),
    [("3", "no layer 3: the model's layers are 0 to 2"), ("2-1", "end before"), ("x", "'x'"), ("", "''"), ("1,", "''")],
)
def test_layers_that_are_not_there_are_refused(layers: str, said: str) -> None:
    with pytest.raises(minseek.InputError, match=said):
        select_layers(make_reference("llama"), layers)


@pytest.mark.parametrize(
    "own",
    [
        {"lr": 0.3},
        {"lr": 0.3, "optimizer": "pisgd", "radius": 0.01},
        {"lr": 0.01, "optimizer": "adamw"},
        {"lr": 0.3, "format": "float32"},
    ],
)
def test_the_held_out_loss_falls(own: dict[str, Any], small: Path, text: Path, tmp_path: Path) -> None:
    settings = Settings(
        max_length=64, gradient_accumulation_steps=2, steps=25, eval_share=0.2, max_grad_norm=1.0, **own
    )
    outcome = tune(str(small), text, tmp_path / "out", settings, device="cpu")
    assert outcome.held_out_before is not None
    assert outcome.held_out_after is not None
    assert outcome.held_out_after < outcome.held_out_before - 1
    items = read_examples(text, make_tokenizer(), 64).items
    held = items[-round(0.2 * len(items)) :]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=settings.dtype).eval()
    losses = [
        F.cross_entropy(model(item.ids[None].long()).logits[0, :-1].float(), item.ids[1:].long(), reduction="sum")
        for item in held
    ]
    assert outcome.held_out_after == pytest.approx(float(sum(losses)) / (63 * len(held)), rel=2e-3)


def test_a_diverging_run_is_stopped(small: Path, text: Path, tmp_path: Path) -> None:
    with pytest.raises(minseek.InputError, match="is not finite: give a smaller learning rate"):
        tune(str(small), text, tmp_path / "out", Settings(**{**FAST, "steps": 20, "lr": 1e30}), device="cpu")


def test_python_arguments(small: Path, text: Path, tmp_path: Path) -> None:
    tuning = TuneRun(str(small), text, Settings(**FAST), eval_data=text, device="cpu")
    assert len(tuning.held_out) == len(tuning.examples)
    for wrong in (
        lambda: tuning.run(tmp_path / "out", checkpoint_every=0),
        lambda: tuning.run(tmp_path / "none" / "out"),
        lambda: tuning.run(text),
        lambda: tuning.run(tmp_path / "out", memory_budget="lots"),
        lambda: TuneRun(str(small), text, Settings(max_length=513)),
        lambda: TuneRun(str(small), text, Settings(steps=2, warmup=2)),
    ):
        with pytest.raises(minseek.InputError):
            wrong()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "error", "sentence"),
    [
        ({"max_length": "512"}, TypeError, "max_length must be an integer, not '512'"),
        ({"max_length": None}, TypeError, "max_length must be an integer, not None"),
        ({"lr": "0.1"}, TypeError, "lr must be a number, not '0.1'"),
        ({"batch_size": True}, TypeError, "batch_size must be an integer, not True"),
        ({"steps": 2.5}, TypeError, "steps must be an integer, not 2.5"),
        ({"momentum": [0.9]}, TypeError, "momentum must be a number, not [0.9]"),
        ({"gradient_checkpointing": "yes"}, TypeError, "gradient_checkpointing must be True or False, not 'yes'"),
        ({"layers": 3}, TypeError, "layers must be a text such as '20-29,head', not 3"),
        ({"steps": 0}, minseek.InputError, "steps must be 1 or more, not 0"),
        ({"seed": 10**400}, minseek.InputError, f"seed must be below 2^63, not {10**400}"),
        ({"lr": 0}, minseek.InputError, "lr must be above 0, not 0"),
        ({"epochs": math.nan}, minseek.InputError, "epochs must be a number, not nan"),
    ],
)
def test_wrong_settings_are_told_in_one_sentence(given: Any, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error) as raised:
        Settings(**given)
    assert str(raised.value) == sentence


def test_settings_hold_numbers_that_json_can_write() -> None:
    settings = Settings(max_length=np.int64(64), lr=np.float32(0.5), epochs=2)
    assert json.loads(json.dumps(asdict(settings)))["max_length"] == 64
    assert settings == Settings(max_length=64, lr=0.5, epochs=2.0)


def test_a_budget_that_nobody_can_watch_over_is_refused(
    small: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ProcessMeter, "peak", lambda _: None)
    tuning = TuneRun(str(small), text, Settings(**{**FAST, "steps": 1}), device="cpu")
    with pytest.raises(minseek.InputError, match=r"^a memory budget of 900 MB cannot be kept .*: leave it out"):
        tuning.run(tmp_path / "out", memory_budget="900MB")
    assert not (tmp_path / "out").exists()
    outcome = tuning.run(tmp_path / "out")
    assert outcome.finished
    assert outcome.memory is None
