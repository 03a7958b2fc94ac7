"""The tokenizer: single digits and signs, words as merged bytes, able to encode any text."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END, USER, ASSISTANT, OPEN, CLOSE = "<|end|>", "<|user|>", "<|assistant|>", "<think>", "</think>"
VOCABULARY = 512
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|assistant|>{{ m.content.split('</think>')[-1].strip() }}"
    "<|end|>{% else %}<|user|>{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)
"""The template opens thinking, as R1's does, and omits the thinking of earlier turns."""


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level tokenizer on texts."""
    tokenizer = Tokenizer(models.BPE())
    pieces = Regex(r"\d|\n| ?[A-Za-z]+|[^A-Za-z0-9\n]")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pieces, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END, USER, ASSISTANT, OPEN, CLOSE],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=END, chat_template=TEMPLATE, model_max_length=512
    )
    fast.clean_up_tokenization_spaces = False
    return fast
