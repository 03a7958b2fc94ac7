"""Batch files: a file of requests to a file of results, in a fixed memory budget."""

from minseek.batch.api import run_file
from minseek.batch.run import BatchProgress, BatchSummary

__all__ = ["BatchProgress", "BatchSummary", "run_file"]
