"""Writing of GGUF files, against gguf's reader and our own; faults of the disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from gguf import GGUFReader

from minseek import InputError
from minseek.quant import BLOCK_FORMATS, open_gguf
from minseek.quant.gguf_header import StringArray
from minseek.quant.gguf_writer import TensorPlan, encode_entry, write_gguf
from tests.helpers.gguf_files import random_blocks

TENSORS = {f"{name}.weight": random_blocks(name, 5, 3, seed) for seed, name in enumerate(BLOCK_FORMATS)}
PLANS = [TensorPlan(name, packed.shape, packed.format) for name, packed in TENSORS.items()]
ENTRIES = [
    encode_entry("general.architecture", "string", "llama"),
    encode_entry("a.count", "uint32", 2**32 - 1),
    encode_entry("a.types", "int32", [1, -3]),
    encode_entry("a.scale", "float32", 0.5),
    encode_entry("a.yes", "bool", True),
    encode_entry("a.words", "string", ["é", ""]),
]


def rows_of(plan: TensorPlan) -> Iterator[np.ndarray]:
    data = TENSORS[plan.name].data
    yield data[:2]
    yield data[2:]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "new.gguf"
    write_gguf(file, ENTRIES, PLANS, rows_of)
    opened = open_gguf(file)
    for name, packed in TENSORS.items():
        assert opened.tensors[name].format is packed.format
        np.testing.assert_array_equal(opened.tensors[name].data, packed.data)
    plain = {key: list(v) if isinstance(v, (StringArray, np.ndarray)) else v for key, v in opened.metadata.items()}
    assert plain == {
        **{"general.architecture": "llama", "a.count": 2**32 - 1, "a.types": [1, -3], "a.scale": 0.5, "a.yes": True},
        "a.words": ["é", ""],
    }
    assert [opened.stored_entry(key) for key in plain] == ENTRIES
    theirs = GGUFReader(file)
    assert {tensor.name: tuple(tensor.shape)[::-1] for tensor in theirs.tensors} == {p.name: p.shape for p in PLANS}
    assert theirs.fields["a.words"].contents() == ["é", ""]
    assert [path.name for path in tmp_path.iterdir()] == ["new.gguf"]
    (tmp_path / "other").touch()
    assert file.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "new.gguf"
    file.write_text("before")

    def fail(plan: TensorPlan) -> Iterator[np.ndarray]:
        yield TENSORS[plan.name].data[:1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_gguf(file, ENTRIES, PLANS, fail)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("new.gguf", "before")]


def test_room_on_the_disk_is_checked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match=r"new\.gguf takes .* KB, and its disk has 1\.00 KB free"):
        write_gguf(tmp_path / "new.gguf", ENTRIES, PLANS, rows_of)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none/new\.gguf could not be written: No such file or directory"):
        write_gguf(tmp_path / "none" / "new.gguf", ENTRIES, PLANS, rows_of)
