"""Loading of the transformers model to train: its weights in the chosen format, without a second copy in memory."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from minseek.models.config import check_config
from minseek.models.loading.gguf.transformers_model import (
    gguf_tokenizer,
    gguf_transformers_config,
    read_gguf_weights,
)
from minseek.models.loading.transformers_quirks import quiet, readable_errors
from minseek.models.loading.weight_files import weight_files
from minseek.tune.weights import read_weights


def read_config(name: str, source: Path) -> Any:
    """The model's configuration, of a supported architecture."""
    from transformers import AutoConfig

    if source.is_file():
        return gguf_transformers_config(source)
    with readable_errors(f"the model {name!r} could not be loaded"), quiet():
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    check_config(config)
    return config


def read_tokenizer(name: str, source: Path) -> Any:
    """The model's tokenizer."""
    from transformers import AutoTokenizer

    if source.is_file():
        return gguf_tokenizer(source)
    with readable_errors(f"the model {name!r} could not be loaded"), quiet():
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)


def build(config: Any, dtype: torch.dtype) -> Any:
    """A model with arbitrary weights on the default device, without dropout, which is for training from scratch."""
    from transformers import AutoModelForCausalLM

    with quiet():
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    return model.eval()


def load_model(source: Path, config: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """Make a model and read its weights, one by one, into place.

    Raises
    ------
    InputError
        If the files are damaged or do not match the configuration.
    """
    with torch.device("meta"):
        model = build(config, dtype)
    _allocate(model, device)
    rotary = model.model.rotary_emb
    with torch.device(device):
        model.model.rotary_emb = type(rotary)(config)
    into = {name: weight.detach() for name, weight in model.named_parameters(remove_duplicate=False)}
    tied = model.lm_head.weight is model.model.embed_tokens.weight
    if source.is_file():
        read_gguf_weights(source, into)
    else:
        read_weights(weight_files(source), into, optional={"lm_head.weight"} if tied else set())
    return model


def checkpoint_layers(model: Any) -> None:
    """Keep only the input and output of each layer, and compute the rest again for its gradients."""
    for layer in model.model.layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)


def _allocate(module: nn.Module, device: torch.device) -> None:
    """Replace weights on the meta device by uninitialized ones; shared weights stay shared."""
    made: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, weight in part.named_parameters(recurse=False):
            if id(weight) not in made:
                made[id(weight)] = nn.Parameter(torch.empty_like(weight, device=device), requires_grad=False)
            setattr(part, name, made[id(weight)])
