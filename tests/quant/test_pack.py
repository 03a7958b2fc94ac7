"""Packing of dense matrices: errors beside naive rounding and llama.cpp's bounds, layouts, exact cases."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import quantize
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minseek import InputError
from minseek.quant import BLOCK_FORMATS, block_format, pack
from minseek.quant.pack import format_for_row

PACKED = [form for form in BLOCK_FORMATS.values() if not form.is_dense]
SEARCHED = ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs")
# relative RMS error of Gaussian weights, at most: uniform levels over a group's range, and a little for the scales
BOUNDS = {
    **{"q4_0": 0.1, "q4_1": 0.085, "q5_0": 0.05, "q5_1": 0.042, "q8_0": 0.0065, "mxfp4": 0.13},
    **{"q2_k": 0.31, "q3_k": 0.17, "q4_k": 0.08, "q5_k": 0.04, "q6_k": 0.021, "iq4_nl": 0.085, "iq4_xs": 0.085},
}


def weights(rows: int = 24, columns: int = 512, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((rows, columns)) * rng.uniform(0.01, 0.1, (rows, 1))).astype(np.float32)


def error(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.sqrt(np.mean((x - y) ** 2) / np.mean(x**2)))


@pytest.mark.parametrize("form", PACKED, ids=lambda form: form.name)
def test_errors_are_those_of_the_number_of_bits(form) -> None:  # type: ignore[no-untyped-def]
    x = weights()
    packed = pack(x, form)
    assert packed.shape == x.shape
    assert error(x, packed.dequantize()) < BOUNDS[form.name]
    np.testing.assert_array_equal(pack(x[3:5], form).data, packed.data[3:5])  # rows do not depend on each other


def naive(x: np.ndarray, name: str) -> np.ndarray:
    """Every group rounded to levels that cover its range, with scales and minima in float32: no search."""
    bits = int(name[1])
    size = 16 if name in ("q2_k", "q3_k", "q6_k") else 32
    groups = x.reshape(-1, size)
    if name in ("q3_k", "q6_k"):
        half = 2 ** (bits - 1)
        step = np.abs(groups).max(axis=1, keepdims=True) / (half - 1)
        return (np.clip(np.rint(groups / step), -half, half - 1) * step).reshape(x.shape)
    low, high = groups.min(axis=1, keepdims=True), groups.max(axis=1, keepdims=True)
    step = (high - low) / (2**bits - 1)
    return (np.rint((groups - low) / step) * step + low).reshape(x.shape)


@pytest.mark.parametrize("name", ["q2_k", "q3_k", "q4_k", "q5_k", "q6_k"])
@pytest.mark.parametrize("heavy", [False, True])
def test_the_search_beats_naive_rounding_with_exact_scales(name: str, heavy: bool) -> None:
    x = weights(seed=5)
    if heavy:
        x *= np.random.default_rng(6).standard_t(4, x.shape).astype(np.float32)
    assert error(x, pack(x, block_format(name)).dequantize()) < error(x, naive(x, name))


@pytest.mark.parametrize("name", ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "mxfp4", "bf16", "f16", "f32"])
def test_the_others_are_rounded_as_gguf_does(name: str) -> None:
    form, x = block_format(name), weights()
    expected = quantize(x, GGMLQuantizationType(form.gguf_type)).view(np.uint8).reshape(len(x), -1)
    np.testing.assert_array_equal(pack(x, form).data, expected)


@pytest.mark.parametrize("form", PACKED, ids=lambda form: form.name)
def test_zeros_and_constants_survive(form) -> None:  # type: ignore[no-untyped-def]
    x = np.zeros((3, 256), np.float32)
    np.testing.assert_array_equal(pack(x, form).dequantize(), x)
    for value in (-0.5, 2.0):
        np.testing.assert_allclose(pack(x + value, form).dequantize(), x + value, rtol=0.04)


@pytest.mark.parametrize("name", SEARCHED)
@given(
    x=hnp.arrays(np.float32, (2, 256), elements=st.floats(-100, 100, width=32)),
    zeros=hnp.arrays(np.bool_, (2, 256)),
)
@settings(max_examples=40, deadline=None)
def test_no_weight_is_further_off_than_its_groups_range(name: str, x: np.ndarray, zeros: np.ndarray) -> None:
    """Whatever the values: every weight comes back finite and within a fraction of the largest of its block."""
    x[zeros] = 0
    form = block_format(name)
    values = pack(x, form).dequantize()
    largest = np.abs(x.reshape(-1, form.block_size)).max(axis=1, keepdims=True)
    share = {"q2_k": 0.55, "q3_k": 0.5, "q4_k": 0.2, "q5_k": 0.12, "q6_k": 0.06}.get(name, 0.25)
    smallest_scales = 3e-4  # that fp16 holds, times the levels
    assert np.all(np.abs(values - x).reshape(-1, form.block_size) <= share * largest + smallest_scales)


def test_rows_that_are_no_whole_blocks_take_what_llama_cpp_takes() -> None:
    taken = {name: format_for_row(block_format(name), 576).name for name in BLOCK_FORMATS}
    assert taken["q4_k"] == "q5_0"
    assert taken["q5_k"] == "q5_1"
    assert taken["q6_k"] == "q8_0"
    assert {taken[name] for name in ("q2_k", "q3_k", "iq4_xs")} == {"iq4_nl"}
    assert all(taken[name] == name for name in ("q4_0", "q8_0", "iq4_nl", "mxfp4", "bf16", "f32"))
    assert format_for_row(block_format("q4_k"), 512).name == "q4_k"
    assert format_for_row(block_format("q4_0"), 40).name == "f16"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e5])
def test_weights_that_cannot_be_packed_are_refused(bad: float) -> None:
    x = weights()
    x[20, 7] = bad
    with pytest.raises(InputError, match="must be finite and below 60,000"):
        pack(x, block_format("q4_k"))
