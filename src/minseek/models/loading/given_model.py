"""Models of transformers that are in memory already."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from minseek.errors import InputError
from minseek.models.chat.thinking_format import ThinkingFormat
from minseek.models.config import check_config, from_transformers
from minseek.models.device import resolve_device
from minseek.models.loading.transformers_quirks import quiet, readable_errors
from minseek.models.model import Model
from minseek.models.weights import from_state_dict, pack_contiguous

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def copy_model(
    given: PreTrainedModel,
    tokenizer: Any = None,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    thinking: str | ThinkingFormat | None = None,
) -> Model:
    """Copy a causal language model of transformers; it is not changed, and later changes of it have no effect.

    Parameters
    ----------
    given : PreTrainedModel
    tokenizer : PreTrainedTokenizerBase, optional
        Its tokenizer; the default is read from where the model came from.
    device, dtype
        As in `minseek.load`; ``auto`` is that of the model.
    thinking
        As in `minseek.load`.

    Raises
    ------
    InputError
        If there is no tokenizer, or the architecture or the format of the weights is not supported.
    TypeError
        If it is no such model.
    """
    from transformers import PreTrainedModel

    if not isinstance(given, PreTrainedModel):
        raise TypeError(f"a model is a name, a path or a transformers model, not {type(given).__name__}")
    check_config(given.config)
    if not hasattr(given, "lm_head"):
        raise InputError(f"{type(given).__name__} has no head that predicts tokens: give the model for causal language")
    own_device = str(given.device) if str(device) == "auto" else device
    placement = resolve_device(own_device, given.dtype if str(dtype) == "auto" else dtype)
    origin = str(given.config._name_or_path)
    if tokenizer is None:
        if not origin:
            raise InputError("this model comes from no file, so there is no tokenizer: give one as tokenizer=")
        from transformers import AutoTokenizer

        with readable_errors(f"the tokenizer of {origin!r} could not be loaded; give one as tokenizer="), quiet():
            tokenizer = AutoTokenizer.from_pretrained(origin, trust_remote_code=False)
    copies: dict[int, Tensor] = {}  # by address: tied weights stay tied
    weights = {}
    for name, tensor in given.state_dict().items():
        if tensor.is_floating_point() and tensor.data_ptr() not in copies:
            is_copied_later = placement.device.type == "cpu"  # in one allocation
            copies[tensor.data_ptr()] = tensor.detach().to(placement.device, placement.dtype, copy=not is_copied_later)
        weights[name] = copies.get(tensor.data_ptr(), tensor)
    if placement.device.type == "cpu":
        weights = pack_contiguous(weights)
    name = origin or type(given).__name__
    return Model(name, from_state_dict(from_transformers(given), weights), tokenizer, placement, thinking)
