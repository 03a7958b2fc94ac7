"""Inference engine: memory plan, continuous batching in slots, and `generate`."""

from minseek.engine.api import generate
from minseek.engine.batch_plan import BatchPlan
from minseek.engine.engine import Engine, FinishedJob
from minseek.engine.generation import Completion, CompletionStats, Generation, Job
from minseek.engine.plan import plan

__all__ = [
    "BatchPlan",
    "Completion",
    "CompletionStats",
    "Engine",
    "FinishedJob",
    "Generation",
    "Job",
    "generate",
    "plan",
]
