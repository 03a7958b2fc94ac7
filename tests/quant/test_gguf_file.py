"""Reading of GGUF files, against gguf's writer and reader; faults, hostile headers, split models."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minseek import InputError
from minseek.quant import BLOCK_FORMATS, PackedTensor
from minseek.quant.gguf_file import GGUFFile, open_gguf
from minseek.quant.gguf_header import StringArray
from tests.helpers.gguf_files import random_blocks, write_tensors

TENSORS = {"a.weight": random_blocks("q4_0", 3, 2), "b.weight": random_blocks("q6_k", 2, 1)}


def add_all_kinds(writer: GGUFWriter) -> None:
    writer.add_uint8("a.u8", 200)
    writer.add_int8("a.i8", -100)
    writer.add_uint16("a.u16", 60_000)
    writer.add_int16("a.i16", -30_000)
    writer.add_uint32("a.u32", 2**32 - 1)
    writer.add_int32("a.i32", -(2**31))
    writer.add_uint64("a.u64", 2**64 - 1)
    writer.add_int64("a.i64", -(2**63))
    writer.add_float32("a.f32", 1.5)
    writer.add_float64("a.f64", 0.1)
    writer.add_bool("a.yes", True)
    writer.add_string("a.text", "wörter 🙂")
    writer.add_array("a.numbers", [1, -2, 3])
    writer.add_array("a.reals", [0.5, -2.0])
    writer.add_array("a.flags", [True, False])
    writer.add_array("a.words", ["", "é", "two words"])


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tensors(tmp_path_factory.mktemp("gguf") / "valid.gguf", TENSORS, add_all_kinds)


def refusal(file: Path) -> str:
    """One sentence that names the file."""
    with pytest.raises(InputError) as caught:
        open_gguf(file)
    text = str(caught.value)
    assert text.startswith(str(file.parent))
    assert "\n" not in text
    return text.replace(str(file.parent) + "/", "")


def test_metadata_of_all_kinds_is_read(valid: Path) -> None:
    found = open_gguf(valid).metadata
    expected: dict[str, Any] = {
        **{"a.u8": 200, "a.i8": -100, "a.u16": 60_000, "a.i16": -30_000, "a.u32": 2**32 - 1, "a.i32": -(2**31)},
        **{"a.u64": 2**64 - 1, "a.i64": -(2**63), "a.f32": 1.5, "a.f64": 0.1, "a.yes": True, "a.text": "wörter 🙂"},
        **{
            "a.numbers": [1, -2, 3],
            "a.reals": [0.5, -2.0],
            "a.flags": [True, False],
            "a.words": ["", "é", "two words"],
        },
    }
    assert {key: list(v) if isinstance(v, (np.ndarray, StringArray)) else v for key, v in found.items()} == {
        "general.architecture": "llama",
        **expected,
    }
    assert found["a.yes"] is True


def test_tensors_of_all_formats_are_views_of_the_file(tmp_path: Path) -> None:
    tensors = {f"{name}.weight": random_blocks(name, 4, 3, seed) for seed, name in enumerate(BLOCK_FORMATS)}
    file = write_tensors(tmp_path / "all.gguf", tensors)
    opened = open_gguf(file)
    theirs = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    assert list(opened.tensors) == list(theirs)
    for name, packed in opened.tensors.items():
        assert packed.format is tensors[name].format
        assert opened.shapes[name] == packed.shape == tuple(theirs[name].shape)[::-1]
        np.testing.assert_array_equal(packed.data, tensors[name].data)
        assert not packed.data.flags.owndata
        assert not packed.data.flags.writeable
    opened.release(opened.tensors.values())
    for name, packed in opened.tensors.items():
        np.testing.assert_array_equal(packed.data, tensors[name].data)


def test_leading_dimensions_are_rows(tmp_path: Path) -> None:
    data = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    file = write_tensors(tmp_path / "cube.gguf", {}, lambda w: w.add_tensor("experts.weight", data))
    opened = open_gguf(file)
    assert opened.shapes == {"experts.weight": (2, 3, 4)}
    np.testing.assert_array_equal(opened.tensors["experts.weight"].dequantize(), data.reshape(6, 4))


def test_another_alignment_is_followed(tmp_path: Path) -> None:
    def align(writer: GGUFWriter) -> None:
        writer.add_custom_alignment(128)

    opened = open_gguf(write_tensors(tmp_path / "aligned.gguf", TENSORS, align))
    for name, packed in TENSORS.items():
        np.testing.assert_array_equal(opened.tensors[name].data, packed.data)


# split models


def write_parts(folder: Path, count: int = 3) -> list[Path]:
    files = []
    for number in range(count):

        def add(writer: GGUFWriter, number: int = number) -> None:
            writer.add_uint16("split.no", number)
            writer.add_uint16("split.count", count)
            writer.add_int32("split.tensors.count", count)
            if number == 0:
                writer.add_uint32("llama.block_count", 7)

        file = folder / f"big-{number + 1:05}-of-{count:05}.gguf"
        files.append(write_tensors(file, {f"{number}.weight": random_blocks("q8_0", 2, 1, number)}, add))
    return files


def test_a_split_model_is_found_from_any_part(tmp_path: Path) -> None:
    files = write_parts(tmp_path)
    for file in files:
        opened = open_gguf(file)
        assert opened.path == files[0]
        assert opened.required("llama.block_count", int) == 7
        assert list(opened.tensors) == ["0.weight", "1.weight", "2.weight"]
        assert opened.nbytes == sum(part.stat().st_size for part in files)
        np.testing.assert_array_equal(opened.tensors["2.weight"].data, random_blocks("q8_0", 2, 1, 2).data)


def _without_a_part(files: list[Path]) -> Path:
    files[1].unlink()
    return files[0]


def _renamed(files: list[Path]) -> Path:
    return files[0].rename(files[0].with_name("big.gguf"))


def _swapped(files: list[Path]) -> Path:
    files[2].write_bytes(files[1].read_bytes())
    return files[0]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_without_a_part, "big-00002-of-00003.gguf could not be read: No such file or directory; big-00001-of-00003"),
        (_renamed, "big.gguf is one of 3 parts"),
        (_swapped, "big-00003-of-00003.gguf is not part 3 of 3"),
    ],
)
def test_a_split_model_that_is_not_whole_is_refused(
    tmp_path: Path, spoil: Callable[[list[Path]], Path], said: str
) -> None:
    assert said in refusal(spoil(write_parts(tmp_path)))


# faults


def header(tensors: int = 0, entries: int = 0, rest: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, entries) + rest


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def tensor(name: str = "a", shape: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + dimensions + struct.pack("<IQ", kind, offset)


PAD = b"\0" * 512


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not a GGUF file: it is empty"),
        (b"GGU", "does not begin with the letters GGUF"),
        (b"\0" * 100, "does not begin with the letters GGUF"),
        (b"GGUF", "ends inside its header"),
        (header()[:10], "ends inside its header"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (header(version=1), "version 1 of the format"),
        (header(version=77), "version 77 of the format"),
        (header(tensors=2**62), f"announces {2**62:,} tensors"),
        (header(entries=2**63), f"announces {2**63:,} entries"),
        (header(0, 1, struct.pack("<Q", 2**60) + PAD), "bytes of text, more than the file can hold"),
        (header(0, 1, text("a") + struct.pack("<I", 99) + PAD), "unknown type 99"),
        (header(0, 1, text("a") + struct.pack("<IIQ", 9, 8, 2**61) + PAD), f"announces {2**61:,} strings"),
        (header(0, 1, text("a") + struct.pack("<IIQ", 9, 12, 2**61) + PAD), f"announces {2**61:,} numbers"),
        (header(0, 1, text("a") + struct.pack("<IIQ", 9, 9, 1) + PAD), "array of the unknown type 9"),
        (header(0, 2, 2 * (text("a") + struct.pack("<IB", 0, 1)) + PAD), "two entries 'a'"),
        (header(0, 1, struct.pack("<Q", 1) + b"\xff" + PAD), "not UTF-8"),
        (header(0, 1, text("general.alignment") + struct.pack("<II", 4, 48) + PAD), "alignment is 48"),
        (header(0, 1, text("general.alignment") + struct.pack("<II", 4, 0) + PAD), "alignment is 0"),
        (header(1, 0, tensor(shape=()) + PAD), "'a' has 0 dimensions"),
        (header(1, 0, tensor(shape=(1,) * 9) + PAD), "'a' has 9 dimensions"),
        (header(1, 0, tensor(shape=(0, 4)) + PAD), "'a' has the shape [4, 0]"),
        (header(1, 0, tensor(shape=(48, 2), kind=2) + PAD), "'a' has the shape [2, 48], which blocks of 32"),
        (header(1, 0, tensor(kind=16) + PAD), "'a' is stored in the format iq2_xxs: only f32, f16, bf16, q4_0"),
        (header(1, 0, tensor(kind=4711) + PAD), "'a' is stored in the format number 4711"),
        (header(1, 0, tensor(offset=8) + PAD), "'a' begins at byte 8 of the data, no multiple of 32"),
        (header(1, 0, tensor(offset=2**40) + PAD), "'a' ends at byte 1,099,511,"),
        (header(1, 0, tensor(shape=(2**32, 2**31)) + PAD), "cut off or damaged"),
        (header(2, 0, tensor() + tensor() + PAD), "two tensors 'a'"),
        (header(2, 0, tensor() + tensor("b", offset=64) + PAD), "'a' and 'b' overlap"),
    ],
)
def test_a_damaged_or_hostile_file_is_refused_in_one_sentence(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "bad.gguf").write_bytes(content)
    assert said in refusal(tmp_path / "bad.gguf")


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert "could not be read" in refusal(tmp_path / "missing.gguf")
    assert "could not be read" in refusal(tmp_path / "..")


def test_a_value_of_another_kind_is_refused(valid: Path) -> None:
    opened = open_gguf(valid)
    assert opened.optional("a.u8", float, 0.0) == 200.0
    assert opened.optional("a.nothing", int, 3) == 3
    for read in (
        lambda: opened.required("a.text", int),
        lambda: opened.optional("a.yes", int, 0),
        lambda: opened.required("a.u8", bool),
        lambda: opened.required("a.nothing", int),
        lambda: opened.strings("a.numbers"),
    ):
        with pytest.raises(InputError, match=r"valid\.gguf is (damaged|incomplete)"):
            read()


def use(opened: GGUFFile) -> None:
    """Read everything."""
    for value in opened.metadata.values():
        if isinstance(value, StringArray):
            with contextlib.suppress(UnicodeDecodeError):
                list(value)
    for packed in opened.tensors.values():
        assert isinstance(packed, PackedTensor)
        assert packed.dequantize().shape == packed.shape


@given(st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_change_of_the_header_is_read_or_refused_in_one_sentence(
    valid: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(valid.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content) - 8))
        change = data.draw(st.binary(min_size=1, max_size=8) | st.sampled_from([b"\xff" * 8, b"\0" * 8, b"\x7f" * 4]))
        content[start : start + len(change)] = change
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    file = tmp_path_factory.getbasetemp() / "changed.gguf"
    file.unlink(missing_ok=True)  # a mapped file is never cut off
    file.write_bytes(content)
    message = ""
    try:
        use(open_gguf(file))
    except InputError as error:
        message = str(error)
    assert not message or message.startswith(str(file))
    assert "\n" not in message


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.3, 0.6, 0.9])
def test_a_file_that_is_cut_off_is_refused(valid: Path, tmp_path: Path, kept: float) -> None:
    content = valid.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(content[: int(kept * len(content))])
    assert "cut.gguf is" in refusal(tmp_path / "cut.gguf")
