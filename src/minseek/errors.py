"""Errors for input that cannot be honored, and checks that raise them."""

from __future__ import annotations


class InputError(ValueError):
    """Input that cannot be honored; the message is one sentence with the fault, the value and the remedy."""


class MinseekWarning(UserWarning):
    """Warning about a request that is honored."""


def is_instance(value: object, kind: type | tuple[type, ...]) -> bool:
    """`isinstance`, but True and False are no numbers: they pass only where bool is allowed."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds)


def check_type(rule: str, value: object, kind: type | tuple[type, ...], remedy: str = "") -> None:
    """Refuse a value of the wrong type.

    Parameters
    ----------
    rule : str
        Beginning of the message, such as "steps must be an integer".
    value : object
        The value to check; see `is_instance` for True and False.
    kind : type or tuple of types
        Allowed types.
    remedy : str
        End of the message.

    Raises
    ------
    TypeError
        With the beginning of the value.
    """
    if not is_instance(value, kind):
        raise TypeError(f"{rule}, not {value!r:.80}{remedy}")


def check_int(name: str, value: object, least: int = 1, *, optional: bool = False) -> None:
    """Refuse a value that is not an integer (True and False are not) or is below `least`; None passes if `optional`.

    Raises
    ------
    TypeError, InputError
        With the name and the value.
    """
    if value is None and optional:
        return
    check_type(f"{name} must be an integer{' or None' if optional else ''}", value, int)
    if isinstance(value, int) and value < least:
        raise InputError(f"{name} must be {least} or more, not {value}")
