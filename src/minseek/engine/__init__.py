"""Many sequences in a fixed budget: plan, slots, continuous batching."""

from minseek.engine.api import generate
from minseek.engine.engine import Ended, Engine
from minseek.engine.generation import Completion, CompletionStats, Generation, Job
from minseek.engine.plan import BatchPlan, plan

__all__ = ["BatchPlan", "Completion", "CompletionStats", "Ended", "Engine", "Generation", "Job", "generate", "plan"]
