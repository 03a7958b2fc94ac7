"""Accuracy against the number of thoughts: tasks, checked answers, sweeps over strategies, intervals, a plot.

The names are imported at first use: the process that compares answers starts with this package and needs little of it.
"""

from typing import TYPE_CHECKING

from minseek.lazy import lazy_names

if TYPE_CHECKING:
    from minseek.evaluation.accuracy_cells import EvalCell
    from minseek.evaluation.accuracy_plot import draw_accuracy
    from minseek.evaluation.api import evaluate, plan_evaluation
    from minseek.evaluation.eval_records import EvalRecord, TrialPoint
    from minseek.evaluation.evaluation import EvalRun, EvalSummary, Evaluation
    from minseek.evaluation.frame import to_frame
    from minseek.evaluation.hub import load_named
    from minseek.evaluation.tasks import Task, read_tasks

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "minseek.evaluation.accuracy_cells": ("EvalCell",),
        "minseek.evaluation.accuracy_plot": ("draw_accuracy",),
        "minseek.evaluation.api": ("evaluate", "plan_evaluation"),
        "minseek.evaluation.eval_records": ("EvalRecord", "TrialPoint"),
        "minseek.evaluation.evaluation": ("EvalRun", "EvalSummary", "Evaluation"),
        "minseek.evaluation.frame": ("to_frame",),
        "minseek.evaluation.hub": ("load_named",),
        "minseek.evaluation.tasks": ("Task", "read_tasks"),
    },
)

__all__ = [
    "EvalCell",
    "EvalRecord",
    "EvalRun",
    "EvalSummary",
    "Evaluation",
    "Task",
    "TrialPoint",
    "draw_accuracy",
    "evaluate",
    "load_named",
    "plan_evaluation",
    "read_tasks",
    "to_frame",
]
