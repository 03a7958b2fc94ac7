"""Sampling, stopping, and text from tokens."""

from minseek.decode.sampling import Sampler, Sampling
from minseek.decode.stopping import TagWatcher
from minseek.decode.text import TextStream

__all__ = ["Sampler", "Sampling", "TagWatcher", "TextStream"]
