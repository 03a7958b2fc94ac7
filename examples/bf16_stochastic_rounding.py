"""Train a digit classifier with bfloat16 weights and no float32 copy: stochastic rounding and rounding to nearest.

With a small learning rate, steps are smaller than the grid spacing of bfloat16: nearest rounding loses them, stochastic
rounding keeps them in expectation.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits

from minseek.lowbit import Rounding
from minseek.lowbit.optim import SGD

STEPS, LEARNING_RATE = 1500, 0.002


def train(dtype: torch.dtype, rounding: Rounding | None) -> float:
    """Train from the same start and the same batches; return the share of right answers on held-out digits."""
    torch.manual_seed(0)
    digits = load_digits()
    inputs, labels = torch.tensor(digits.data / 16, dtype=dtype), torch.tensor(digits.target)
    network = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)).to(dtype)
    arguments = {} if rounding is None else {"rounding": rounding, "generator": torch.Generator().manual_seed(1)}
    optimizer = SGD(network.parameters(), lr=LEARNING_RATE, **arguments)
    for _ in range(STEPS):
        rows = torch.randint(0, 1500, (64,))
        loss = torch.nn.functional.cross_entropy(network(inputs[rows]).float(), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        right = network(inputs[1500:]).argmax(dim=-1) == labels[1500:]
    return right.float().mean().item()


def main() -> None:
    print(f"float32:                        {train(torch.float32, None):.1%} right")
    print(f"bfloat16, stochastic rounding:  {(stochastic := train(torch.bfloat16, 'stochastic')):.1%} right")
    print(f"bfloat16, rounding to nearest:  {(nearest := train(torch.bfloat16, 'nearest-even')):.1%} right")
    assert stochastic > nearest


if __name__ == "__main__":
    main()
