"""From a request to the job that the engine runs, and back to what came of it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from minseek.batch.requests import DEFAULT_NEW_TOKENS, InvalidRequest, Request
from minseek.batch.result_file import ResumeState
from minseek.batch.results import Outcome
from minseek.cache import KVCache, Slot
from minseek.engine.generation import Generation, Job
from minseek.engine.plan import BatchPlan
from minseek.errors import InputError
from minseek.models import Model, ThinkingFormat
from minseek.models.chat.prompts import encode_prompt, render_messages
from minseek.models.chat.thinking_format import is_open


class RequestJob:
    """A request in a slot: an error in it ends it alone, not the run.

    Parameters
    ----------
    job : Job
        What the engine runs.
    outcome : callable
        What came of the job, once it has finished.
    """

    def __init__(self, request: Request, job: Job, outcome: Callable[[], Outcome]) -> None:
        self.request, self._job, self._outcome = request, job, outcome
        self.evicts = job.evicts
        self._refusal: InvalidRequest | None = None

    def start(self, slot: Slot) -> Sequence[int]:
        """The job's first tokens."""
        tokens = self._job.start(slot)
        self.cache: KVCache = self._job.cache
        return tokens

    def next_tokens(self, logits: Tensor) -> Sequence[int]:
        """The job's next tokens."""
        try:
            return self._job.next_tokens(logits)
        except InputError as error:  # such as logits that are no numbers
            self._refusal = self.request.reject(str(error), code="model_error")
            return ()

    def outcome(self) -> Outcome | InvalidRequest:
        """What came of it."""
        return self._refusal or self._outcome()


Think = Callable[[Model, BatchPlan, Request], RequestJob]
"""Makes the attempt of a request that asks for a strategy; raises InputError where that is impossible."""


@dataclass(frozen=True)
class FileSummary:
    """What a file asks for.

    Attributes
    ----------
    lines : int
        Requests, refused ones included, whether or not they have a result.
    requests : int
        That can be run, whether or not they have been.
    left : int
        Lines that have no result yet, refused ones included.
    to_run : int
        Those of them that are not refused.
    longest : int or None
        Tokens of the longest one, prompt and output together; None where it was not asked for.
    """

    lines: int
    requests: int
    left: int
    to_run: int
    longest: int | None


def scan_requests(
    model: Model, items: Iterable[Request | InvalidRequest], earlier: ResumeState, *, lengths: bool
) -> FileSummary:
    """Count the requests of a file and, with `lengths`, find the longest.

    Requests that have a result count as well: a run that goes on must come to the plan of the run before it.
    """
    lines = requests = left = to_run = longest = 0
    for item in items:
        lines += 1
        missing = not earlier.has(item)
        left += missing
        if isinstance(item, InvalidRequest):
            continue
        requests += 1
        to_run += missing
        if lengths:
            try:
                longest = max(longest, _length(model, item))
            except InputError:
                continue  # it is refused when its turn comes
    return FileSummary(lines, requests, left, to_run, (longest or None) if lengths else None)


def _length(model: Model, request: Request) -> int:
    tokens = len(_prompt(model, request)[0])
    if request.thinking is not None and request.max_new_tokens is None:
        return model.max_positions  # as long as it can
    return tokens + (request.max_new_tokens or DEFAULT_NEW_TOKENS)


def make_job(model: Model, plan: BatchPlan, request: Request, think: Think) -> RequestJob | InvalidRequest:
    """A request, ready for the engine, or why it cannot be honoured in that plan."""
    try:
        if request.thinking is not None:
            return think(model, plan, request)
        tokens, text = _prompt(model, request)
    except InputError as error:
        param, code = getattr(error, "param", None), getattr(error, "code", "invalid_value")
        return request.reject(str(error), param=param, code=code)
    if not tokens:
        return request.reject("the prompt is empty: there is nothing to continue", param="prompt", code="empty_prompt")
    limit = request.max_new_tokens or DEFAULT_NEW_TOKENS
    if plan.policy is None and len(tokens) + limit > plan.slot.capacity:
        return request.reject(
            f"the prompt of {len(tokens)} tokens and {limit} new ones do not fit into a slot of {plan.slot.capacity}, "
            "and without a policy nothing is evicted: choose a policy or a larger cap",
            param="messages" if request.messages else "prompt",
            code="context_length_exceeded",
        )
    job = Generation(
        *(model, tokens),
        max_new_tokens=limit,
        sampling=request.sampling,
        stop=request.stop,
        evicts=plan.policy is not None,
        is_continuation=request.prompt is not None,
    )
    form = model.thinking if request.messages else None
    return RequestJob(request, job, lambda: _outcome(model, job, form, text))


def _prompt(model: Model, request: Request) -> tuple[list[int], str]:
    """Tokens and text of what is read first."""
    if request.prompt is not None:
        return model.encode(request.prompt), request.prompt
    text = render_messages(model.tokenizer, request.messages)
    return encode_prompt(model.tokenizer, text), text


def _outcome(model: Model, job: Generation, form: ThinkingFormat | None, prompt: str) -> Outcome:
    """What was written; of a conversation with the model's own thinking apart."""
    done = job.completion()
    reasoning, text = split_thinking(done.text, form, prompt) if form else (None, done.text)
    counted = 0
    if form and reasoning is not None:
        close, tokens = form.close, done.tokens
        counted = bisect_left(range(len(tokens)), True, key=lambda n: close in model.decode(tokens[:n]))
    return Outcome(
        text=text,
        finish_reason=done.finish_reason,
        prompt_tokens=done.stats.prompt_tokens,
        completion_tokens=done.stats.new_tokens,
        reasoning=reasoning,
        reasoning_tokens=counted,
    )


def split_thinking(text: str, form: ThinkingFormat, prompt: str) -> tuple[str | None, str]:
    """A reply's thinking (None if there is none) and its answer, without tags."""
    if not form.open:
        return None, text
    if not is_open(prompt, form):
        head = text.lstrip()
        if not head.startswith(form.open):
            return None, text
        text = head.removeprefix(form.open)
    reasoning, _, answer = text.partition(form.close)
    return reasoning.strip(), answer.strip()
