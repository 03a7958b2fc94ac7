"""The Llama architecture for fast training on a CPU, saved as a transformers model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class LlamaSize:
    """Sizes and constants of a Llama."""

    vocab_size: int
    hidden_size: int = 256
    intermediate_size: int = 768
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int = 2
    max_positions: int = 512
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        """Width of an attention head."""
        return self.hidden_size // self.num_heads


class Layer(nn.Module):
    """Attention within each trace of a row, and a SwiGLU MLP."""

    def __init__(self, size: LlamaSize) -> None:
        super().__init__()
        self.size = size
        width = (size.num_heads + 2 * size.num_kv_heads) * size.head_dim
        self.qkv = nn.Parameter(torch.randn(width, size.hidden_size) * size.hidden_size**-0.5)
        self.out = nn.Parameter(torch.zeros(size.hidden_size, size.hidden_size))
        self.up = nn.Parameter(torch.randn(2 * size.intermediate_size, size.hidden_size) * size.hidden_size**-0.5)
        self.down = nn.Parameter(torch.zeros(size.hidden_size, size.intermediate_size))
        self.norm_in, self.norm_out = (nn.Parameter(torch.ones(size.hidden_size)) for _ in range(2))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """x: [B, T, hidden], bf16; cos, sin: [B, 1, T, D / 2]; mask: [B, 1, T, T], 0 or -inf."""
        s, (B, T, _) = self.size, x.shape
        qkv = F.linear(_rms_norm(x, self.norm_in, s.rms_norm_eps), self.qkv.to(x.dtype))
        q, k, v = qkv.view(B, T, -1, s.head_dim).transpose(1, 2).split((s.num_heads, s.num_kv_heads, s.num_kv_heads), 1)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        k, v = (t.repeat_interleave(s.num_heads // s.num_kv_heads, 1) for t in (k, v))
        # Written out: the fused kernel's backward pass is several times slower on a CPU at these lengths.
        weights = ((q @ k.transpose(-1, -2)).float() * s.head_dim**-0.5 + mask).softmax(-1).to(v.dtype)
        x = x + F.linear((weights @ v).transpose(1, 2).reshape(B, T, -1), self.out.to(x.dtype))
        gate, up = F.linear(_rms_norm(x, self.norm_out, s.rms_norm_eps), self.up.to(x.dtype)).chunk(2, -1)
        return x + F.linear(F.silu(gate) * up, self.down.to(x.dtype))


class Network(nn.Module):
    """The whole model, with a tied embedding."""

    def __init__(self, size: LlamaSize) -> None:
        super().__init__()
        self.size = size
        self.embedding = nn.Parameter(torch.randn(size.vocab_size, size.hidden_size) * 0.02)
        self.layers = nn.ModuleList(Layer(size) for _ in range(size.num_layers))
        self.norm = nn.Parameter(torch.ones(size.hidden_size))
        frequencies = size.rope_theta ** -(torch.arange(0, size.head_dim, 2) / size.head_dim)
        angles = torch.arange(size.max_positions)[:, None] * frequencies
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, tokens: Tensor, positions: Tensor, trace_ids: Tensor, targets: Tensor) -> Tensor:
        """Mean loss over targets that are not -100; all [B, T]; `trace_ids` tell the traces of a row apart."""
        x = F.embedding(tokens, self.embedding).to(torch.bfloat16)
        cos, sin = (table[positions].to(x.dtype)[:, None] for table in (self.cos, self.sin))
        T = tokens.shape[1]
        causal = torch.ones(T, T, dtype=torch.bool, device=x.device).tril()
        visible = (trace_ids[:, :, None] == trace_ids[:, None, :]) & causal
        mask = torch.zeros(visible.shape, device=x.device).masked_fill(~visible, float("-inf"))[:, None]
        for layer in self.layers:
            x = layer(x, cos, sin, mask)
        logits = F.linear(_rms_norm(x, self.norm, self.size.rms_norm_eps), self.embedding.to(x.dtype)).float()
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)

    def parameter_groups(self) -> tuple[list[Tensor], list[Tensor]]:
        """Matrices of the layers, and all other parameters."""
        matrices = [p for layer in self.layers for p in layer.parameters() if p.ndim == 2]
        chosen = {id(p) for p in matrices}
        return matrices, [p for p in self.parameters() if id(p) not in chosen]

    def save(self, folder: Path) -> None:
        """Write a bfloat16 model that transformers loads."""
        from transformers import LlamaConfig, LlamaForCausalLM

        s = self.size
        config = LlamaConfig(
            vocab_size=s.vocab_size,
            hidden_size=s.hidden_size,
            intermediate_size=s.intermediate_size,
            num_hidden_layers=s.num_layers,
            num_attention_heads=s.num_heads,
            num_key_value_heads=s.num_kv_heads,
            head_dim=s.head_dim,
            max_position_embeddings=s.max_positions,
            rms_norm_eps=s.rms_norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": s.rope_theta},
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=0,
        )
        model = LlamaForCausalLM(config)
        weights = {"model.embed_tokens.weight": self.embedding, "model.norm.weight": self.norm}
        for index, layer in enumerate(self.layers):
            q, k, v = layer.qkv.split([n * s.head_dim for n in (s.num_heads, s.num_kv_heads, s.num_kv_heads)])
            gate, up = layer.up.chunk(2)
            own = {"self_attn.q_proj": q, "self_attn.k_proj": k, "self_attn.v_proj": v, "self_attn.o_proj": layer.out}
            own |= {"mlp.gate_proj": gate, "mlp.up_proj": up, "mlp.down_proj": layer.down}
            own |= {"input_layernorm": layer.norm_in, "post_attention_layernorm": layer.norm_out}
            weights |= {f"model.layers.{index}.{name}.weight": value for name, value in own.items()}
        weights["lm_head.weight"] = self.embedding
        model.load_state_dict({name: value.detach() for name, value in weights.items()})
        model.to(torch.bfloat16).save_pretrained(folder)


def _rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    y = x.float()
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + epsilon)
    return (y * weight).to(x.dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
