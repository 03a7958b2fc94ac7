"""What minseek says when it is asked for something that cannot be done."""

from __future__ import annotations


class InputError(ValueError):
    """A request that cannot be honoured; its text is one sentence: what was wrong, the value, what to do."""


class MinseekWarning(UserWarning):
    """Something a user should know about a request that is honoured."""


def check_type(what: str, value: object, kind: type | tuple[type, ...], todo: str = "") -> None:
    """Refuse a value of another type than is wanted.

    Parameters
    ----------
    what : str
        How the sentence begins, such as "steps must be an integer".
    value : object
        What was given. True and False are numbers in Python, but nobody means one by them: only bool lets them pass.
    kind : type or tuple of types
        What it may be.
    todo : str
        How the sentence ends.

    Raises
    ------
    TypeError
        With the beginning of the value.
    """
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise TypeError(f"{what}, not {value!r:.80}{todo}")
