"""`reason` and `stream`: one run, at once or event by event."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from minseek.cache import KeyStorage
from minseek.decode import Sampling
from minseek.errors import check_type
from minseek.models import Model, check_model
from minseek.models.chat.prompts import Question
from minseek.reasoning.events import Event, Finished, Result
from minseek.reasoning.interim import AnswerAfter
from minseek.reasoning.limits import Limits
from minseek.reasoning.run import Run
from minseek.reasoning.strategies import MinSeek, Strategy


def stream(
    model: Model,
    question: Question,
    *,
    strategy: Strategy | None = None,
    sampling: Sampling | None = None,
    limits: Limits | None = None,
    induce: str | None = None,
    system: str | None = None,
    key_storage: KeyStorage = "re-rotated",
    stop: Sequence[str] = (),
    logprobs: int | None = None,
    answer_after: AnswerAfter = None,
) -> Iterator[Event]:
    """Answer a question, telling what happens as it happens.

    Parameters
    ----------
    model : Model
        From `minseek.load`.
    question : str or sequence of mappings
        What the user asks, or a conversation: messages with a ``role`` ("system", "user" or "assistant") and a
        ``content``, the last one the user's. The model's chat template is put around it.
    strategy : Strategy, optional
        `MinSeek` (with 10 thoughts, the default), `BudgetForcing` or `Standard`.
    sampling : Sampling, optional
        How tokens are chosen; the default is the paper's, temperature 0.6 and top-p 0.95. Without a seed, as in the
        default, each call draws other tokens: ``Sampling(seed=0)`` makes calls alike.
    limits : Limits, optional
        Tokens and bytes that the run may use.
    induce : str, optional
        The text that begins an induced thought, instead of the format's ("Wait").
    system : str, optional
        A system message, before a question that is a text.
    key_storage : {"re-rotated", "unrotated"}
        How keys are stored; see `minseek.cache.ThoughtCache`.
    stop : sequence of str
        Texts that end the answer (not the thinking) and are left out of it.
    logprobs : int, optional
        Tell with each token of the answer how likely it was, and that many most likely ones, 0 to 20.
    answer_after : collection of int, "every" or None
        Numbers of induced thoughts, 0 for the first thought alone: whenever so many have been thought, the answer that
        the run would give if it ended there is written, told as `InterimAnswer`, and forgotten. The run goes on as if
        nobody had asked, so that one run gives the answers of all shorter ones: with the same seed they are those of
        ``reason(…, strategy=MinSeek(thoughts=m))``, or of whichever strategy it was, token for token. (Of a model that
        opens its thinking itself, 0 thoughts of such a run are thoughts that were opened for it, which with
        ``thoughts=0`` would be left to the model.) The last one is the final answer, also where thinking ended early.

    Returns
    -------
    iterator of Event
        `ThoughtStarted`, `ThoughtToken`, `ThoughtEnded`, `InterimAnswer`, `AnswerToken`, and at the end `Finished`.

    Raises
    ------
    InputError
        Before anything runs, if the question is empty, is no conversation, or does not fit into the context or the
        budget.
    TypeError
        Before anything runs, if `model` was not loaded, or an argument is of a wrong type.
    """
    check_model(model)
    for name, given, kind in (("sampling", sampling, Sampling), ("limits", limits, Limits)):
        if given is not None:
            check_type(f"{name} must be a {kind.__name__}", given, kind, f": give minseek.{kind.__name__}(…)")
    for name, text in (("induce", induce), ("system", system)):
        if text is not None:
            check_type(f"{name} must be a text", text, str)
    run = Run(
        model,
        question,
        strategy=MinSeek() if strategy is None else strategy,
        sampling=sampling or Sampling(),
        limits=limits or Limits(),
        induce=induce,
        system=system,
        key_storage=key_storage,
        stop=stop,
        logprobs=logprobs,
        answer_after=answer_after,
    )
    return run.events()


def reason(
    model: Model,
    question: Question,
    *,
    strategy: Strategy | None = None,
    sampling: Sampling | None = None,
    limits: Limits | None = None,
    induce: str | None = None,
    system: str | None = None,
    key_storage: KeyStorage = "re-rotated",
    stop: Sequence[str] = (),
) -> Result:
    """Answer a question: the same run as `stream`, at once.

    Parameters
    ----------
    model : Model
        From `minseek.load`.
    question : str or sequence of mappings
        What the user asks, or a conversation whose last message is the user's.
    strategy : Strategy, optional
        `MinSeek` (with 10 thoughts, the default), `BudgetForcing` or `Standard`.
    sampling : Sampling, optional
        How tokens are chosen (temperature 0.6 and top-p 0.95). Without a seed each call draws other tokens:
        ``Sampling(seed=0)`` makes calls alike.
    limits : Limits, optional
        Tokens and bytes that the run may use.
    induce, system, key_storage, stop
        As in `stream`; what only events tell, `logprobs` and `answer_after`, is left to it.

    Returns
    -------
    Result
        ``answer``, ``thoughts``, ``stats`` and ``tokens``.

    Raises
    ------
    InputError
        Before anything runs, if the question is empty, is no conversation, or does not fit into the context or the
        budget.
    TypeError
        Before anything runs, if `model` was not loaded, or an argument is of a wrong type.
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
        stop=stop,
    )
    for event in events:
        if isinstance(event, Finished):
            return event.result
    raise AssertionError("a run ends with Finished")
