"""What an eighth of the cache costs in perplexity if some layers keep more pairs than others: a simulation.

    python bench/layer_caps.py [FILE …] [--times 3] [--layers 17 18 …] [--stretches 4]

Transformers keeps every pair, and a mask hides from each head those that `novel-values` would have evicted at its
layer's cap: so layers can differ, which minseek's slots cannot. Without --layers, those are taken that copy: where
random tokens come a second time, at least a quarter of some head's attention rests on the token that followed the first
occurrence (induction heads, arXiv 2209.11895). The other layers keep fewer pairs, so that the mean stays 512.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from common import table
from torch import Tensor
from transformers import AttentionInterface, AutoModelForCausalLM, DynamicCache

import minseek
from minseek.cache.kernels import highest, likeness, ranks, weighed_distance
from minseek.cache.policies.novelty import NovelValues
from minseek.cache.rotary import rotate
from minseek.models.gguf import dense_folder
from minseek.models.load import find_source

TEXTS = ("/usr/share/common-licenses/MPL-2.0", "/usr/share/common-licenses/LGPL-2")  # the policy is tuned on both
CAP, BLOCK, READ, FROM = 512, 128, 4000, 1000
COPIES = 0.25


class Watch:
    """Sees the attention of every layer."""

    def attend(self, layer: int, weights: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Weights [query heads, T, n] as they are to be."""
        raise NotImplementedError

    def advance(self, count: int, surprise: Tensor) -> None:
        """So many tokens were read; the surprise [<= count] of those that follow the first."""


class Copying(Watch):
    """How much attention goes to the token that followed the same one, `period` tokens ago."""

    def __init__(self, layers: int, period: int) -> None:
        self.period, self.found = period, torch.zeros(layers)

    def attend(self, layer: int, weights: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        queries = torch.arange(self.period, weights.shape[1])
        self.found[layer] = weights[:, queries, queries - self.period + 1].mean(1).max()
        return weights


class Evicting(Watch):
    """Hides from each layer all but `caps[layer]` pairs a head, chosen as `novel-values` chooses."""

    def __init__(self, model: Any, caps: Sequence[int], tokens: int, policy: NovelValues) -> None:
        config = model.config
        heads, self.dim = config.num_key_value_heads, config.head_dim
        self.caps, self.policy, self.seen = caps, policy, 0
        self.alive = torch.zeros(len(caps), heads, tokens, dtype=torch.bool)
        self.received = torch.zeros(len(caps), heads, tokens)
        self.surprise = torch.zeros(tokens)
        self.keys: list[Tensor] = [torch.empty(0)] * len(caps)
        self.values: list[Tensor] = [torch.empty(0)] * len(caps)
        angles = torch.arange(tokens)[:, None] * config.rope_parameters["rope_theta"] ** -(
            torch.arange(0, self.dim, 2) / self.dim
        )
        self.cos, self.sin = angles.cos(), angles.sin()

    def attend(self, layer: int, weights: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        heads, n = keys.shape[:2]
        visible = self.alive[layer, :, :n].clone()
        visible[:, self.seen :] = True
        weights = weights.view(heads, -1, *weights.shape[1:]) * visible[:, None, None]
        weights /= weights.sum(-1, keepdim=True)
        self.received[layer, :, :n] += weights.mean(1).sum(1)
        self.keys[layer], self.values[layer] = keys, values
        return weights.flatten(0, 1)

    def advance(self, count: int, surprise: Tensor) -> None:
        self.surprise[self.seen + 1 : self.seen + 1 + len(surprise)] = surprise
        self.alive[:, :, self.seen : self.seen + count] = True
        self.seen += count
        novelty = self._novelty()
        for cap in set(self.caps):
            layers = [layer for layer, own in enumerate(self.caps) if own == cap]
            if int(self.alive[layers[0], 0].sum()) > cap:
                self._evict(layers, cap, novelty)

    def _evict(self, layers: list[int], cap: int, novelty: Tensor) -> None:
        policy, alive = self.policy, self.alive[layers]
        at = alive.nonzero()[:, 2].view(*alive.shape[:2], -1)
        wide = at[..., None].expand(-1, -1, -1, self.dim)
        keys = torch.stack([self.keys[layer] for layer in layers]).gather(2, wide)
        values = torch.stack([self.values[layer] for layer in layers]).gather(2, wide)
        rate = self.received[layers].gather(2, at) / (self.seen - at)
        scores = ranks(weighed_distance(rate, values.contiguous()))
        scores += policy.weight * ranks(-likeness(rotate(keys, self.cos[at], -self.sin[at])))
        most = int(min(policy.share * cap, policy.stretches * math.sqrt(cap)))
        highest_novelty, places = novelty[at].topk(most, dim=-1)
        scores.scatter_add_(-1, places, 4 * (highest_novelty > policy.rarity).float())
        scores[..., -int(policy.latest * CAP) :] += 8
        scores[at < policy.sinks] = torch.inf
        self.alive[layers] = torch.zeros_like(alive).scatter_(2, at.gather(2, highest(scores, cap)), True)

    def _novelty(self) -> Tensor:
        """[n]: as the policy's, but each token's is measured against all tokens so far, not against those before it."""
        policy = self.policy
        layers = max(1, round(policy.depth * len(self.caps)))
        values = F.normalize(torch.stack(self.values[:layers]), dim=-1)
        unlike = -(values @ F.normalize(values.sum(2), dim=-1)[..., None]).mean((0, 1, 3))
        line = torch.stack((unlike, self.surprise[: self.seen]))[None]
        means = F.avg_pool1d(line, policy.neighbours, 1, policy.neighbours // 2, count_include_pad=False)[0]
        both = policy._in_deviations(means, means, {})
        return F.max_pool1d(both[None], policy.spread, 1, policy.spread // 2)[0]


watch: Watch


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Attention of one sequence, whose weights `watch` sees and changes."""
    group, (rows, n) = query.shape[1] // key.shape[1], (query.shape[2], key.shape[2])
    keys, values = key[0].repeat_interleave(group, 0), value[0].repeat_interleave(group, 0)
    later = torch.ones(rows, n, dtype=torch.bool).triu(n - rows + 1)
    scores = (query[0] @ keys.transpose(-1, -2) * scaling).masked_fill(later, -torch.inf)
    weights = watch.attend(module.layer_idx, scores.softmax(-1), key[0], value[0])
    return (weights @ values)[None].transpose(1, 2).contiguous(), None


@torch.no_grad()
def perplexity(model: Any, ids: Tensor, by: Watch, block: int = BLOCK) -> float:
    """Of the tokens from `FROM` on."""
    global watch
    watch, cache, losses = by, DynamicCache(config=model.config), []
    for start in range(0, len(ids) - 1, block):
        chunk, follow = ids[start : start + block], ids[start + 1 : start + block + 1]
        logits = model(chunk[None], past_key_values=cache).logits[0, : len(follow)]
        losses.append(F.cross_entropy(logits, follow, reduction="none"))
        by.advance(len(chunk), logits.mean(-1) - logits.gather(1, follow[:, None])[:, 0])
    return math.exp(float(torch.cat(losses)[FROM:].mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", default=TEXTS, help="texts to read")
    parser.add_argument("--times", type=float, default=3, help=f"the chosen layers' cap, in caps of {CAP}")
    parser.add_argument("--layers", type=int, nargs="*", help="the chosen layers, from 0 on")
    parser.add_argument("--stretches", type=float, default=NovelValues.stretches, help="as of NovelValues")
    args = parser.parse_args()
    if missing := [file for file in args.files if not Path(file).is_file()]:
        parser.error(f"there is no file {missing[0]}: name texts of more than {FROM} tokens")
    warnings.simplefilter("ignore")
    AttentionInterface.register("watched", attend)
    model = AutoModelForCausalLM.from_pretrained(
        dense_folder(find_source("smollm2"), torch.float32), dtype=torch.float32, attn_implementation="watched"
    ).eval()
    count = model.config.num_hidden_layers
    if wrong := [layer for layer in args.layers or () if not 0 <= layer < count]:
        parser.error(f"there is no layer {wrong[0]}: choose from 0 to {count - 1}")
    if args.layers is None:
        once = torch.randint(model.config.vocab_size, (256,), generator=torch.Generator().manual_seed(0))
        copying = Copying(count, len(once))
        perplexity(model, torch.cat((once, once)), copying, block=2 * len(once))
        args.layers = [layer for layer, share in enumerate(copying.found.tolist()) if share >= COPIES]
        print("copying, share by layer:", *(f"{layer}: {s:.2f}" for layer, s in enumerate(copying.found) if s >= 0.05))
    chosen, policy = set(args.layers), NovelValues(stretches=args.stretches)
    large = int(args.times * CAP)
    small = (count * CAP - len(chosen) * large) // max(1, count - len(chosen))
    if small < CAP // 4:
        parser.error(
            f"{len(chosen)} layers with {large} pairs leave {small} to the others: choose fewer layers or pairs"
        )
    caps = {
        "all pairs": [READ] * count,
        f"{CAP} in every layer": [CAP] * count,
        f"{large} in layers {', '.join(map(str, sorted(chosen)))}, {small} in the others": [
            large if layer in chosen else small for layer in range(count)
        ],
    }
    tokenizer = minseek.load("smollm2")
    rows = []
    for file in args.files:
        ids = torch.tensor(tokenizer.encode(Path(file).read_text(errors="replace"))[:READ])
        if len(ids) < FROM + 2:
            parser.error(f"{file} has {len(ids)} tokens: name texts of more than {FROM}")
        found = [perplexity(model, ids, Evicting(model, own, len(ids) + 1, policy)) for own in caps.values()]
        rows.append([Path(file).name, f"{found[0]:.2f}", *(f"{p:.2f} (+{p / found[0] - 1:.1%})" for p in found[1:])])
    print(table("Perplexity by how the pairs are shared out", ("text", *caps), rows))


if __name__ == "__main__":
    main()
