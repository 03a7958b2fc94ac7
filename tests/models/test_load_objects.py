"""`minseek.load` of paths, of torch's devices and dtypes, and of transformers models that are in memory."""

from __future__ import annotations

import pathlib
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaModel

import minseek
from minseek import InputError
from tests.helpers.tiny_models import VARIANTS, make_reference, make_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")
TEXT = "The cat sat on the mat, "


def logits(model: minseek.Model) -> torch.Tensor:
    return model.session().forward(model.encode(TEXT))


def test_a_path_a_device_and_a_dtype(tiny: minseek.Model, tiny_folders: dict[str, Path]) -> None:
    folder = tiny_folders["llama"]
    for name in (folder, pathlib.PurePosixPath(folder)):
        model = minseek.load(name, device=torch.device("cpu"), dtype=torch.float32)
        assert model.name == str(folder)
        assert model.placement.dtype is torch.float32
        assert torch.equal(logits(model), logits(tiny))
    assert minseek.load(folder, device="cpu", dtype=torch.bfloat16).placement.dtype is torch.bfloat16


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"dtype": torch.float64}, InputError, "unknown dtype 'float64'"),
        ({"dtype": 16}, TypeError, "dtype must be a name, as 'bfloat16', or a torch.dtype, not 16"),
        ({"device": 0}, TypeError, "device must be a name, as 'cpu', or a torch.device, not 0"),
        ({"device": torch.device("meta")}, InputError, "'meta' is not supported"),
        ({"tokenizer": "x"}, InputError, "tokenizer has no effect"),
    ],
)
def test_wrong_options(tiny_folders: dict[str, Path], options: dict[str, Any], error: type, said: str) -> None:
    with pytest.raises(error, match=said):
        minseek.load(tiny_folders["llama"], **options)


@pytest.mark.parametrize("value", [None, 3, b"smollm2", torch.nn.Linear(2, 2)])
def test_what_is_no_model(value: Any) -> None:
    with pytest.raises(TypeError, match="a model is a name, a path or a transformers model, not"):
        minseek.load(value)


@pytest.mark.parametrize("variant", ["llama", "llama-tied", "qwen2", "qwen3", "mistral-window"])
def test_a_transformers_model_gives_its_own_logits(variant: str) -> None:
    reference = make_reference(variant)
    model = minseek.load(reference, tokenizer=make_tokenizer())
    assert (model.placement.device, model.placement.dtype) == (reference.device, torch.float32)
    assert model.architecture == VARIANTS[variant][0].model_type
    expected = reference(torch.tensor([model.encode(TEXT)])).logits[0, -1]
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
    assert model.eos_token_ids == {256}


def test_the_copy_and_the_original_do_not_depend_on_each_other() -> None:
    reference = make_reference("llama-tied")
    before = {name: tensor.clone() for name, tensor in reference.state_dict().items()}
    model = minseek.load(reference, tokenizer=make_tokenizer(), dtype="bfloat16")
    assert model.placement.dtype is torch.bfloat16
    assert model.weight_bytes == 2 * sum(p.numel() for p in reference.parameters())  # tied weights count once
    seen = logits(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in reference.state_dict().items())
    for parameter in reference.parameters():
        parameter.zero_()
    assert torch.equal(logits(model), seen)


def test_the_tokenizer_comes_from_where_the_model_came_from(tiny: minseek.Model, tiny_folders: dict[str, Path]) -> None:
    folder = tiny_folders["llama"]
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = minseek.load(reference)
    assert torch.equal(logits(model), logits(tiny))
    assert model.name == str(folder)
    assert model.thinking == tiny.thinking
    greedy = minseek.Sampling(temperature=0)
    limits = minseek.Limits(max_thought_tokens=8, answer_tokens=8)
    strategy = minseek.MinSeek(2)
    answers = [minseek.reason(m, "Why?", strategy=strategy, sampling=greedy, limits=limits) for m in (model, tiny)]
    assert answers[0].tokens == answers[1].tokens
    assert minseek.load(reference, tokenizer=AutoTokenizer.from_pretrained(folder)).encode(TEXT) == tiny.encode(TEXT)


def test_models_that_cannot_be_copied_are_refused() -> None:
    with pytest.raises(InputError, match="comes from no file, so there is no tokenizer: give one as tokenizer="):
        minseek.load(make_reference("llama"))
    with pytest.raises(InputError, match="LlamaModel has no head that predicts tokens"):
        minseek.load(make_reference("llama").model, tokenizer=make_tokenizer())
    config, _ = VARIANTS["llama"]
    assert issubclass(type(make_reference("llama").model), LlamaModel)
    double = make_reference("llama").double()
    with pytest.raises(InputError, match="unknown dtype 'float64'"):
        minseek.load(double, tokenizer=make_tokenizer())
    assert minseek.load(double, tokenizer=make_tokenizer(), dtype="float32").placement.dtype is torch.float32
    assert config.model_type == "llama"
