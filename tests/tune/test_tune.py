"""Tuning runs: stopped and resumed, with plain models as output, and wrong settings refused."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import minseek
from minseek.models.loading.find_files import find_files
from minseek.tune import Settings, TuneResult, TuneRun, tune
from minseek.tune.checkpoint import read_checkpoint, write_checkpoint
from minseek.tune.examples import read_examples
from minseek.tune.memory import ProcessMeter
from minseek.tune.model import load_model, read_config
from minseek.tune.optimizers import make_optimizer
from minseek.tune.trainable import select_layers
from minseek.tune.trainer import Trainer
from tests.helpers.gguf_files import write_model
from tests.helpers.loading import greedy_tokens
from tests.helpers.tiny_models import ARCHITECTURES, make_reference, make_tokenizer, save
from tests.helpers.tuning import CPU, FAST, weights_in, with_gradients

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::minseek.MinseekWarning"),
]


def log_of(folder: Path) -> list[dict[str, Any]]:
    """Entries without the values that differ between equal runs."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in line if name not in ("seconds", "memory")} for line in lines]


OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.1, "momentum": 0.8, "schedule": "cosine"},
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
    assert not [item for item in (tmp_path / "out").iterdir() if item.suffix in (".old", ".new")]
    assert [item.name for item in (tmp_path / "out" / "checkpoint").iterdir()] == ["state.pt"]


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


def changed(folder: Path, into: Path) -> Path:
    """Copy a model with larger weights of its norms."""
    shutil.copytree(folder, into)
    for file in into.glob("*.safetensors"):
        stored = load_file(file)
        save_file({name: t * 2 if "norm" in name else t for name, t in stored.items()}, file, {"format": "pt"})
    return into


@pytest.mark.parametrize("kind", ["stale shards", "stale single", "consolidated", "overlay", "named", "mapped overlay"])
def test_tune_reads_the_files_that_reason_reads(kind: str, small: Path, tmp_path: Path) -> None:
    folder, sharded = tmp_path / "model", tmp_path / "sharded"
    AutoModelForCausalLM.from_pretrained(small).save_pretrained(sharded, max_shard_size="20KB")
    other = changed(sharded if kind == "stale shards" else small, tmp_path / "other")
    shutil.copytree(sharded if kind in ("stale single", "overlay", "mapped overlay") else small, folder)
    index = folder / "model.safetensors.index.json"
    if kind == "stale shards":
        for file in other.glob("model*"):
            shutil.copy(file, folder)
    elif kind == "stale single":  # a single file comes first
        shutil.copy(other / "model.safetensors", folder)
    elif kind == "consolidated":
        shutil.copy(other / "model.safetensors", folder / "consolidated.safetensors")
    elif kind == "named":
        shutil.copy(other / "model.safetensors", folder / "tuned.safetensors")
        config = json.loads((folder / "config.json").read_text()) | {"transformers_weights": "tuned.safetensors"}
        (folder / "config.json").write_text(json.dumps(config))
    else:
        changes = {
            name: t for name, t in load_file(other / "model.safetensors").items() if name.endswith("norm.weight")
        }
        save_file(changes, folder / "overlay.safetensors", {"format": "pt"})
        if kind == "mapped overlay":
            mapping = json.loads(index.read_text())
            mapping["weight_map"] |= dict.fromkeys(changes, "overlay.safetensors")
            index.write_text(json.dumps(mapping))
    own = load_model(find_files(str(folder)), read_config("x", folder), torch.float32, CPU)
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for (name, a), b in zip(own.named_parameters(), reference.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_the_output_of_a_model_in_another_file_is_complete(small: Path, text: Path, tmp_path: Path) -> None:
    folder, out = shutil.copytree(small, tmp_path / "model"), tmp_path / "out"
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    config = json.loads((folder / "config.json").read_text()) | {"transformers_weights": "weights.safetensors"}
    (folder / "config.json").write_text(json.dumps(config))
    tune(str(folder), text, out, Settings(**FAST), device="cpu")
    minseek.load(str(out), device="cpu")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{}", "is damaged: it has no weight_map"),
        ('{"weight_map": {"a": "b.safetensors"}}', "its index names b.safetensors, which"),
        (None, "rename other.safetensors if it is the model"),
    ],
)
def test_missing_weight_files_are_named(small: Path, tmp_path: Path, content: str | None, sentence: str) -> None:
    folder = shutil.copytree(small, tmp_path / "copy")
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    if content is not None:
        (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(minseek.InputError, match=sentence):
        find_files(str(folder))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "pytorch_model.bin", "model.gguf"])
def test_pointers_of_git_lfs_are_named(small: Path, text: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(small, tmp_path / "copy")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 16777216\n"
    (folder / name).write_text(pointer)
    model = folder / name if name == "model.gguf" else folder
    for command in (
        lambda: tune(str(model), text, tmp_path / "out", Settings(**FAST), device="cpu"),
        lambda: minseek.load(str(model), device="cpu"),
    ):
        with pytest.raises(minseek.InputError, match=f"{name} is a Git LFS pointer .*: run git lfs pull"):
            command()


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


@pytest.mark.parametrize("variant", ["llama", "qwen3"])
def test_a_gguf_file_is_tuned_as_its_directory_is(variant: str, text: Path, tmp_path: Path) -> None:
    sources = {"folder": save(tmp_path / "model", variant), "file": write_model(tmp_path / "model.gguf", variant)}
    for name, source in sources.items():
        tune(str(source), text, tmp_path / name, Settings(**FAST), device="cpu")
    folder, file = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in sources)
    for (name, a), b in zip(folder.named_parameters(), file.parameters(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    answers = [greedy_tokens(minseek.load(str(tmp_path / name), device="cpu", dtype="float32")) for name in sources]
    assert answers[0] == answers[1]


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
    with pytest.raises(minseek.InputError, match="step 3 is not finite, and no model is written: give a smaller"):
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
def test_wrong_settings_are_refused_in_one_sentence(given: Any, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error) as raised:
        Settings(**given)
    assert str(raised.value) == sentence


def test_settings_hold_numbers_that_json_can_write() -> None:
    settings = Settings(max_length=np.int64(64), lr=np.float32(0.5), epochs=2)
    assert json.loads(json.dumps(asdict(settings)))["max_length"] == 64
    assert settings == Settings(max_length=64, lr=0.5, epochs=2.0)


def test_a_budget_without_a_memory_meter_is_refused(
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
