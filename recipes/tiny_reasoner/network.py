"""The Llama architecture, written for fast training on a CPU; saved as a model of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Size:
    """A Llama's numbers."""

    vocabulary: int
    hidden: int = 256
    inner: int = 768
    layers: int = 4
    heads: int = 4
    groups: int = 2  # key/value heads
    context: int = 512
    theta: float = 10000.0
    epsilon: float = 1e-5

    @property
    def head(self) -> int:
        return self.hidden // self.heads


class Layer(nn.Module):
    """Attention over the tokens of the same trace, and a gated network."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        wide = (size.heads + 2 * size.groups) * size.head
        self.qkv = nn.Parameter(torch.randn(wide, size.hidden) * size.hidden**-0.5)
        self.out = nn.Parameter(torch.zeros(size.hidden, size.hidden))
        self.up = nn.Parameter(torch.randn(2 * size.inner, size.hidden) * size.hidden**-0.5)
        self.down = nn.Parameter(torch.zeros(size.hidden, size.inner))
        self.norm_in, self.norm_out = (nn.Parameter(torch.ones(size.hidden)) for _ in range(2))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """x: [B, T, hidden], bf16; cos, sin: [B, 1, T, D / 2]; mask: [B, 1, T, T], 0 or -inf."""
        s, (B, T, _) = self.size, x.shape
        qkv = F.linear(_normed(x, self.norm_in, s.epsilon), self.qkv.to(x.dtype))
        q, k, v = qkv.view(B, T, -1, s.head).transpose(1, 2).split((s.heads, s.groups, s.groups), 1)
        q, k = _turned(q, cos, sin), _turned(k, cos, sin)
        k, v = (t.repeat_interleave(s.heads // s.groups, 1) for t in (k, v))
        # Written out: the fused kernel's backward pass is several times slower on a CPU at these lengths.
        weights = ((q @ k.transpose(-1, -2)).float() * s.head**-0.5 + mask).softmax(-1).to(v.dtype)
        x = x + F.linear((weights @ v).transpose(1, 2).reshape(B, T, -1), self.out.to(x.dtype))
        gate, up = F.linear(_normed(x, self.norm_out, s.epsilon), self.up.to(x.dtype)).chunk(2, -1)
        return x + F.linear(F.silu(gate) * up, self.down.to(x.dtype))


class Network(nn.Module):
    """The whole model; its embedding is also its output layer."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        self.embedding = nn.Parameter(torch.randn(size.vocabulary, size.hidden) * 0.02)
        self.layers = nn.ModuleList(Layer(size) for _ in range(size.layers))
        self.norm = nn.Parameter(torch.ones(size.hidden))
        turns = size.theta ** -(torch.arange(0, size.head, 2) / size.head)
        angles = torch.arange(size.context)[:, None] * turns
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, tokens: Tensor, positions: Tensor, owners: Tensor, targets: Tensor) -> Tensor:
        """Mean loss over targets that are not -100; all [B, T]; `owners` numbers the traces of a row."""
        x = F.embedding(tokens, self.embedding).to(torch.bfloat16)
        cos, sin = (table[positions].to(x.dtype)[:, None] for table in (self.cos, self.sin))
        T = tokens.shape[1]
        seen = (owners[:, :, None] == owners[:, None, :]) & torch.ones(T, T, dtype=torch.bool, device=x.device).tril()
        mask = torch.zeros(seen.shape, device=x.device).masked_fill(~seen, float("-inf"))[:, None]
        for layer in self.layers:
            x = layer(x, cos, sin, mask)
        logits = F.linear(_normed(x, self.norm, self.size.epsilon), self.embedding.to(x.dtype)).float()
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)

    def groups_of_parameters(self) -> tuple[list[Tensor], list[Tensor]]:
        """Matrices between hidden states; everything else."""
        inner = [p for layer in self.layers for p in layer.parameters() if p.ndim == 2]
        chosen = {id(p) for p in inner}
        return inner, [p for p in self.parameters() if id(p) not in chosen]

    def save(self, folder: Path) -> None:
        """A bf16 model that transformers loads."""
        from transformers import LlamaConfig, LlamaForCausalLM

        s = self.size
        config = LlamaConfig(
            vocab_size=s.vocabulary,
            hidden_size=s.hidden,
            intermediate_size=s.inner,
            num_hidden_layers=s.layers,
            num_attention_heads=s.heads,
            num_key_value_heads=s.groups,
            head_dim=s.head,
            max_position_embeddings=s.context,
            rms_norm_eps=s.epsilon,
            rope_parameters={"rope_type": "default", "rope_theta": s.theta},
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=0,
        )
        model = LlamaForCausalLM(config)
        weights = {"model.embed_tokens.weight": self.embedding, "model.norm.weight": self.norm}
        for index, layer in enumerate(self.layers):
            q, k, v = layer.qkv.split([n * s.head for n in (s.heads, s.groups, s.groups)])
            gate, up = layer.up.chunk(2)
            own = {"self_attn.q_proj": q, "self_attn.k_proj": k, "self_attn.v_proj": v, "self_attn.o_proj": layer.out}
            own |= {"mlp.gate_proj": gate, "mlp.up_proj": up, "mlp.down_proj": layer.down}
            own |= {"input_layernorm": layer.norm_in, "post_attention_layernorm": layer.norm_out}
            weights |= {f"model.layers.{index}.{name}.weight": value for name, value in own.items()}
        weights["lm_head.weight"] = self.embedding
        model.load_state_dict({name: value.detach() for name, value in weights.items()})
        model.to(torch.bfloat16).save_pretrained(folder)


def _normed(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    y = x.float()
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + epsilon)
    return (y * weight).to(x.dtype)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
