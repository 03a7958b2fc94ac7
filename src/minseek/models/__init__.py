"""Model loading and the forward pass."""

from minseek.models.chat.encoding import encode_rendered
from minseek.models.chat.prompts import Question, as_messages, render_messages
from minseek.models.chat.thinking_format import FORMATS, PLAIN, THINK, ThinkingFormat
from minseek.models.config import VERIFIED
from minseek.models.forward.chunk import SequenceChunk, check_token_ids
from minseek.models.loading.aliases import ALIASES, alias_file, example_question, fitting_alias
from minseek.models.loading.load import load
from minseek.models.model import Model, Session, SessionStats, check_model

__all__ = [
    "ALIASES",
    "FORMATS",
    "PLAIN",
    "THINK",
    "VERIFIED",
    "Model",
    "Question",
    "SequenceChunk",
    "Session",
    "SessionStats",
    "ThinkingFormat",
    "alias_file",
    "as_messages",
    "check_model",
    "check_token_ids",
    "encode_rendered",
    "example_question",
    "fitting_alias",
    "load",
    "render_messages",
]
