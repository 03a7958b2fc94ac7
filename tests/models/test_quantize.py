"""Packing of models into GGUF files: what is written is read by minseek, by transformers' rules and by llama.cpp."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import minseek
from minseek import InputError, MinseekWarning
from minseek.models.export.quantize import plan_packing
from minseek.models.loading.gguf.tokenizer_cache import tokenizer_of
from minseek.native import cache_folder
from minseek.quant import BLOCK_FORMATS, block_format, open_gguf, pack, quantize
from tests.helpers.gguf_files import WRITABLE_VARIANTS, neighbors, sentencepiece_file, use_empty_cache
from tests.helpers.loading import load_cpu
from tests.helpers.odd_text import ODD_LINES, ODD_PAGE
from tests.helpers.tiny_models import ARCHITECTURES, make_reference, save

pytestmark = pytest.mark.usefixtures("one_thread")
PEER = cache_folder() / "peers" / "llama" / "bin" / "python"
VARIANTS = (*WRITABLE_VARIANTS, "mistral-window")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache folder."""
    use_empty_cache(tmp_path, monkeypatch)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_dense_file_is_the_model_itself(tmp_path: Path, variant: str) -> None:
    folder = save(tmp_path / "model", variant)
    file = quantize(folder, tmp_path / "model.gguf", weights="f32")
    directory, packed = load_cpu(folder), load_cpu(file)
    ids = torch.randint(0, 256, (100,), generator=torch.manual_seed(3)).tolist()
    logits = [model.session().forward(ids) for model in (directory, packed)]
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-4)
    for line in [*ODD_LINES, ODD_PAGE]:
        assert packed.encode(line) == directory.encode(line)
    assert packed.eos_token_ids >= directory.eos_token_ids  # transformers' tokenizer of Qwen adds one of its own
    assert packed.tokenizer.chat_template == directory.tokenizer.chat_template
    assert packed.max_positions == directory.max_positions
    assert packed.weights.config.sliding_windows == directory.weights.config.sliding_windows


@pytest.mark.parametrize("name", BLOCK_FORMATS)
def test_weights_of_every_format_are_those_of_pack(tmp_path: Path, name: str) -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 4}
    folder = save(tmp_path / "model", "llama", **sizes)
    stored = load_file(folder / "model.safetensors")
    opened = open_gguf(quantize(str(folder), str(tmp_path / "model.gguf"), weights=name))
    form = block_format(name)
    outer = form if form.bits_per_weight >= 6.5 else block_format("q6_k")
    expected = {
        "blk.0.ffn_down.weight": pack(stored["model.layers.0.mlp.down_proj.weight"].numpy(), form),
        "blk.0.attn_q.weight": pack(neighbors(stored["model.layers.0.self_attn.q_proj.weight"].numpy(), 16), form),
        "token_embd.weight": pack(stored["model.embed_tokens.weight"].numpy(), outer),
        "output.weight": pack(stored["lm_head.weight"].numpy(), outer),
        "output_norm.weight": pack(stored["model.norm.weight"].numpy()[None], block_format("f32")),
    }
    for key, packed in expected.items():
        assert opened.tensors[key].format is packed.format
        np.testing.assert_array_equal(opened.tensors[key].data, packed.data)
    assert load_cpu(opened.path).session().forward([1, 2, 3]).isfinite().all()


def test_what_cannot_be_packed_as_asked_is_said(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", "llama")
    said = plan_packing(folder, "q4_k").describe()  # rows of 48, 80 and 96
    assert "18 matrices in f16, 3 matrices in q5_0, the embedding in f16" in said
    assert "rows of 48 and 80 and 96 are no whole blocks of 256" in said
    assert "bits a weight" in said


def test_a_gguf_file_is_packed_again_with_its_metadata(tmp_path: Path) -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 4}
    dense = quantize(save(tmp_path / "model", "qwen3", **sizes), tmp_path / "dense.gguf", weights="f32")
    first = quantize(dense, tmp_path / "first.gguf", weights="q8_0")
    with pytest.warns(MinseekWarning, match="tensors of the model are packed in q8_0 already"):
        second = quantize(first, tmp_path / "second.gguf", weights="q4_k")
    files = [open_gguf(path) for path in (dense, first, second)]
    for file in files[1:]:
        assert {k: file.stored_entry(k) for k in file.metadata if k != "general.file_type"} == {
            k: files[0].stored_entry(k) for k in files[0].metadata if k != "general.file_type"
        }
    name = "blk.0.ffn_up.weight"
    np.testing.assert_array_equal(
        files[2].tensors[name].data, pack(files[1].tensors[name].dequantize(), block_format("q4_k")).data
    )
    assert load_cpu(second).encode(ODD_PAGE) == load_cpu(dense).encode(ODD_PAGE)


def test_a_sentencepiece_tokenizer_survives(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", "llama")
    tokenizer = tokenizer_of(open_gguf(sentencepiece_file(tmp_path / "spm.gguf")))
    for file in folder.glob("*token*"):
        file.unlink()
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(folder)
    again = load_cpu(quantize(folder, tmp_path / "model.gguf", weights="f32")).tokenizer
    for text in ("ab aba  baab a", " a b", "abé", "<s>a</s><tool>b", ""):
        assert again.encode(text) == tokenizer.encode(text)
        assert again.decode(again.encode(text)) == tokenizer.decode(tokenizer.encode(text))


# refusals


@pytest.mark.parametrize(
    ("out", "weights", "said"),
    [
        ("model.bin", "q4_k", "give 'model.bin' the ending .gguf"),
        ("model", "q4_k", "give 'model' the ending .gguf"),
        ("none/model.gguf", "q4_k", "there is no directory .*none"),
        ("there.gguf", "q4_k", "there.gguf exists: give another name, or overwrite it"),
        ("model.gguf", "q9_k", "no format of weights 'q9_k'"),
        ("model.gguf", "auto", "no format of weights 'auto'"),
    ],
)
def test_a_wrong_request_is_refused(
    tmp_path: Path, tiny_folders: dict[str, Path], out: str, weights: str, said: str
) -> None:
    (tmp_path / "there.gguf").write_text("before")
    with pytest.raises(InputError, match=said):
        quantize(tiny_folders["llama"], tmp_path / out, weights=weights)
    assert (tmp_path / "there.gguf").read_text() == "before"


def test_a_file_is_replaced_if_that_is_said(tmp_path: Path, tiny_folders: dict[str, Path]) -> None:
    (tmp_path / "there.gguf").write_text("before")
    quantize(tiny_folders["llama"], tmp_path / "there.gguf", weights="q8_0", overwrite=True)
    assert load_cpu(tmp_path / "there.gguf").architecture == "llama"


def test_weights_that_are_not_finite_leave_no_file(tmp_path: Path, tiny_folders: dict[str, Path]) -> None:
    folder = shutil.copytree(tiny_folders["llama"], tmp_path / "model")
    stored = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    stored["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"'blk\.1\.ffn_up\.weight' cannot be packed: weights must be finite"):
        quantize(folder, tmp_path / "model.gguf", weights="q4_0")
    assert [path.name for path in tmp_path.glob("*.gguf*")] == []
    assert not list(tmp_path.glob(".model*"))


def test_a_full_disk_is_told_first(
    tmp_path: Path, tiny_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(InputError, match="its disk has 10 B free"):
        quantize(tiny_folders["qwen2"], tmp_path / "model.gguf", weights="q4_0")


def test_what_a_gguf_file_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="only some of its layers have a sliding window"):
        quantize(save(tmp_path / "model", "qwen2-window"), tmp_path / "model.gguf", weights="f32")
    folder = save(tmp_path / "other", "llama")
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["normalizer"] = {"type": "Lowercase"}
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match="it has the normalizer Lowercase"):
        quantize(folder, tmp_path / "model.gguf", weights="f32")


# llama.cpp

_LLAMA_CPP = """
import json, sys
from llama_cpp import Llama
model = Llama(sys.argv[1], n_ctx=64, verbose=False, n_threads=1, logits_all=True)
ids = json.loads(sys.argv[2])
model.eval(ids)
texts = json.loads(sys.argv[3])
tokens = [model.tokenize(text.encode(), add_bos=False, special=True) for text in texts]
print(json.dumps({"logits": model.scores[len(ids) - 1].tolist(), "tokens": tokens}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not PEER.exists(), reason="llama.cpp is not here: bash bench/peers/setup.sh llama")
@pytest.mark.parametrize("variant", [*ARCHITECTURES[:3], "llama-llama3", "qwen2-yarn"])
def test_llama_cpp_computes_the_same_from_it(tmp_path: Path, variant: str) -> None:
    sizes = {"hidden_size": 192, "num_attention_heads": 12, "intermediate_size": 256, "initializer_range": 0.06}
    folder = save(tmp_path / "model", variant, **sizes)
    ids, texts = list(range(30, 60)), [line for line in ODD_LINES if "\\u0301" not in ascii(line)]
    for weights in ("f32", "q8_0", "q4_k"):
        file = quantize(folder, tmp_path / f"{weights}.gguf", weights=weights)
        command = [str(PEER), "-c", _LLAMA_CPP, str(file), json.dumps(ids), json.dumps(texts)]
        theirs = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        model = load_cpu(file)
        ours = model.session().forward(ids)
        off = (torch.tensor(theirs["logits"]) - ours).norm() / ours.norm()
        assert off < (0.01 if weights == "f32" else 0.05), weights  # an f16 cache; activations in 8 bits
        assert theirs["tokens"] == [model.encode(text) for text in texts]


def test_the_tiny_reasoner_keeps_its_answers(tmp_path: Path) -> None:
    file = quantize("tiny", tmp_path / "tiny.gguf", weights="q8_0")
    model = load_cpu(file)
    assert file.stat().st_size < 4_000_000
    run = minseek.reason(model, "Compute 3+4*2", sampling=minseek.Sampling(temperature=0))
    assert (
        run.answer == minseek.reason(load_cpu("tiny"), "Compute 3+4*2", sampling=minseek.Sampling(temperature=0)).answer
    )


def test_tied_embeddings_are_stored_once(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", "llama-tied")
    assert "output.weight" not in open_gguf(quantize(folder, tmp_path / "m.gguf", weights="q8_0")).tensors
    assert make_reference("llama-tied").config.tie_word_embeddings
