"""Tiny random models of every supported architecture, with a byte-level tokenizer; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

END, OPEN, CLOSE = "<|end|>", "<think>", "</think>"
TEMPLATES = {
    # the template opens thinking / the model does / there are no tags / the generation prompt is ignored
    "opens": "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}a:<think>\n{% endif %}{# </think> #}",
    "leaves": "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}{# </think> #}",
    "plain": "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}",
    "ignores": "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}<|end|>\n{% endfor %}",
}
SIZES: dict[str, Any] = {
    "vocab_size": 272,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "eos_token_id": 256,
    "bos_token_id": None,
    "pad_token_id": 256,
    "tie_word_embeddings": False,
    "initializer_range": 0.2,
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
VARIANTS: dict[str, tuple[type, dict[str, Any]]] = {
    "llama": (LlamaConfig, {}),
    "llama-tied": (LlamaConfig, {"tie_word_embeddings": True}),
    "llama-mha": (LlamaConfig, {"num_key_value_heads": 6}),
    "llama-biases": (LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
    "llama-linear": (
        LlamaConfig,
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}},
    ),
    "llama-llama3": (LlamaConfig, {"rope_parameters": _LLAMA3}),
    "llama-odd": (LlamaConfig, {"hidden_size": 42, "intermediate_size": 70, "head_dim": 10}),
    "qwen2": (Qwen2Config, {}),
    "qwen2-yarn": (Qwen2Config, {"rope_parameters": _YARN}),
    "qwen2-window": (Qwen2Config, {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1}),
    "qwen3": (Qwen3Config, {}),
    "qwen3-yarn": (Qwen3Config, {"rope_parameters": _YARN, "attention_bias": True}),
    "mistral": (MistralConfig, {"sliding_window": None}),
    "mistral-window": (MistralConfig, {"sliding_window": 24}),
}
ARCHITECTURES = ("llama", "qwen2", "qwen3", "mistral")


def make_tokenizer(template: str = "opens", tags: bool = True) -> PreTrainedTokenizerFast:
    """One token a byte; special tokens for the end and, with `tags`, for each tag."""
    byte_level = pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {character: index for index, character in enumerate(sorted(byte_level))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    one_by_one = pre_tokenizers.Split(Regex(r"."), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([one_by_one, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    if tags:
        tokenizer.add_tokens([OPEN, CLOSE])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=END, chat_template=TEMPLATES[template]
    )


def make_reference(variant: str, *, closes: float = 3.0, **changes: Any) -> Any:
    """A random transformers model; `closes` is how eagerly it writes the end and the close tag."""
    kind, own = VARIANTS[variant]
    config = kind(**{**SIZES, **own, **changes})
    torch.manual_seed(20260109)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.normal_(std=0.2)
        elif "norm" in name:
            parameter.uniform_(0.5, 1.5)
    head = model.lm_head.weight
    head[258] *= closes  # the close tag
    head[256] *= closes / 2  # the end
    model.generation_config.eos_token_id = 256
    return model


def save(folder: Path, variant: str, template: str = "opens", *, tags: bool = True, **changes: Any) -> Path:
    """A directory with a tiny model and its tokenizer."""
    make_reference(variant, **changes).save_pretrained(folder)
    make_tokenizer(template, tags).save_pretrained(folder)
    return folder
