"""Optimizers whose weights, state and updates are rounded to formats, in place and without wider copies."""

from minseek.lowbit.optim.adamw import AdamW
from minseek.lowbit.optim.pisgd import PISGD
from minseek.lowbit.optim.sgd import SGD

__all__ = ["PISGD", "SGD", "AdamW"]
