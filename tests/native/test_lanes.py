"""Each operation of native/simd, compiled for every instruction set, against NumPy's."""

from __future__ import annotations

import ctypes
import platform

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from minseek.native import Kernels, loaded
from minseek.native.isa import NAMES
from tests.helpers.levels import use_level

X86 = platform.machine() == "x86_64"
# Level and compiler flags; without SSE2, what is for all processors.
LEVELS = {**dict.fromkeys(NAMES, ()), "any": ("-U__SSE2__",)} if X86 else {"": ()}
# Arrays of 16 numbers go through vectors of any width.
SOURCE = """
#include "lanes.h"
#define EACH(lanes) for (int i = 0; i < 16; i += lanes)
#define OF(T, LANES, real)                                                                                         \\
    void T##_ops(const real *a, const real *b, real limit, unsigned chosen, real *out, unsigned *le) {             \\
        *le = 0;                                                                                                   \\
        EACH(LANES) {                                                                                              \\
            const T##_vec x = *(const T##_vec_u *)(a + i), y = *(const T##_vec_u *)(b + i);                        \\
            *le |= T##_le(x, limit) << i;                                                                          \\
            *(T##_vec_u *)(out + i) = T##_min(x, y);                                                               \\
            *(T##_vec_u *)(out + 16 + i) = T##_max(x, y);                                                          \\
            *(T##_vec_u *)(out + 32 + i) = T##_blend(chosen >> i, x, y);                                           \\
            *(T##_vec_u *)(out + 48 + i) = T##_all(a[i / LANES]);                                                  \\
            out[64 + i / LANES] = T##_hmin(x);                                                                     \\
        }                                                                                                          \\
    }                                                                                                              \\
    void T##_four(const real *a, real *out) {                                                                      \\
        T##_vec v[4];                                                                                              \\
        for (int q = 0; q < 4; q++) v[q] = *(const T##_vec_u *)(a + q * LANES);                                    \\
        T##_hmin4(v, out);                                                                                         \\
    }
OF(f32, F32_LANES, float)
OF(f64, F64_LANES, double)
int lanes(void) { return F32_LANES; }
double sum8(const double *a) {
    f64_vec v[8 / F64_LANES];
    memcpy(v, a, sizeof v);
    return f64_sum8(v);
}
void bf16(const float *x, int count, uint16_t *out, float *back) {
    for (int i = 0; i < count; i += F32_LANES) {
        const int some = count - i < F32_LANES ? count - i : F32_LANES;
        f32_vec v = {0};
        memcpy(&v, x + i, 4 * some);
        bf16_store_some(out + i, bf16_narrow(v, bf16_nearest(v)), some);
        v = bf16_widen_some(out + i, some);
        memcpy(back + i, &v, 4 * some);
    }
}
void mul_low(const uint64_t *a, uint32_t factor, uint64_t *out, uint64_t *high) {
    EACH(F64_LANES) {
        u64_vec v;
        memcpy(&v, a + i, sizeof v);
        const u64_vec product = u64_mul_low(v, factor), moved = u64_high_to_low(v) & 0xFFFFFFFFu;
        memcpy(out + i, &product, sizeof v);
        memcpy(high + i, &moved, sizeof v);
    }
}
"""
Floats = NDArray[np.floating]
numbers = st.floats(allow_subnormal=True)


@pytest.fixture(scope="module", params=LEVELS)
def lanes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("lanes")
    (folder / "lanes.c").write_text(SOURCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MINSEEK_NATIVE", raising=False)
        patch.setenv("MINSEEK_CACHE", str(folder / "cache"))
        if X86:
            use_level(request.param.replace("any", "portable"), patch)
        status = loaded(Kernels("lanes", folder, ("lanes.c",), ("-O2", "-Wno-psabi", *LEVELS[request.param])))
    assert status.library is not None, status.reason
    status.library.sum8.restype = ctypes.c_double
    return status.library


def address(array: NDArray[np.generic]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def same(got: Floats, wanted: Floats) -> bool:
    return np.array_equal(got, wanted, equal_nan=True)


@given(
    st.lists(numbers, min_size=16, max_size=16),
    st.lists(numbers, min_size=16, max_size=16),
    numbers,
    st.integers(0, 2**16 - 1),
)
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_compare_select_and_reduce(
    lanes: ctypes.CDLL, kind: str, a: list[float], b: list[float], limit: float, chosen: int
) -> None:
    dtype, c_real = (np.float32, ctypes.c_float) if kind == "f32" else (np.float64, ctypes.c_double)
    width = lanes.lanes() * 4 // np.dtype(dtype).itemsize
    with np.errstate(over="ignore"):
        x, y, bound = np.array(a, dtype), np.array(b, dtype), dtype(limit)
    out, le = np.zeros(96, dtype), ctypes.c_uint()
    getattr(lanes, f"{kind}_ops")(
        *(address(x), address(y), c_real(bound), ctypes.c_uint(chosen), address(out), ctypes.byref(le))
    )
    bits = (chosen >> np.arange(16)) & 1 == 1
    assert le.value == sum(1 << int(i) for i in np.flatnonzero(x <= bound))
    assert same(out[:16], np.where(x < y, x, y))
    assert same(out[16:32], np.where(x > y, x, y))
    assert same(out[32:48], np.where(bits, x, y))
    assert same(out[48:64], np.repeat(x[: 16 // width], width))
    if not np.isnan(x).any():  # the smallest of a vector with NaN is not defined
        assert same(out[64 : 64 + 16 // width], x.reshape(-1, width).min(axis=1))
        four = np.resize(np.concatenate((x, -x, y)), 4 * width)
        getattr(lanes, f"{kind}_four")(address(four), address(out))
        if not np.isnan(y).any():
            assert same(out[:4], four.reshape(4, width).min(axis=1))


def test_a_sum_of_eight_is_added_by_halves(lanes: ctypes.CDLL) -> None:
    a = np.random.default_rng(0).standard_normal(8) * 10.0 ** np.arange(8)
    half = a[:4] + a[4:]
    assert lanes.sum8(address(a)) == (half[0] + half[2]) + (half[1] + half[3])


@pytest.mark.parametrize("count", [1, 5, 16, 4000])
def test_bfloat16_is_rounded_to_nearest_even(lanes: ctypes.CDLL, count: int) -> None:
    import torch

    words = np.random.default_rng(1).integers(0, 2**32, count, dtype=np.uint32)
    special = np.array([0x7F800000, 0xFF800000, 0x7F7FFFFF, 0x7F800001, 0x3F808000, 0x3F818000, 1], np.uint32)
    words[: len(special)] = special[:count]
    x, out, back = words.view(np.float32), np.zeros(count, np.uint16), np.zeros(count, np.float32)
    lanes.bf16(address(x), count, address(out), address(back))
    wanted = torch.from_numpy(x).bfloat16().float().numpy()
    assert same(back, wanted)
    assert np.array_equal(back.view(np.uint32) >> 16, out)


def test_products_of_lower_halves(lanes: ctypes.CDLL) -> None:
    a = np.random.default_rng(2).integers(0, 2**64, 16, dtype=np.uint64)
    out, high = np.zeros(16, np.uint64), np.zeros(16, np.uint64)
    for factor in (1, 0xD2511F53, 0xFFFFFFFF):
        lanes.mul_low(address(a), ctypes.c_uint32(factor), address(out), address(high))
        assert np.array_equal(out, (a & np.uint64(0xFFFFFFFF)) * np.uint64(factor))
        assert np.array_equal(high, a >> np.uint64(32))
