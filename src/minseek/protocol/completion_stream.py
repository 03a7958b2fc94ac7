"""Tokens of a completion as text and log-probabilities that are certain."""

from __future__ import annotations

from minseek.decode import TokenLogprob
from minseek.protocol.token_texts import TokenTexts


class CompletionStream:
    """Collects the text of one completion, and the tokens whose text is certain.

    Attributes
    ----------
    text : str
        Text so far.
    logprobs : list of TokenLogprob
        Tokens of that text, with their texts.
    offset : int
        Length of the texts of those tokens: where the next one's begins.
    """

    def __init__(self) -> None:
        self.text = ""
        self.logprobs: list[TokenLogprob] = []
        self.offset = 0
        self._texts = TokenTexts()

    def push(self, text: str, logprob: TokenLogprob | None) -> list[TokenLogprob]:
        """Add a token's text and log-probability; return the tokens whose text is certain now."""
        if logprob is not None:
            self._texts.add(logprob)
        self.text += text
        return self._certain(self._texts.release(text) if text else [])

    def finish(self, *, stopped: bool) -> list[TokenLogprob]:
        """End the completion, by a stop string or not; return the tokens that are left."""
        return self._certain(self._texts.finish(stopped=stopped))

    def _certain(self, logprobs: list[TokenLogprob]) -> list[TokenLogprob]:
        self.logprobs += logprobs
        self.offset += sum(len(entry.text or "") for entry in logprobs)
        return logprobs
