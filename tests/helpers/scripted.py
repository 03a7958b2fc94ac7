"""A model whose words a test gives."""

from __future__ import annotations

from typing import Any

import minseek
from minseek.reasoning.options import RunOptions
from minseek.reasoning.run import Run


class Scripted:
    """A model with scripted output: each text is its output between two passes of more than one token."""

    def __init__(self, model: minseek.Model, texts: list[str]) -> None:
        self.model = model
        self.tokens = [token for text in texts for token in model.encode(text)]

    def run(self, strategy: Any, limits: minseek.Limits | None = None, all_of_it: bool = True) -> minseek.Result:
        wanted = Run(
            self.model,
            "hello",
            RunOptions(strategy=strategy, sampling=minseek.Sampling(), limits=limits or minseek.Limits()),
        )
        wanted._sampler.pick = lambda logits, banned=(): self.tokens.pop(0) if self.tokens else 256  # type: ignore
        *_, last = wanted.events()
        assert isinstance(last, minseek.Finished)
        assert not (all_of_it and self.tokens)
        return last.result
