"""Train the tiny reasoner from scratch, or resume: ``python -m recipes.tiny_reasoner.train FOLDER``."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from random import Random

import torch

from recipes.tiny_reasoner.batches import Batch, batches
from recipes.tiny_reasoner.network import LlamaSize, Network
from recipes.tiny_reasoner.problems import draw
from recipes.tiny_reasoner.tokenizer import train_tokenizer
from recipes.tiny_reasoner.traces import make_trace

STEPS, TOKENS, SEED = 3000, 8192, 0
_RATE, _EMBEDDING_RATE = 3e-3, 6e-3
_WARM_UP, _DECAY = 100, 0.6  # steps; share of the steps in which the learning rate falls to 0
_SHOW_EVERY, _SAVE_EVERY = 50, 250


def factor(step: int, steps: int) -> float:
    """Factor on the learning rate: warm-up, constant, decay to 0."""
    left = (steps - step) / (_DECAY * steps)
    return min(1.0, (step + 1) / _WARM_UP, left)


def make_tokenizer(seed: int):  # type: ignore[no-untyped-def]
    """Train the tokenizer on some traces."""
    rng, texts = Random(f"words {seed}"), []
    for _ in range(4000):
        _, problem = draw(rng, test=False)
        texts.append(problem.prompt + "\n" + "".join(piece.text for piece in make_trace(problem, rng)))
    return train_tokenizer(texts)


def train(folder: Path, *, steps: int, seed: int, compiled: bool) -> None:
    """Train, saving the state every few minutes, and write the model to the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(seed)
    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = Network(LlamaSize(len(tokenizer))).to(device)
    matrices, rest = network.parameter_groups()
    optimizers = [
        torch.optim.Muon(matrices, lr=_RATE, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=_EMBEDDING_RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]
    rates, step, seconds = [o.param_groups[0]["lr"] for o in optimizers], 0, 0.0
    state = folder / "state.pt"
    if state.exists():
        kept = torch.load(state, map_location=device)
        network.load_state_dict(kept["network"])
        for optimizer, values in zip(optimizers, kept["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        step, seconds = kept["step"], kept["seconds"]
    loss_of = torch.compile(network, dynamic=False) if compiled else network
    began, shown, total = time.perf_counter() - seconds, time.perf_counter(), 0.0
    for batch in batches(tokenizer, seed, TOKENS, start=step):
        if step == steps:
            break
        for optimizer, rate in zip(optimizers, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor(step, steps)
        loss = loss_of(*_on(batch, device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        step, total = step + 1, total + loss.item()
        if step % _SHOW_EVERY == 0:
            now = time.perf_counter()
            speed, mean = _SHOW_EVERY * TOKENS / (now - shown), total / _SHOW_EVERY
            print(f"step {step} of {steps}, loss {mean:.4f}, {speed:.0f} tokens/s", flush=True)
            shown, total = now, 0.0
        if step % _SAVE_EVERY == 0 or step == steps:
            seconds = time.perf_counter() - began
            kept = {"network": network.state_dict(), "optimizers": [o.state_dict() for o in optimizers]}
            torch.save({**kept, "step": step, "seconds": seconds}, state.with_suffix(".new"))
            os.replace(state.with_suffix(".new"), state)
            network.save(folder / "model")
            tokenizer.save_pretrained(folder / "model")
    record = {"steps": steps, "tokens": steps * TOKENS, "seed": seed, "seconds": round(time.perf_counter() - began)}
    (folder / "training.json").write_text(json.dumps(record) + "\n")


def _on(batch: Batch, device: str) -> list[torch.Tensor]:
    return [t.to(device) for t in (batch.tokens, batch.positions, batch.trace_ids, batch.targets)]


def main() -> None:
    """Parse the flags and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--no-compile", action="store_true", help="for machines without a C++ compiler; half as fast")
    args = parser.parse_args()
    train(args.folder, steps=args.steps, seed=args.seed, compiled=not args.no_compile)


if __name__ == "__main__":
    main()
