"""Put a trained model into the package as `tiny`: ``python -m recipes.tiny_reasoner.ship FOLDER``."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from transformers import AutoModelForCausalLM

from minseek.models.config import MODEL_CONFIG_FILE, from_transformers
from minseek.models.loading.aliases import TINY
from minseek.models.loading.recommended import FILE as RECOMMENDED_FILE

_MAX_BYTES = 16_000_000  # bytes
_FILES = (
    *("config.json", "generation_config.json", "model.safetensors"),
    *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
)


def ship(folder: Path) -> None:
    """Copy the model's files and write the config that loads it without transformers' modeling code."""
    source = folder / "model"
    size = (source / "model.safetensors").stat().st_size
    assert size <= _MAX_BYTES, f"{size} bytes of weights are too many to ship: {_MAX_BYTES} at most"
    TINY.mkdir(exist_ok=True)
    for name in _FILES:
        shutil.copy(source / name, TINY / name)
    (TINY / RECOMMENDED_FILE).unlink(missing_ok=True)  # the evidence is that of the model before: measure again
    shutil.copy(folder / "training.json", TINY / "training.json")
    from_transformers(AutoModelForCausalLM.from_pretrained(source)).write(TINY / MODEL_CONFIG_FILE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    ship(parser.parse_args().folder)
