"""Tuning a language model in place, inside a memory budget."""

from minseek.tune.log import LogEntry, TuneResult
from minseek.tune.plan import TunePlan
from minseek.tune.run import TuneRun, tune
from minseek.tune.settings import Settings

__all__ = ["LogEntry", "Settings", "TunePlan", "TuneResult", "TuneRun", "tune"]
