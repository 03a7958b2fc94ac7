"""`evaluate`: accuracy, tokens, bytes and seconds of strategies against the number of thoughts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from pathlib import Path

from minseek.decode import Sampling
from minseek.engine import BatchPlan
from minseek.errors import InputError, check_type
from minseek.evaluation.eval_records import EvalRecord
from minseek.evaluation.eval_settings import EvalSettings, plan_trial_slots
from minseek.evaluation.evaluation import EvalSummary, Evaluation
from minseek.evaluation.tasks import Task, check_tasks
from minseek.evaluation.thought_counts import Thoughts, thoughts_order
from minseek.evaluation.trial_job import TrialJob
from minseek.evaluation.trials import Trial, expand_trials
from minseek.evaluation.variants import parse_strategies
from minseek.models import Model, check_model
from minseek.reasoning.limits import Limits
from minseek.reasoning.options import RunOptions
from minseek.reasoning.strategies import check_keep
from minseek.reasoning.strategy import Strategy

DEFAULT_STRATEGIES = ("standard", "budget-forcing", "min-seek")
DEFAULT_THOUGHTS = (0, 2, 4, 6, 10, 20, 50, 100)
DEFAULT_SEQUENCES = 32


def plan_evaluation(
    model: Model,
    tasks: Iterable[Task],
    *,
    strategies: Iterable[str | Strategy] = DEFAULT_STRATEGIES,
    thoughts: Iterable[Thoughts] = DEFAULT_THOUGHTS,
    seeds: Sequence[int] = (0,),
    sampling: Sampling | None = None,
    limits: Limits | None = None,
    system: str | None = None,
    cache_tokens: int | None = None,
    kv_budget: int | str | None = None,
    memory: int | str | None = None,
    sequences: int = DEFAULT_SEQUENCES,
    results: str | PathLike[str] | None = None,
    overwrite: bool = False,
) -> Evaluation:
    """Check and plan an evaluation without running it.

    Parameters
    ----------
    model, tasks, strategies, thoughts, seeds, sampling, limits, system, cache_tokens, kv_budget, memory, sequences, \
results, overwrite
        See `evaluate`.

    Raises
    ------
    InputError, TypeError
        See `evaluate`.
    """
    check_model(model)
    check_type("sequences must be an integer", sequences, int)
    if sequences < 1:
        raise InputError(f"sequences must be 1 or more, not {sequences}")
    tasks = check_tasks(tasks, "the evaluation")
    options = RunOptions.of(sampling=sampling, limits=limits, system=system)
    settings = EvalSettings(
        grid=_sorted_thoughts(thoughts),
        sampling=options.sampling,
        limits=options.limits,
        system=system,
        cache_tokens=cache_tokens,
    )
    variants = parse_strategies(strategies)
    for variant in variants:
        if "thoughts" in variant.base.options():
            try:
                check_keep(variant.base, settings.grid[-1])
            except InputError as error:
                raise InputError(f"the strategy {variant.name!r} is wrong: {error}") from None
    trials = list(expand_trials(variants, settings.grid, _check_seeds(seeds), tasks))
    plan = plan_trial_slots(model, settings, kv_budget=kv_budget, memory=memory, sequences=min(sequences, len(trials)))
    _check_longest_prompt(model, plan, settings, trials)
    return Evaluation(model, tasks, trials, settings, plan, None if results is None else Path(results), overwrite)


def evaluate(
    model: Model,
    tasks: Iterable[Task],
    *,
    strategies: Iterable[str | Strategy] = DEFAULT_STRATEGIES,
    thoughts: Iterable[Thoughts] = DEFAULT_THOUGHTS,
    seeds: Sequence[int] = (0,),
    sampling: Sampling | None = None,
    limits: Limits | None = None,
    system: str | None = None,
    cache_tokens: int | None = None,
    kv_budget: int | str | None = None,
    memory: int | str | None = None,
    sequences: int = DEFAULT_SEQUENCES,
    results: str | PathLike[str] | None = None,
    overwrite: bool = False,
    on_progress: Callable[[EvalRecord], None] | None = None,
) -> EvalSummary:
    """Measure accuracy, tokens, bytes and seconds of strategies against the number of thoughts.

    Parameters
    ----------
    model : Model
        From `minseek.load`.
    tasks : iterable of Task
        Questions with known answers; `read_tasks` reads them from a file.
    strategies : iterable of str or Strategy
        Names with options, as ``"min-seek:rule=random,keep=2"``, or strategies, whose number of thoughts is replaced.
    thoughts : iterable of int or None
        Numbers of induced thoughts; None is as many as the limits allow.
    seeds : sequence of int
        Every task is tried once with each.
    sampling : Sampling, optional
        Sampling parameters; the seed comes from `seeds` and the task.
    limits : Limits, optional
        Limits of each trial.
    system : str, optional
        A system message.
    cache_tokens : int, optional
        Tokens of cache of each trial; the model's context if it is not given.
    kv_budget : int or str, optional
        Bytes that the caches of all trials in flight may take; the default is that of `minseek.plan`.
    memory : int or str, optional
        Bytes that the whole process may take, as for `minseek.plan`.
    sequences : int
        Largest number of trials in flight; a smaller budget lowers it.
    results : path, optional
        A file of JSON lines to which every finished trial is appended. Trials that it holds are not run again.
    overwrite : bool
        Discard the results that the file holds.
    on_progress : callable, optional
        Called with the record of every trial that has finished.

    Returns
    -------
    EvalSummary
        A cell for every strategy and number of thoughts, and the records they come from.

    Raises
    ------
    InputError
        If a task does not fit, a value is wrong, or the file holds results of other settings, weights or tasks.
    TypeError
        If an argument has a wrong type.
    """
    evaluation = plan_evaluation(
        model,
        tasks,
        strategies=strategies,
        thoughts=thoughts,
        seeds=seeds,
        sampling=sampling,
        limits=limits,
        system=system,
        cache_tokens=cache_tokens,
        kv_budget=kv_budget,
        memory=memory,
        sequences=sequences,
        results=results,
        overwrite=overwrite,
    )
    return evaluation.run(on_progress)


def _sorted_thoughts(thoughts: Iterable[Thoughts]) -> tuple[Thoughts, ...]:
    """Distinct numbers of thoughts, ascending, unbounded last."""
    found = set(thoughts)
    for number in found:
        if number is not None:
            check_type("thoughts must hold integers or None", number, int)
            if number < 0:
                raise InputError(f"thoughts must hold numbers of 0 or more, not {number}")
    if not found:
        raise InputError("there is no number of thoughts to evaluate: give one or more, such as 0, 2, 4")
    return tuple(sorted(found, key=thoughts_order))


def _check_seeds(seeds: Sequence[int]) -> Sequence[int]:
    for seed in seeds:
        check_type("seeds must be integers", seed, int)
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"seeds must be one or more different integers, not {list(seeds)}")
    return seeds


def _check_longest_prompt(model: Model, plan: BatchPlan, settings: EvalSettings, trials: Sequence[Trial]) -> None:
    """Refuse tasks that do not fit before any has run: try the longest prompt with every strategy."""
    longest = max((trial.task for trial in trials), key=lambda task: len(task.question))
    for trial in trials:
        if trial.task is longest:
            TrialJob(model, trial, settings, plan)
