"""Jobs of the engine for the requests of a batch file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Sequence

from torch import Tensor

from minseek.batch.requests import DEFAULT_NEW_TOKENS, InvalidRequest, Request
from minseek.batch.results import RequestResult
from minseek.cache import KVCache, Slot
from minseek.decode import TokenLogprob
from minseek.engine import BatchPlan, Generation, Job
from minseek.errors import InputError
from minseek.models import Model, ThinkingFormat
from minseek.models.chat.encoding import encode_rendered
from minseek.models.chat.prompts import render_messages, template_tail
from minseek.models.chat.thinking_format import is_open
from minseek.protocol.chat_stream import ChatStream
from minseek.protocol.choices import chat_choice, completion_choice, run_choice, run_usage
from minseek.protocol.completion_stream import CompletionStream
from minseek.protocol.efforts import default_effort
from minseek.protocol.fields import FieldError
from minseek.protocol.jobs import encode_prompts, make_thinking_job
from minseek.protocol.requests import ChatRequest
from minseek.protocol.responses import ChatChoice, CompletionChoice, FinishReason, Usage
from minseek.protocol.sampling import parse_sampling
from minseek.protocol.thinking import MAX_COMPLETION_TOKENS, ThinkingDefaults, parse_thinking
from minseek.protocol.token_texts import divide
from minseek.reasoning import Event, choose_default


class RequestJob(ABC):
    """One choice of a request in a slot; an error in it fails its request, not the run.

    Attributes
    ----------
    run : RequestRun
        The request with all of its choices.
    """

    run: RequestRun

    def __init__(self, job: Job) -> None:
        self._job, self.evicts = job, job.evicts

    def start(self, slot: Slot) -> Sequence[int]:
        """Start the job."""
        tokens = self._job.start(slot)
        self.cache: KVCache = self._job.cache
        return tokens

    def next_tokens(self, logits: Tensor) -> Sequence[int]:
        """Return the job's next tokens; none after an error."""
        try:
            return self._job.next_tokens(logits)
        except InputError as error:  # such as logits that are not finite
            self.run.error = self.run.request.reject(str(error), code="model_error")
            return ()

    @abstractmethod
    def choice(self, index: int) -> ChatChoice | CompletionChoice:
        """Build the choice once the job has finished."""


class RequestRun:
    """A request whose choices run in slots.

    Parameters
    ----------
    request : Request
    jobs : sequence of RequestJob
        One for each choice, all of one kind.

    Attributes
    ----------
    error : InvalidRequest or None
        Error in one of the choices.
    """

    def __init__(self, request: Request, jobs: Sequence[RequestJob]) -> None:
        self.request, self.jobs = request, jobs
        self.error: InvalidRequest | None = None
        self._left = len(jobs)
        for job in jobs:
            job.run = self

    def finish(self) -> bool:
        """Count a finished job; return True after the last one."""
        self._left -= 1
        return self._left == 0

    def result(self) -> RequestResult | InvalidRequest:
        """Return the result or the error, once all jobs have finished."""
        if self.error is not None:
            return self.error
        choices = [job.choice(index) for index, job in enumerate(self.jobs)]
        thinking = [job.stream for job in self.jobs if isinstance(job, _ThinkingChoice)]
        if thinking:
            return RequestResult(choices, run_usage(thinking))
        generated = [job for job in self.jobs if isinstance(job, _GenerationChoice)]
        prompts = generated[:: self.request.body.choices]
        usage = Usage.of(
            sum(len(job.generation.prompt) for job in prompts),
            sum(len(job.generation.tokens) for job in generated),
            sum(job.reasoning_tokens for job in generated),
        )
        return RequestResult(choices, usage)


class _ThinkingChoice(RequestJob):
    """A choice with a strategy."""

    def __init__(self, model: Model, plan: BatchPlan, request: Request, choice: int) -> None:
        body = request.body
        assert isinstance(body, ChatRequest), "only chats think"
        self._model, self._logprobs = model, bool(body.logprobs)
        self._events: list[Event] = []
        self.stream = ChatStream(model.thinking, model.token_bytes())
        effort = default_effort(bool(model.thinking.open))
        limit = request.max_new_tokens or MAX_COMPLETION_TOKENS
        own = choose_default(model).strategy
        strategy, limits = parse_thinking(body, ThinkingDefaults(effort, plan.slot.capacity, limit, own))
        super().__init__(
            make_thinking_job(
                model,
                plan,
                body,
                strategy=strategy,
                limits=limits,
                sampling=parse_sampling(model, body, request.defaults.sampling, choice),
                stop=request.stop,
                on_event=self._events.append,
            )
        )

    def choice(self, index: int) -> ChatChoice:
        deltas = list(self.stream.deltas(self._events))
        return run_choice(self._model, index, self.stream, deltas, logprobs=self._logprobs)


class _GenerationChoice(RequestJob):
    """A choice of plain generation; the model's own thinking in it is separated from the answer afterwards."""

    def __init__(
        self, model: Model, plan: BatchPlan, request: Request, tokens: Sequence[int], opened: bool | None, choice: int
    ) -> None:
        body = request.body
        self._model = model
        self._opened = opened
        self._stream = CompletionStream() if body.num_logprobs is not None else None
        self.reasoning_tokens = 0
        self.generation = Generation(
            model,
            tokens,
            max_new_tokens=request.max_new_tokens or DEFAULT_NEW_TOKENS,
            sampling=parse_sampling(model, body, request.defaults.sampling, choice),
            stop=request.stop,
            evicts=plan.policy is not None,
            on_token=None if self._stream is None else lambda _, text, logprob: self._push(text, logprob),
            logprobs=body.num_logprobs,
            is_continuation=opened is None,
        )
        super().__init__(self.generation)

    def _push(self, text: str, logprob: TokenLogprob | None) -> None:
        assert self._stream is not None, "log-probabilities were requested"
        self._stream.push(text, logprob)

    def choice(self, index: int) -> ChatChoice | CompletionChoice:
        done = self.generation.completion()
        if self._stream is not None:
            self._stream.finish(stopped=done.finish_reason == "stop")
        logprobs = None if self._stream is None else self._stream.logprobs
        if self._opened is None:
            return completion_choice(
                self._model, index, text=done.text, finish_reason=done.finish_reason, logprobs=logprobs
            )
        form = self._model.thinking
        reasoning, content = split_thinking(done.text, form, opened=self._opened)
        if reasoning is not None:
            tokens = done.tokens
            closed = bisect_left(range(len(tokens)), True, key=lambda n: form.close in self._model.decode(tokens[:n]))
            self.reasoning_tokens = closed
            logprobs = None if logprobs is None else divide(content, logprobs[closed:])
        reason: FinishReason = "stop" if done.finish_reason == "stop" else "length"
        return chat_choice(
            self._model, index, content=content, reasoning=reasoning, finish_reason=reason, logprobs=logprobs
        )


def make_jobs(model: Model, plan: BatchPlan, request: Request) -> RequestRun | InvalidRequest:
    """Make the jobs of a request, or return the error of one that cannot be run in that plan."""
    try:
        if request.thinks:
            choices = range(request.body.choices)
            return RequestRun(request, [_ThinkingChoice(model, plan, request, choice) for choice in choices])
        jobs: list[RequestJob] = []
        for tokens, opened in _encode_prompts(model, request):
            _check_length(plan, request, len(tokens))
            choices = range(request.body.choices)
            jobs.extend(_GenerationChoice(model, plan, request, tokens, opened, choice) for choice in choices)
        return RequestRun(request, jobs)
    except InputError as error:
        param, code = getattr(error, "param", None), getattr(error, "code", "invalid_value")
        if param == "messages" and request.text_field is not None:
            param = request.text_field
        return request.reject(str(error), param=param, code=code)


def request_tokens(model: Model, request: Request) -> int:
    """Return the tokens of the longest sequence of a request, prompt and output together.

    Raises
    ------
    InputError
        If a prompt cannot be encoded.
    """
    if request.thinks and request.max_new_tokens is None:
        return model.max_positions  # thinking may fill any slot
    longest = max(len(tokens) for tokens, _ in _encode_prompts(model, request))
    return longest + (request.max_new_tokens or DEFAULT_NEW_TOKENS)


def _encode_prompts(model: Model, request: Request) -> list[tuple[list[int], bool | None]]:
    """Return the tokens of each prompt, and for a conversation True if its template opens thinking."""
    if isinstance(request.body, ChatRequest):
        tokenizer, messages = model.tokenizer, request.body.conversation
        text = render_messages(tokenizer, messages)
        return [(encode_rendered(tokenizer, text), is_open(template_tail(tokenizer, messages), model.thinking))]
    return [(tokens, None) for tokens in encode_prompts(model, request.body)]


def _check_length(plan: BatchPlan, request: Request, prompt_tokens: int) -> None:
    limit = request.max_new_tokens or DEFAULT_NEW_TOKENS
    if plan.policy is None and prompt_tokens + limit > plan.slot.capacity:
        raise FieldError(
            f"the prompt of {prompt_tokens} tokens and {limit} new ones do not fit into a slot of "
            f"{plan.slot.capacity}, and without a policy nothing is evicted: choose a policy or a larger cap",
            param="messages" if isinstance(request.body, ChatRequest) else "prompt",
            code="context_length_exceeded",
        )


def split_thinking(text: str, form: ThinkingFormat, *, opened: bool) -> tuple[str | None, str]:
    """Split a reply into its thinking (None if there is none) and its answer, both without tags.

    With `opened`, the template has opened thinking. Thinking that is never closed is all of the reply.
    """
    if not form.open:
        return None, text
    if not opened:
        head = text.lstrip()
        if not head.startswith(form.open):
            return None, text
        text = head.removeprefix(form.open)
    reasoning, _, answer = text.partition(form.close)
    return reasoning.strip(), answer.strip()
