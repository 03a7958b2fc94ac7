"""Tokens of a completion as text and log-probabilities that are certain."""

from __future__ import annotations

from minseek.decode import TokenLogprob


class CompletionStream:
    """Collects the text of one completion, and the tokens whose text is certain.

    Attributes
    ----------
    text : str
        Text so far.
    logprobs : list of TokenLogprob
        Tokens of that text; those of a stop string never become certain.
    """

    def __init__(self) -> None:
        self.text = ""
        self.logprobs: list[TokenLogprob] = []
        self._uncertain: list[TokenLogprob] = []

    def push(self, text: str, logprob: TokenLogprob | None) -> list[TokenLogprob]:
        """Add a token's text and log-probability; return the tokens whose text is certain now."""
        if logprob is not None:
            self._uncertain.append(logprob)
        if not text:
            return []
        certain, self._uncertain = self._uncertain, []
        self.text += text
        self.logprobs += certain
        return certain
