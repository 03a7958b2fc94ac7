"""Sampling, stopping, and text from tokens."""

from minseek.decode.logprobs import TokenLogprob, check_logprobs, logprob, token_logprob
from minseek.decode.sampling import Sampler, Sampling
from minseek.decode.stopping import TagWatcher, check_stop
from minseek.decode.text import TextStream, decode_behind, text_end

__all__ = [
    "Sampler",
    "Sampling",
    "TagWatcher",
    "TextStream",
    "TokenLogprob",
    "check_logprobs",
    "check_stop",
    "decode_behind",
    "logprob",
    "text_end",
    "token_logprob",
]
