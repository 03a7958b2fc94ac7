"""`generate`: many prompts at once, inside a plan."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from operator import index
from typing import Any, Protocol, TypeGuard, cast, runtime_checkable

from minseek.cache.policies import Policy, make_policy
from minseek.decode import Sampling, check_stop
from minseek.engine.batch_plan import BatchPlan
from minseek.engine.engine import Engine
from minseek.engine.generation import Completion, Generation
from minseek.engine.memory_fit import check_plan
from minseek.engine.plan import DEFAULT_POLICY
from minseek.engine.plan import plan as make_plan
from minseek.errors import InputError, check_int, check_type
from minseek.models import Model, as_messages, check_model, render_messages
from minseek.models.chat.encoding import encode_rendered


@runtime_checkable
class HasToList(Protocol):
    """An array of NumPy, a tensor of torch, or anything like them."""

    def tolist(self) -> Any:
        """Return nested lists of Python's numbers."""


Tokens = Sequence[int] | HasToList
"""Token ids, [T]."""
Conversation = Sequence[Mapping[str, str]]
"""Messages with a role and a content."""


def generate(
    model: Model,
    prompts: Sequence[str | Tokens | Conversation] | HasToList,
    *,
    plan: BatchPlan | None = None,
    policy: str | Policy | None = "default",
    max_new_tokens: int = 64,
    sampling: Sampling | Sequence[Sampling] | None = None,
    stop: Sequence[str] = (),
    ignore_eos: bool = False,
    add_special_tokens: bool = True,
    memory: int | str | None = None,
) -> list[Completion]:
    """Continue many texts as they are, without a chat template, or reply to many conversations through it.

    Parameters
    ----------
    model : Model
        From `minseek.load`.
    prompts : sequence of str, of token ids or of conversations, array or tensor
        Texts to continue, which no chat template is put around; or conversations to reply to: messages with a ``role``
        and a ``content``, the last one the user's, which the model's template is put around. A reply holds the model's
        own thinking, if it writes any, with its tags (`minseek.reason` tells them apart). Token ids are a sequence, an
        array or a tensor of integers, [T]; an array or a tensor, [B, T], is B prompts of equal length.
    plan : BatchPlan, optional
        From `minseek.plan`. The default holds every prompt without eviction.
    policy : str, Policy or None, optional
        Eviction policy; the default is the plan's. None never evicts.
    max_new_tokens : int
        Maximum number of tokens to generate for each prompt.
    sampling : Sampling or sequence of Sampling, optional
        Sampling for all prompts, or one for each; the default is greedy.
    stop : sequence of str
        Texts that end a completion.
    ignore_eos : bool
        Go on after an eos token (for measurements).
    add_special_tokens : bool
        Put the special tokens before each text that the tokenizer puts there, such as a BOS token; False for texts that
        begin with them, or are to have none. Token ids are taken as they are, and so are conversations, whose template
        writes the special tokens.
    memory : int or str, optional
        Bytes that the whole process may take, as for `minseek.plan`; a given plan that takes more is refused.

    Returns
    -------
    list of Completion
        One for each prompt, in order.

    Raises
    ------
    InputError
        Before anything runs, if a prompt is empty or no conversation, or does not fit and nothing may be evicted, or
        the memory does not hold the plan.
    TypeError
        If `model` was not loaded, or an argument is of a wrong type.
    """
    check_model(model)
    if isinstance(prompts, str):
        raise TypeError("prompts must be a sequence of texts, not one text: put it into a list")
    if isinstance(prompts, Mapping):
        raise TypeError("prompts must be a sequence, not a mapping: give its input_ids, without padding")
    given: Sequence[str | Tokens | Conversation] = prompts.tolist() if isinstance(prompts, HasToList) else prompts
    check_type("prompts must be a sequence of texts, of token ids or of conversations", given, Collection)
    if given and all(isinstance(prompt, Mapping) for prompt in given):
        raise TypeError("prompts must be a sequence of conversations, not one conversation: put it into a list")
    if plan is not None:
        check_type("plan must be what minseek.plan returns", plan, BatchPlan, ": call minseek.plan first")
    check_int("max_new_tokens", max_new_tokens)
    samplings, stop = _each(sampling, len(given)), check_stop(stop)
    encoded = [_encode(model, number, prompt, add_special_tokens) for number, prompt in enumerate(given)]
    if not encoded:
        return []
    lengths = [len(tokens) + max_new_tokens for tokens in encoded]
    if plan is None:
        rule = make_policy(None if policy == "default" else policy)
        plan = make_plan(model, policy=rule, lengths=lengths, memory=memory)
    elif policy != "default" and make_policy(policy) != plan.policy:
        rule = make_policy(policy)
        cap = plan.cap if rule is None else max(plan.cap, rule.sinks + rule.recent + 1)
        block = max(1, min(plan.block, plan.slot.capacity - cap))
        plan = make_plan(
            model,
            kv_budget=plan.kv_budget,
            cap=cap,
            block=block,
            policy=rule,
            sequences=plan.slots,
            memory=memory,
        )
    check_plan(model, plan, memory)
    if plan.policy is None:
        for number, length in enumerate(lengths):
            if length > plan.slot.capacity:
                raise InputError(
                    f"prompt {number} of {length - max_new_tokens} tokens and {max_new_tokens} new ones do not fit "
                    f"into a slot of {plan.slot.capacity}, and without a policy nothing is evicted: choose a policy or "
                    "a larger cap"
                )
    jobs = [
        Generation(
            *(model, tokens),
            max_new_tokens=max_new_tokens,
            sampling=own,
            stop=stop,
            evicts=plan.policy is not None,
            ignore_eos=ignore_eos,
            is_continuation=not _is_conversation(prompt),
        )
        for prompt, tokens, own in zip(given, encoded, samplings, strict=True)
    ]
    for _ in Engine(model, plan).run(jobs):
        pass
    return [job.completion() for job in jobs]


def _is_conversation(prompt: str | Tokens | Conversation) -> TypeGuard[Conversation]:
    return isinstance(prompt, Sequence) and len(prompt) > 0 and isinstance(prompt[0], Mapping)


def _encode(model: Model, number: int, prompt: str | Tokens | Conversation, add_special_tokens: bool) -> list[int]:
    """Return the tokens of a prompt."""
    if _is_conversation(prompt):
        try:
            text = render_messages(model.tokenizer, as_messages(prompt))
        except InputError as error:
            raise InputError(f"prompt {number}: {error}") from None
        tokens = encode_rendered(model.tokenizer, text)
    elif isinstance(prompt, str):
        tokens = model.encode_prompt(prompt, add_special_tokens=add_special_tokens)
    else:
        try:
            tokens = _as_ids(cast(Tokens, prompt))
        except TypeError:
            kinds = "a text, a sequence of token ids or a conversation"
            raise TypeError(f"prompt {number} must be {kinds}, not {prompt!r:.80}") from None
    if not tokens:
        raise InputError(f"prompt {number} is empty: there is nothing to continue")
    model.check_token_ids(tokens, f" of prompt {number}")
    return tokens


def _as_ids(tokens: Tokens) -> list[int]:
    """Integers of a sequence, a one-dimensional array or tensor."""
    values = tokens.tolist() if isinstance(tokens, HasToList) else list(tokens)
    if isinstance(tokens, (bytes, Mapping)) or any(isinstance(value, bool) for value in values):
        raise TypeError
    return [index(value) for value in values]


def _each(sampling: Sampling | Sequence[Sampling] | None, count: int) -> list[Sampling]:
    if sampling is None:
        sampling = Sampling(temperature=0)
    if isinstance(sampling, Sampling):
        return [sampling] * count
    if not isinstance(sampling, Sequence) or not all(isinstance(item, Sampling) for item in sampling):
        raise TypeError(f"sampling must be a Sampling, or one for each prompt, not {sampling!r:.80}")
    if len(sampling) != count:
        raise InputError(f"there are {count} prompts and {len(sampling)} samplings: give one, or one for each prompt")
    return list(sampling)


__all__ = ["DEFAULT_POLICY", "generate"]
