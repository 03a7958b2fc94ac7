"""Weights of a directory, packed while they are read: memory holds the packed ones and a few rows at a time."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

from minseek.errors import InputError
from minseek.models.config import ModelConfig, check_config, from_transformers
from minseek.models.device import DeviceChoice
from minseek.models.loading.gguf.weights import unpack
from minseek.models.loading.safetensors_rows import SafetensorsRows
from minseek.models.loading.transformers_quirks import quiet, readable_errors
from minseek.models.loading.weight_files import weight_files
from minseek.models.matrix import Matrix, PackedMatrix
from minseek.models.weights import DecoderWeights, from_state_dict
from minseek.native import native_status
from minseek.quant import BlockFormat, pack_matrix
from minseek.quant.pack import format_of_matrix

_OUTER = ("model.embed_tokens.weight", "lm_head.weight")


def pack_folder(name: str, folder: Path, placement: DeviceChoice, form: BlockFormat) -> tuple[DecoderWeights, Any]:
    """Weights with every matrix packed as `minseek quantize` packs it, and the tokenizer.

    On GPUs and without the C kernels the packed matrices are unpacked again, so that the model is the same there.

    Raises
    ------
    InputError
        If the directory cannot be read, or its tensors are not those of its configuration.
    """
    from transformers import AutoTokenizer

    config, shapes = _read_config(name, folder)
    with readable_errors(f"the model {name!r} could not be loaded"), quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    stored = SafetensorsRows(weight_files(folder))
    for key, shape in shapes.items():
        if key not in stored.shapes:
            raise InputError(f"the model {name!r} is incomplete: its files lack the tensor {key!r}")
        if stored.shapes[key] != shape:
            found, expected = list(stored.shapes[key]), list(shape)
            raise InputError(f"the tensor {key!r} of {name!r} is {found}, and the configuration says {expected}")
    stays_packed = placement.device.type == "cpu" and native_status(placement.dtype).library is not None
    weights: dict[str, Matrix] = {}
    for key, shape in shapes.items():
        if len(shape) == 1:
            vector = torch.from_numpy(stored.rows(key, 0, 1)[0])
            weights[key] = vector.to(placement.device, placement.dtype)
            continue
        rows, columns = shape
        own = format_of_matrix(columns, form, is_outer=key in _OUTER)
        try:
            packed = pack_matrix(partial(stored.rows, key), rows, columns, own)
        except InputError as error:
            raise InputError(f"the tensor {key!r} of {name!r} cannot be packed: {error}") from None
        if stays_packed:
            weights[key] = PackedMatrix(packed, placement.dtype)
        else:
            dense = torch.empty(shape, dtype=placement.dtype, device=placement.device)
            unpack(packed, dense)
            weights[key] = dense
    return from_state_dict(config, weights), tokenizer


def _read_config(name: str, folder: Path) -> tuple[ModelConfig, dict[str, tuple[int, ...]]]:
    """Config, and the shapes of all weights by their names; no weight is allocated."""
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    with readable_errors(f"the model {name!r} could not be loaded"), quiet():
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        check_config(config)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its frequencies are needed
        if (folder / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(folder)
        return from_transformers(model), {key: tuple(weight.shape) for key, weight in model.named_parameters()}
