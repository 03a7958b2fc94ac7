"""transformers, made quiet, and its errors cut down to a sentence."""

from __future__ import annotations

import logging as std_logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from minseek.errors import InputError

_PLAINLY = {
    "cannot reshape array": "it is cut off or corrupt",
    "Couldn't instantiate the backend tokenizer": "it has no tokenizer files",
}
"""Reasons that name what went wrong inside, and what is wrong with the file."""


@contextmanager
def quiet(*, bars: bool = False) -> Iterator[None]:
    """Without transformers' reports and retries, and, unless `bars`, without its progress bars."""
    from transformers import modeling_gguf_pytorch_utils as gguf_reader
    from transformers.utils import logging

    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    hub = std_logging.getLogger("huggingface_hub")
    hub_level = hub.level
    logging.set_verbosity(logging.CRITICAL)
    hub.setLevel(std_logging.CRITICAL)
    bar = gguf_reader.tqdm
    if not bars:
        logging.disable_progress_bar()
        gguf_reader.tqdm = partial(bar, disable=True)  # this one does not listen to the line above
    try:
        yield
    finally:
        logging.set_verbosity(level)
        hub.setLevel(hub_level)
        gguf_reader.tqdm = bar
        if shown:
            logging.enable_progress_bar()


def check_complete(name: str, found: Mapping[str, Any]) -> None:
    """Refuse a model whose files lack tensors: transformers fills them with random numbers.

    Parameters
    ----------
    found : mapping
        What ``from_pretrained(…, output_loading_info=True)`` tells.
    """
    missing = sorted(found["missing_keys"])
    if missing:
        raise InputError(
            f"the model {name!r} is incomplete: its files lack {len(missing)} tensors, the first is {missing[0]!r}"
        )


@contextmanager
def parsed_once(file: Path) -> Iterator[Any]:
    """Let transformers use one parsed reader of a GGUF file: it parses the file three times, many seconds each."""
    import gguf

    original, reader = gguf.GGUFReader, gguf.GGUFReader(str(file))
    gguf.GGUFReader = lambda *_, **__: reader
    try:
        yield reader
    finally:
        gguf.GGUFReader = original


@contextmanager
def readable_errors(what: str) -> Iterator[None]:
    """Turn whatever is raised inside into one sentence that begins with `what`.

    Raises
    ------
    InputError
        In place of any other exception: readers of other people's files raise whatever a broken one leads them to.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        reason = next((plain for obscure, plain in _PLAINLY.items() if obscure in reason), reason)
        raise InputError(f"{what}: {reason}") from error
