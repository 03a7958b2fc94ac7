"""Workarounds for transformers: silence, one-sentence errors, missing tensors."""

from __future__ import annotations

import logging as std_logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from minseek.errors import InputError

_PLAIN_REASONS = {
    "Couldn't instantiate the backend tokenizer": "it has no tokenizer files",
}
"""Part of an internal error message -> the fault of the file, in plain words."""


@contextmanager
def quiet(*, bars: bool = False) -> Iterator[None]:
    """Silence transformers' reports and, unless `bars`, its progress bars."""
    from transformers.utils import logging

    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    hub = std_logging.getLogger("huggingface_hub")
    hub_level = hub.level
    logging.set_verbosity(logging.CRITICAL)
    hub.setLevel(std_logging.CRITICAL)
    if not bars:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        hub.setLevel(hub_level)
        if shown:
            logging.enable_progress_bar()


def check_complete(name: str, found: Mapping[str, Any]) -> None:
    """Refuse a model whose files lack tensors: transformers would fill them with random numbers.

    Parameters
    ----------
    found : mapping
        Loading info of ``from_pretrained(…, output_loading_info=True)``.
    """
    missing = sorted(found["missing_keys"])
    if missing:
        raise InputError(
            f"the model {name!r} is incomplete: its files lack {len(missing)} tensors, the first is {missing[0]!r}"
        )


@contextmanager
def readable_errors(summary: str) -> Iterator[None]:
    """Turn any exception into an `InputError` of one sentence that begins with `summary`.

    Raises
    ------
    InputError
        In place of any other exception: parsers of third-party files raise all kinds for a damaged one.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        reason = next((plain for internal, plain in _PLAIN_REASONS.items() if internal in reason), reason)
        raise InputError(f"{summary}: {reason}") from error
