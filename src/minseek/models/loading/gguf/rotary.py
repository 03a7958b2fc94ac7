"""Rotary frequencies of a GGUF file, with the scalings that its metadata and its tensors describe."""

from __future__ import annotations

import math

import torch

from minseek.errors import InputError
from minseek.quant import GGUFFile

FACTORS = "rope_freqs.weight"
"""Tensor of divisors of the frequencies, with which llama.cpp stores the llama3 scaling."""


def scaled_frequencies(file: GGUFFile, head_dim: int, context: int) -> tuple[list[float], float]:
    """Angles per position, [D/2], and the factor on cosines and sines, both as llama.cpp and transformers compute them.

    Linear scaling divides all frequencies; YaRN (Peng et al., arXiv 2309.00071) divides the low ones, and interpolates
    between `beta_fast` and `beta_slow` rotations over the original context; llama3 scaling is a tensor of divisors.

    Raises
    ------
    InputError
        If the scaling is of another kind or damaged.
    """
    kind = file.architecture
    base = file.optional(f"{kind}.rope.freq_base", float, 10000.0)
    scaling = file.optional(f"{kind}.rope.scaling.type", str, "none")
    factor = file.optional(f"{kind}.rope.scaling.factor", float, 0.0)
    factor = factor or file.optional(f"{kind}.rope.scale_linear", float, 1.0)  # the key of early files
    if not (base > 1 and factor > 0 and math.isfinite(base) and math.isfinite(factor)):
        raise InputError(f"{file.path} is damaged: its rotary embedding has the base {base} and the factor {factor}")
    if any(name.startswith("rope_factors_") for name in file.tensors):
        raise InputError(f"{file.path} is not supported: its rotary scaling (longrope) depends on the sequence length")
    inv_freq = 1.0 / (base ** (torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim))
    attention_factor = 1.0
    if scaling in ("linear", "none", ""):
        if scaling == "linear" or f"{kind}.rope.scaling.type" not in file.metadata:
            inv_freq = inv_freq / factor
    elif scaling == "yarn":
        inv_freq = _yarn(file, inv_freq, base, factor, context)
        attention_factor = 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0
        for suffix in ("attn_factor", "yarn_attn_factor"):
            attention_factor *= file.optional(f"{kind}.rope.scaling.{suffix}", float, 1.0)
    else:
        raise InputError(
            f"{file.path} is not supported: its rotary scaling is {scaling!r:.40}; none, linear and yarn are"
        )
    if FACTORS in file.tensors:
        divisors = torch.from_numpy(file.tensors[FACTORS].dequantize().ravel())
        if divisors.shape != inv_freq.shape or not (divisors > 0).all():
            raise InputError(f"{file.path} is damaged: its {FACTORS} holds no {len(inv_freq)} positive numbers")
        inv_freq = inv_freq / divisors
    return inv_freq.tolist(), attention_factor


def _yarn(file: GGUFFile, inv_freq: torch.Tensor, base: float, factor: float, context: int) -> torch.Tensor:
    prefix, size = f"{file.architecture}.rope.scaling", 2 * len(inv_freq)
    original = file.optional(f"{prefix}.original_context_length", int, context)
    fast = file.optional(f"{prefix}.yarn_beta_fast", float, 32.0)
    slow = file.optional(f"{prefix}.yarn_beta_slow", float, 1.0)
    share = file.optional(f"{prefix}.yarn_ext_factor", float, 1.0)
    if not (original > 0 and 0 < slow <= fast < math.inf and 0 <= share <= 1):
        raise InputError(
            f"{file.path} is damaged: its YaRN scaling has the original context {original}, the betas {fast} and "
            f"{slow}, and the extrapolation factor {share}"
        )

    def dimension(rotations: float) -> float:
        return size * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low = max(math.floor(dimension(fast)), 0)
    high = min(math.ceil(dimension(slow)), size - 1)
    ramp = (torch.arange(len(inv_freq), dtype=torch.float32) - low) / (high - low or 0.001)
    unscaled = (1 - ramp.clamp(0, 1)) * share
    return inv_freq / factor * (1 - unscaled) + inv_freq * unscaled
