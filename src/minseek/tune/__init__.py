"""Tuning a language model in place, inside a memory budget."""

from minseek.tune.log import Entry, Outcome
from minseek.tune.plan import TunePlan
from minseek.tune.run import Tuning, tune
from minseek.tune.settings import Settings

__all__ = ["Entry", "Outcome", "Settings", "TunePlan", "Tuning", "tune"]
