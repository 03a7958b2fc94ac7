"""Tuning a language model in place, inside a memory budget."""

from minseek.tune.log import LogEntry, Outcome
from minseek.tune.plan import TunePlan
from minseek.tune.run import TuneRun, tune
from minseek.tune.settings import Settings

__all__ = ["LogEntry", "Outcome", "Settings", "TunePlan", "TuneRun", "tune"]
