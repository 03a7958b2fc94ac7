"""Sampling, stop strings, loops, log-probabilities and decoding of tokens to text."""

from minseek.decode.logprobs import MAX_LOGPROBS, TokenLogprob, check_logprobs, logprob, token_logprob
from minseek.decode.loops import LoopDetector
from minseek.decode.sampling import Sampler, Sampling
from minseek.decode.stopping import TagWatcher, check_stop
from minseek.decode.text import TextStream, decode_after, decode_context

__all__ = [
    "MAX_LOGPROBS",
    "LoopDetector",
    "Sampler",
    "Sampling",
    "TagWatcher",
    "TextStream",
    "TokenLogprob",
    "check_logprobs",
    "check_stop",
    "decode_after",
    "decode_context",
    "logprob",
    "token_logprob",
]
