"""Tokenizers as Llama 2 and Mistral have them: spaces are letters, unknown characters are bytes, BOS and EOS added."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

from tests.helpers.tiny_models import save

BOS, EOS = "<s>", "</s>"
_LETTERS = "▁0123456789=+-:.acehitWxyz"
_MERGES = [("▁", "a"), ("i", "t"), ("W", "a"), ("Wa", "it"), ("2", "="), (".", "W")]


def sentencepiece_like(*, eos: bool = True) -> PreTrainedTokenizerFast:
    """A tokenizer that puts a space before a text, then BOS, and EOS after it."""
    names = ["<unk>", BOS, EOS, *(f"<0x{byte:02X}>" for byte in range(256)), *_LETTERS, *(a + b for a, b in _MERGES)]
    vocabulary = {name: index for index, name in enumerate(dict.fromkeys(names))}
    bpe = models.BPE(vocab=vocabulary, merges=_MERGES, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    spaces = decoders.Replace("▁", " ")
    tokenizer.decoder = decoders.Sequence([spaces, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens([BOS, EOS])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}" if eos else f"{BOS} $A", special_tokens=[(BOS, 1), (EOS, 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, model_max_length=64)


def save_sentencepiece_model(folder: Path, *, eos: bool = True) -> Path:
    """A directory with a tiny Llama, that tokenizer, and no chat template."""
    save(folder, "llama", vocab_size=320, closes=1.0)
    (folder / "chat_template.jinja").unlink()
    sentencepiece_like(eos=eos).save_pretrained(folder)
    return folder
