"""Loading of models by name."""

from __future__ import annotations

import math
import re
import threading
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from minseek.errors import InputError, check_type
from minseek.models.chat.thinking_format import ThinkingFormat, check_format_name
from minseek.models.config import MODEL_CONFIG_FILE, ModelConfig, check_config, from_transformers
from minseek.models.device import DeviceChoice, resolve_device
from minseek.models.loading.aliases import ALIASES, TINY, alias_file
from minseek.models.loading.download import local_files
from minseek.models.loading.gguf.config import config_of
from minseek.models.loading.gguf.tokenizer_cache import tokenizer_of
from minseek.models.loading.gguf.weights import map_weights, unpack_weights
from minseek.models.loading.pack_folder import pack_folder
from minseek.models.loading.packed_safetensors import packed_bytes, read_packed
from minseek.models.loading.recommended import read_recommended
from minseek.models.loading.transformers_quirks import check_complete, quiet, readable_errors
from minseek.models.loading.weight_files import check_downloaded, weight_files
from minseek.models.memory_budget import check_measurable, check_weights_fit
from minseek.models.model import Model
from minseek.models.process_memory import return_freed_memory, trim_heap
from minseek.models.weights import DecoderWeights, from_state_dict, pack_contiguous
from minseek.native import instruction_set, native_status
from minseek.quant import BLOCK_FORMATS, BlockFormat, open_gguf
from minseek.units import parse_bytes

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def load(
    name: str | PathLike[str] | PreTrainedModel,
    *,
    tokenizer: Any = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    weights: str = "auto",
    thinking: str | ThinkingFormat | None = None,
    memory: int | str | None = None,
) -> Model:
    """Load a model and its tokenizer.

    Parameters
    ----------
    name : str, path or PreTrainedModel
        An alias (``tiny``, ``smollm2``), a directory, a ``.gguf`` file, or the id of a model on the Hugging Face Hub.
        Or a causal language model of transformers that is in memory: its weights are copied.
    tokenizer : PreTrainedTokenizerBase, optional
        Tokenizer of a model of transformers; the default is read from where that model came from.
    device : str or torch.device
        ``auto`` (CUDA if there is one; of a model of transformers its own), ``cpu``, ``cuda``, ``cuda:1`` …
    dtype : str or torch.dtype
        ``auto`` (bfloat16 where the device or our C kernels are fast with it, else float32; of a model of transformers
        its own), ``bfloat16``, ``float16`` or ``float32``.
    weights : str
        ``auto`` leaves the matrices of a GGUF file packed, as views of the file that kernels read as they are;
        ``dense`` unpacks them into `dtype`, as happens on GPUs and without the kernels. A format, such as ``q8_0`` or
        ``q4_k`` (see `minseek.quant.BLOCK_FORMATS`), packs the matrices of a directory while they are read.
    thinking : str, ThinkingFormat or None
        Format of the model's thinking; None takes it from the chat template.
    memory : int or str, optional
        Bytes that the whole process may take, such as "2GB", in every run of the model: interpreter, libraries,
        weights, activations and cache. A call may lower it.

    Raises
    ------
    InputError
        If there is no such model, it cannot be read, its architecture is not supported, or the memory does not hold its
        weights (a `ValueError`).
    TypeError
        If an argument has a wrong type.
    """
    form = _weight_format(weights)
    budget = None if memory is None else parse_bytes(memory)
    if budget is not None:
        check_measurable(budget)
        return_freed_memory()
    if not isinstance(name, (str, PathLike)):
        from minseek.models.loading.given_model import copy_model

        model = copy_model(name, tokenizer, device=device, dtype=dtype, thinking=thinking)
        model.memory = budget
        return model
    if tokenizer is not None:
        raise InputError("tokenizer has no effect on a model that is read from files: leave it out")
    name = fspath(name)
    placement = resolve_device(device, dtype)
    source = find_source(name)
    if isinstance(thinking, str):
        check_format_name(thinking)
    recommended = read_recommended(source)
    if placement.device.type == "cpu":
        instruction_set()  # an error here and now if MINSEEK_ISA names none
        # Build the C kernels, once per machine, while the weights are read.
        threading.Thread(target=native_status, args=(placement.dtype,), daemon=True).start()
    if source.is_file():
        if form is not None:
            raise InputError(
                f"{source.name} is packed already: weights are 'auto' or 'dense' for a GGUF file, not {weights!r}; "
                "minseek quantize packs it again"
            )
        decoder_weights, tokenizer = _read_gguf(source, placement, budget, dense=weights == "dense")
    elif form is not None:
        decoder_weights, tokenizer = pack_folder(name, local_files(name, source), placement, form)
    elif source == TINY:
        decoder_weights, tokenizer = _read_converted(TINY, placement)
    else:
        _check_memory(name, source, placement, budget)
        decoder_weights, tokenizer = _read(name, source, placement)
    model = Model(name, decoder_weights, tokenizer, placement, thinking, recommended)
    model.memory = budget
    return model


def _check_memory(name: str, folder: Path, placement: DeviceChoice, budget: int | None) -> None:
    """Refuse weights that a budget of memory does not hold, before they are read; a plan refuses the rest."""
    if budget is None or not folder.is_dir():
        return
    with readable_errors(f"the model {name!r} could not be loaded"):
        size = packed_bytes(weight_files(folder), placement.dtype)
    check_weights_fit(name, size, budget, placement.device)


def _weight_format(weights: str) -> BlockFormat | None:
    """The format to pack in, or None for "auto" and "dense"."""
    check_type("weights must be a string", weights, str)
    if weights in ("auto", "dense"):
        return None
    if weights not in BLOCK_FORMATS:
        raise InputError(f"weights are auto, dense or a format ({', '.join(BLOCK_FORMATS)}), not {weights!r}")
    return BLOCK_FORMATS[weights]


def find_source(name: str) -> Path:
    """Path of a model's directory or GGUF file, or its Hub id as a path.

    Raises
    ------
    InputError
        If there is no such model.
    """
    if not name.strip():
        raise InputError(
            f"the model's name is empty, {name!r}: give an alias ({', '.join(ALIASES)}), a path or a Hub id"
        )
    if name in ALIASES:
        file = alias_file(name)
        if file is None:
            raise InputError(f"the model {name!r} is not installed: run {ALIASES[name][1]}")
        return file
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(f"the directory {name} holds no model: it has no config.json")
        check_downloaded(path)
        return path
    if path.is_file():
        if path.suffix != ".gguf":
            raise InputError(f"the file {name} is not a model: give a .gguf file or a directory with a config.json")
        check_downloaded(path)
        return path
    if name.endswith(".gguf") or not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        raise InputError(
            f"there is no model {name!r}: give an alias ({', '.join(ALIASES)}), a directory, a .gguf file "
            "or a Hub id such as Qwen/Qwen3-0.6B"
        )
    return Path(name)


def _read(name: str, source: Path, placement: DeviceChoice) -> tuple[DecoderWeights, Any]:
    """Read a directory or Hub id through transformers, without keeping its model."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    where, local = source.as_posix(), source.exists()  # a download shows its progress
    with readable_errors(f"the model {name!r} could not be loaded"), quiet(bars=not local):
        config = AutoConfig.from_pretrained(where, trust_remote_code=False)
        check_config(config)
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
        model, found = AutoModelForCausalLM.from_pretrained(
            where, config=config, dtype=placement.dtype, output_loading_info=True
        )
    check_complete(name, found)
    config, weights = from_transformers(model), model.to(placement.device).state_dict()
    del model  # its weights are freed one by one as they are packed
    return from_state_dict(config, _on_huge_pages(weights, placement)), tokenizer


def _read_gguf(source: Path, placement: DeviceChoice, budget: int | None, *, dense: bool) -> tuple[DecoderWeights, Any]:
    """Read a GGUF file; the tokenizer first, which needs no weights to be refused."""
    file = open_gguf(source)
    config = config_of(file)
    stays_packed = not dense and placement.device.type == "cpu" and native_status(placement.dtype).library is not None
    if budget is not None:
        size = file.nbytes
        if not stays_packed:
            size = sum(math.prod(shape) for shape in file.shapes.values()) * placement.dtype.itemsize
        check_weights_fit(source.name, size, budget, placement.device)
    tokenizer = tokenizer_of(file)
    trim_heap()  # parsing left ten times the tokenizer's file, which would lie beside the weights
    if stays_packed:
        return from_state_dict(config, map_weights(file, config, placement.dtype)), tokenizer
    return from_state_dict(config, unpack_weights(file, config, placement)), tokenizer


def _read_converted(folder: Path, placement: DeviceChoice) -> tuple[DecoderWeights, Any]:
    """Read a directory with a `ModelConfig`, without importing transformers' modeling code."""
    from transformers import PreTrainedTokenizerFast

    with readable_errors(f"the converted model in {folder} is damaged: remove that folder"):
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        trim_heap()  # parsing left ten times the tokenizer's file, which would lie beside the weights
        config = ModelConfig.read(folder / MODEL_CONFIG_FILE)
        weights = read_packed(folder / "model.safetensors", placement.dtype)
        if placement.device.type != "cpu":
            weights = {name: tensor.to(placement.device) for name, tensor in weights.items()}
        return from_state_dict(config, weights), tokenizer


def _on_huge_pages(weights: dict[str, Tensor], placement: DeviceChoice) -> dict[str, Tensor]:
    """Weights packed on huge pages if they are in main memory, which every pass reads."""
    return pack_contiguous(weights) if placement.device.type == "cpu" else weights
