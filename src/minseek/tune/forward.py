"""Forward pass through the layers of a transformers model, with causal attention over sequences padded on the right.

The model's own forward pass makes masks that depend on what traces it: a plan would count tensors that a run does not
hold.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def hidden_states(model: Any, embedded: Tensor) -> Tensor:
    """Hidden states after the last norm.

    Parameters
    ----------
    model
        A causal language model of a supported architecture, with attention "sdpa".
    embedded : Tensor
        [B, T, hidden_size].

    Returns
    -------
    Tensor
        [B, T, hidden_size].
    """
    body, length = model.model, embedded.shape[1]
    positions = torch.arange(length, device=embedded.device)[None]
    rotary = body.rotary_emb(embedded, position_ids=positions)
    masks: dict[int, Tensor] = {}
    states = embedded
    for layer in body.layers:
        window = _window(model.config, layer)
        mask = None  # causal attention needs none
        if window is not None and length > window:
            if window not in masks:
                back = positions[0, :, None] - positions
                masks[window] = ((back >= 0) & (back < window))[None, None]
            mask = masks[window]
        states = layer(states, attention_mask=mask, position_ids=positions, position_embeddings=rotary)
    final: Tensor = body.norm(states)
    return final


def _window(config: Any, layer: Any) -> int | None:
    """Sliding window of a layer in tokens, its own included; None without one."""
    owner = config if config.model_type == "mistral" else layer.self_attn
    window: int | None = getattr(owner, "sliding_window", None)
    return window
