"""`reason`, `stream` and `plan_run`: a run at once, event by event, or only its memory plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from minseek.cache import KeyStorage
from minseek.decode import Sampling
from minseek.models import Model, check_model
from minseek.models.chat.prompts import Question
from minseek.reasoning.defaults import default_run
from minseek.reasoning.events import Event, Finished, Result
from minseek.reasoning.limits import Limits
from minseek.reasoning.options import AnswerAfter, RunOptions
from minseek.reasoning.run import Run
from minseek.reasoning.run_plan import RunPlan
from minseek.reasoning.strategy import Strategy


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
    memory: int | str | None = None,
) -> Iterator[Event]:
    """Answer a question, yielding events as they happen.

    Parameters
    ----------
    model : Model
        From `minseek.load`.
    question : str or sequence of mappings
        The user's question, or a conversation: messages with a ``role`` ("system", "user" or "assistant") and a
        ``content``, the last one the user's. The model's chat template is put around it.
    strategy : Strategy, optional
        `MinSeek`, `FreshThoughts`, `BudgetForcing` or `Standard`. The default is the one that the evidence on the model
        recommends (`minseek.reasoning.choose_default`); without such evidence `MinSeek` with 10 thoughts, or `Standard`
        if the model has no thinking tags, whose thoughts are bounded, if `limits` does not do it, by an equal share of
        the tokens for thinking, or by 128 tokens without tags. The answer of a default run is never empty.
    sampling : Sampling, optional
        Sampling parameters; the default is the paper's, temperature 0.6 and top-p 0.95. Without a seed, as in the
        default, every call draws different tokens: ``Sampling(seed=0)`` makes calls reproducible.
    limits : Limits, optional
        Tokens and bytes that the run may use.
    induce : str, optional
        The text that begins an induced thought, instead of the format's ("Wait").
    system : str, optional
        A system message, before a question that is a text.
    key_storage : {"re-rotated", "unrotated"}
        Storage of keys; see `minseek.cache.ThoughtCache`.
    stop : sequence of str
        Texts that end the answer (not the thinking) and are left out of it.
    logprobs : int, optional
        Report the log-probability of each token of the answer, and of this many most likely alternatives, 0 to 20.
    answer_after : collection of int, "every" or None
        Numbers of induced thoughts, 0 for the first thought alone. After each of them the answer that the run would
        give if it ended there is written, reported as `InterimAnswer`, and discarded. The run itself is not affected,
        so one run gives the answers of all shorter ones: with the same seed they are, token for token, those of
        ``reason(…, strategy=MinSeek(thoughts=m))``, or of any other strategy. (If the model opens its thinking itself,
        the thinking of such a run is opened for it, which with ``thoughts=0`` would be left to the model.) The last
        interim answer is the final answer, also if thinking ended early.
    memory : int or str, optional
        Bytes that the whole process may take, such as "2GB": interpreter, libraries, weights, activations and cache.
        The default is the model's budget (`minseek.load`), which can only be lowered.

    Returns
    -------
    iterator of Event
        `ThoughtStarted`, `ThoughtToken`, `ThoughtEnded`, `InterimAnswer`, `AnswerToken`, and at the end `Finished`.

    Raises
    ------
    InputError
        Before anything runs, if the question is empty, is not a conversation, or does not fit into the context or the
        budget.
    TypeError
        Before anything runs, if `model` was not loaded, or an argument has a wrong type.
    """
    options = RunOptions.of(
        strategy=strategy,
        sampling=sampling,
        limits=limits,
        induce=induce,
        system=system,
        key_storage=key_storage,
        stop=stop,
        logprobs=logprobs,
        answer_after=answer_after,
        memory=memory,
    )
    return _make_run(model, question, options, strategy).events()


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
    memory: int | str | None = None,
) -> Result:
    """Answer a question: the run of `stream`, returning only its result.

    Parameters
    ----------
    model : Model
        From `minseek.load`.
    question : str or sequence of mappings
        The user's question, or a conversation whose last message is the user's.
    strategy : Strategy, optional
        `MinSeek`, `FreshThoughts`, `BudgetForcing` or `Standard`. The default is the one that the evidence on the model
        recommends (`minseek.reasoning.choose_default`); without such evidence `MinSeek` with 10 thoughts, or `Standard`
        if the model has no thinking tags, whose thoughts are bounded, if `limits` does not do it, by an equal share of
        the tokens for thinking, or by 128 tokens without tags. The answer of a default run is never empty.
    sampling : Sampling, optional
        Sampling parameters (temperature 0.6 and top-p 0.95). Without a seed every call draws different tokens:
        ``Sampling(seed=0)`` makes calls reproducible.
    limits : Limits, optional
        Tokens and bytes that the run may use.
    induce, system, key_storage, stop, memory
        See `stream`, which also has `logprobs` and `answer_after`: only events report them.

    Returns
    -------
    Result
        ``answer``, ``thoughts``, ``stats`` and ``tokens``.

    Raises
    ------
    InputError
        Before anything runs, if the question is empty, is not a conversation, or does not fit into the context or the
        budget.
    TypeError
        Before anything runs, if `model` was not loaded, or an argument has a wrong type.
    """
    options = RunOptions.of(
        strategy=strategy,
        sampling=sampling,
        limits=limits,
        induce=induce,
        system=system,
        key_storage=key_storage,
        stop=stop,
        memory=memory,
    )
    for event in _make_run(model, question, options, strategy).events():
        if isinstance(event, Finished):
            return event.result
    raise AssertionError("a run ends with Finished")


def plan_run(
    model: Model,
    question: Question,
    *,
    strategy: Strategy | None = None,
    limits: Limits | None = None,
    induce: str | None = None,
    system: str | None = None,
    key_storage: KeyStorage = "re-rotated",
    memory: int | str | None = None,
) -> RunPlan:
    """Plan the memory of a run without running it.

    Parameters
    ----------
    model, question, strategy, limits, induce, system, key_storage, memory
        See `stream`; its other options do not change the plan.

    Returns
    -------
    RunPlan
        Tokens that the cache may hold, tokens reserved for the answer, bytes of one token, and of the process.

    Raises
    ------
    InputError
        If the question is empty, is not a conversation, or does not fit into the context or the budget.
    TypeError
        If `model` was not loaded, or an argument has a wrong type.
    """
    options = RunOptions.of(
        strategy=strategy, limits=limits, induce=induce, system=system, key_storage=key_storage, memory=memory
    )
    return _make_run(model, question, options, strategy).plan


def _make_run(model: Model, question: Question, options: RunOptions, strategy: Strategy | None) -> Run:
    check_model(model)
    return default_run(model, question, options) if strategy is None else Run(model, question, options)
