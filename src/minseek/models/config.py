"""Sizes and constants of a decoder of the Llama family."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from minseek.errors import InputError

VERIFIED = {
    "llama": "Llama, SmolLM2, DeepSeek-R1-Distill-Llama",
    "qwen2": "Qwen2, Qwen2.5, QwQ, DeepSeek-R1-Distill-Qwen",
    "qwen3": "Qwen3 (dense)",
    "mistral": "Mistral",
}
"""Architectures whose logits are tested against the unmodified transformers model."""

_REASONS = {
    "gemma3_text": "it has a rotary embedding per layer type",
    "gemma3": "it has a rotary embedding per layer type",
    "gemma2": "it caps its logits",
    "gemma4": "it has a rotary embedding per layer type",
    "smollm3": "some of its layers have no rotary embedding",
    "phi3": "it rotates only a part of each head",
    "qwen3_5": "it rotates only a part of each head and has linear-attention layers",
    "deepseek_v3": "its latent attention does not store keys and values",
    "deepseek2": "its latent attention does not store keys and values",
    **dict.fromkeys(("qwen2moe", "qwen3moe", "gpt-oss", "llama4"), "it is a mixture of experts"),
}
MODEL_CONFIG_FILE = "minseek.json"
"""File beside a model's weights that `ModelConfig.write` wrote, to load it without transformers' modeling code."""
_STATIC_ROPE = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and constants that a forward pass needs besides the weights.

    Attributes
    ----------
    architecture : str
        A key of `VERIFIED`.
    num_layers, num_heads, num_kv_heads, head_dim : int
    sliding_windows : list of int or None
        Positions that each layer attends to, the current token included; None attends to all.
    rms_norm_eps, attention_scale : float
        Epsilon of RMSNorm; factor on attention scores.
    inv_freq : list of float
        Rotary angles per position, [D/2], with scalings such as YaRN applied.
    rotary_scaling : float
        Factor on cosines and sines (YaRN's attention factor).
    max_positions : int
        Context length the model was trained for.
    eos_token_ids : list of int
        Tokens that end the model's turn, from its generation configuration and its configuration.
    """

    architecture: str
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    sliding_windows: list[int | None]
    rms_norm_eps: float
    attention_scale: float
    inv_freq: list[float]
    rotary_scaling: float
    max_positions: int
    eos_token_ids: list[int]

    def write(self, file: Path) -> None:
        """Write as JSON."""
        file.write_text(json.dumps(asdict(self)))

    @staticmethod
    def read(file: Path) -> ModelConfig:
        """Read a file that `write` wrote."""
        return ModelConfig(**json.loads(file.read_text()))


def check_config(config: Any) -> None:
    """Refuse an architecture that is not verified against the unmodified model, and say why.

    Raises
    ------
    InputError
        If it is not in `VERIFIED`, or uses a rotary scaling or activation that is not supported.
    """
    kind = config.model_type
    if kind not in VERIFIED:
        refuse_architecture(kind)
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope not in _STATIC_ROPE:
        raise InputError(
            f"rotary scaling {rope!r} is not supported: its angles depend on the sequence length; "
            f"supported are {', '.join(_STATIC_ROPE)}"
        )
    if (getattr(config, "rope_parameters", None) or {}).get("partial_rotary_factor", 1.0) != 1.0:
        raise InputError(f"this {kind} model is not supported: it rotates only a part of each head")
    if config.hidden_act != "silu":
        raise InputError(f"the activation {config.hidden_act!r} is not supported: only 'silu' is verified")


def refuse_architecture(kind: str) -> NoReturn:
    """Refuse an architecture that is not in `VERIFIED`.

    Raises
    ------
    InputError
        With the reason.
    """
    reason = _REASONS.get(kind, "its attention has not been verified against the unmodified model")
    raise InputError(f"the architecture {kind!r} is not supported: {reason}; supported are {', '.join(VERIFIED)}")


def from_transformers(model: Any) -> ModelConfig:
    """The config of a loaded transformers model.

    Raises
    ------
    InputError
        If its architecture is not supported.
    """
    config = model.config
    check_config(config)
    attentions = [layer.self_attn for layer in model.model.layers]
    if config.model_type == "mistral":
        windows = [getattr(config, "sliding_window", None)] * len(attentions)
    else:
        windows = [getattr(attention, "sliding_window", None) for attention in attentions]
    return ModelConfig(
        architecture=config.model_type,
        num_layers=len(attentions),
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=attentions[0].head_dim,
        sliding_windows=windows,
        rms_norm_eps=config.rms_norm_eps,
        attention_scale=attentions[0].scaling,
        inv_freq=model.model.rotary_emb.inv_freq.tolist(),
        rotary_scaling=float(model.model.rotary_emb.attention_scaling),
        max_positions=config.max_position_embeddings,
        eos_token_ids=_eos_token_ids(model),
    )


def _eos_token_ids(model: Any) -> list[int]:
    found: set[int] = set()
    for source in (model.generation_config, model.config):
        ids = getattr(source, "eos_token_id", None)
        if ids is not None:
            found.update(ids if isinstance(ids, (list, tuple)) else [ids])
    return sorted(found)
