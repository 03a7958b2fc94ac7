"""Block formats and packed matrices, against gguf's own table and `gguf.quants.dequantize`."""

from __future__ import annotations

import re

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from minseek import InputError
from minseek.quant import BLOCK_FORMATS, BlockFormat, PackedTensor, block_format
from tests.helpers.gguf_files import random_blocks


@pytest.mark.parametrize("form", BLOCK_FORMATS.values(), ids=BLOCK_FORMATS)
def test_a_format_is_the_one_of_gguf_with_its_name_and_number(form: BlockFormat) -> None:
    kind = GGMLQuantizationType(form.gguf_type)
    assert kind.name.lower() == form.name
    assert GGML_QUANT_SIZES[kind] == (form.block_size, form.block_bytes)
    assert form.row_bytes(3 * form.block_size) == 3 * form.block_bytes
    assert block_format(form.name) is form


@pytest.mark.parametrize("form", BLOCK_FORMATS.values(), ids=BLOCK_FORMATS)
def test_rows_are_dequantized_as_gguf_does(form: BlockFormat) -> None:
    packed = random_blocks(form.name, 37, 3)
    expected = dequantize(packed.data, GGMLQuantizationType(form.gguf_type)).reshape(packed.shape)
    np.testing.assert_array_equal(packed.dequantize(), expected)
    for first, last in ((0, 1), (5, 23), (36, 37), (4, 4)):
        np.testing.assert_array_equal(packed.dequantize(first, last), expected[first:last])
    assert packed.nbytes == packed.data.nbytes
    assert packed.dequantize().dtype == np.float32


def test_rows_that_are_no_whole_blocks_are_refused() -> None:
    with pytest.raises(InputError, match="a row of 576 weights is no multiple of 256, a block of q4_k"):
        block_format("q4_k").row_bytes(576)


def test_data_of_another_shape_or_type_is_refused() -> None:
    form = block_format("q8_0")
    with pytest.raises(InputError, match=re.escape("2 x 64 weights in q8_0 are uint8 [2, 68], not uint8 [2, 67]")):
        PackedTensor(form, 2, 64, np.zeros((2, 67), np.uint8))
    with pytest.raises(InputError, match="not int8"):
        PackedTensor(form, 2, 64, np.zeros((2, 68), np.int8))  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", [(-1, 2), (2, 1), (0, 5)])
def test_rows_outside_are_refused(rows: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=f"no rows {rows[0]} to {rows[1]} in a matrix of 4 rows"):
        random_blocks("q4_0", 4, 1).dequantize(*rows)


def test_an_unknown_format_is_refused_with_its_name() -> None:
    with pytest.raises(InputError, match="no format of weights 'q4_x': choose from f32, f16"):
        block_format("q4_x")
    with pytest.raises(TypeError, match="must be a string, not 4"):
        block_format(4)  # type: ignore[arg-type]
