"""`reason` and `stream`: one run, at once or event by event."""

from __future__ import annotations

from collections.abc import Iterator

from minseek.cache import KeyStorage
from minseek.decode import Sampling
from minseek.models import Model
from minseek.reasoning.events import Event, Finished, Result
from minseek.reasoning.limits import Limits
from minseek.reasoning.run import Run
from minseek.reasoning.strategies import MinSeek, Strategy


def stream(
    model: Model,
    question: str,
    *,
    strategy: Strategy | None = None,
    sampling: Sampling | None = None,
    limits: Limits | None = None,
    induce: str | None = None,
    system: str | None = None,
    key_storage: KeyStorage = "re-rotated",
) -> Iterator[Event]:
    """Answer a question, telling what happens as it happens.

    Parameters
    ----------
    model : Model
        From `minseek.load`.
    question : str
        What the user asks; the model's chat template is put around it.
    strategy : Strategy, optional
        `MinSeek` (with 10 thoughts, the default), `BudgetForcing` or `Standard`.
    sampling : Sampling, optional
        How tokens are chosen; the default is the paper's, temperature 0.6 and top-p 0.95.
    limits : Limits, optional
        Tokens and bytes that the run may use.
    induce : str, optional
        The text that begins an induced thought, instead of the format's ("Wait").
    system : str, optional
        A system message.
    key_storage : {"re-rotated", "unrotated"}
        How keys are stored; see `minseek.cache.ThoughtCache`.

    Returns
    -------
    iterator of Event
        `ThoughtStarted`, `ThoughtToken`, `ThoughtEnded`, `AnswerToken`, and at the end `Finished`.

    Raises
    ------
    InputError
        Before anything runs, if the question is empty or does not fit into the context or the budget.
    """
    run = Run(
        model,
        question,
        strategy=strategy or MinSeek(),
        sampling=sampling or Sampling(),
        limits=limits or Limits(),
        induce=induce,
        system=system,
        key_storage=key_storage,
    )
    return run.events()


def reason(
    model: Model,
    question: str,
    *,
    strategy: Strategy | None = None,
    sampling: Sampling | None = None,
    limits: Limits | None = None,
    induce: str | None = None,
    system: str | None = None,
    key_storage: KeyStorage = "re-rotated",
) -> Result:
    """Answer a question: the same run as `stream`, with the same parameters, at once.

    Returns
    -------
    Result
        ``answer``, ``thoughts``, ``stats`` and ``tokens``.
    """
    events = stream(
        model,
        question,
        strategy=strategy,
        sampling=sampling,
        limits=limits,
        induce=induce,
        system=system,
        key_storage=key_storage,
    )
    for event in events:
        if isinstance(event, Finished):
            return event.result
    raise AssertionError("a run ends with Finished")
