"""Many sequences in a fixed budget: plan, slots, continuous batching."""

from minseek.batch.api import generate
from minseek.batch.engine import Ended, Engine
from minseek.batch.job import Completion, CompletionStats, Generation, Job
from minseek.batch.plan import BatchPlan, plan

__all__ = ["BatchPlan", "Completion", "CompletionStats", "Ended", "Engine", "Generation", "Job", "generate", "plan"]
