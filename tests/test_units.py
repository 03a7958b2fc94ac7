"""Sizes in bytes, read and written."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minseek import InputError
from minseek.units import format_bytes, parse_bytes, size_to_give

UNITS = (
    {"": 1, "B": 1}
    | {f"{p}B": 1000**n for n, p in enumerate("KMGT", 1)}
    | {f"{p}iB": 1024**n for n, p in enumerate("KMGT", 1)}
)
SIZES = st.integers(1, 10**15) | st.integers(0, 49).map(lambda bits: 2**bits)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("192MB", 192 * 10**6),
        ("192MiB", 192 * 2**20),
        ("16 kb", 16_000),
        (" 1.5 GiB\n", 3 * 2**29),
        ("0.5KB", 500),
        ("1.001KB", 1001),
        ("4.35 MB", 4_350_000),
        ("1.9999KB", 1999),  # a budget is never exceeded
        ("9007199254740993", 2**53 + 1),
        ("2TB", 2 * 10**12),
        ("1tib", 2**40),
    ],
)
def test_a_size_means_what_it_says(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@given(st.integers(1, 10**18))
def test_an_integer_is_that_many_bytes_also_as_text(size: int) -> None:
    assert parse_bytes(size) == size
    assert parse_bytes(str(size)) == size


@given(
    st.integers(1, 10**7),
    st.integers(0, 10**4),
    st.sampled_from(sorted(UNITS)),
    st.sampled_from([str, str.lower, str.upper]),
    st.sampled_from(["", " ", "  "]),
)
def test_every_unit_is_read_exactly_in_any_case(whole: int, decimals: int, unit: str, case: Any, space: str) -> None:
    number = f"{whole}.{decimals}"
    assert parse_bytes(f"{space}{number}{space}{case(unit)}{space}") == int(Fraction(number) * UNITS[unit])


WRONG = [
    "",
    " ",
    "MB",
    "-1",
    "-5MB",
    "+5",
    "1e3",
    "1_000",
    "1,5GB",
    ".5MB",
    "1.",
    "1.5.2",
    "5 M B",
    "12XB",
    "12M",
    "nan",
    "inf",
]


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_size_is_an_input_error_that_names_it(text: str) -> None:
    with pytest.raises(InputError, match=re.escape(repr(text))):
        parse_bytes(text)


@pytest.mark.parametrize("size", [0, -1, -(10**12), "0", "0 MB", "0.0GiB", "0.4", "0.0004KB"])
def test_a_size_below_one_byte_is_an_input_error_that_names_it(size: int | str) -> None:
    with pytest.raises(InputError, match=rf"positive.*{re.escape(str(size))}"):
        parse_bytes(size)


@pytest.mark.parametrize("size", [None, 1.5, 1e6, True, False, b"1MB", ["1MB"]])
def test_what_is_neither_integer_nor_string_is_a_type_error(size: Any) -> None:
    with pytest.raises(TypeError, match=re.escape(f"not {size!r}")):
        parse_bytes(size)


@given(st.text(max_size=12) | st.from_regex(r"\s?[0-9.]{1,6} ?[kmgtKMGT]?i?[bB]?", fullmatch=True))
@example("9" * 400)
@example("9" * 5000)
@example("1." + "0" * 5000 + "KB")
@settings(deadline=None)
def test_any_text_is_a_positive_size_or_an_input_error(text: str) -> None:
    try:
        size = parse_bytes(text)
    except InputError:
        return
    assert type(size) is int
    assert size > 0


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (1000, "1.00 KB"),
        (1004, "1.00 KB"),
        (9990, "9.99 KB"),
        (9996, "10.0 KB"),
        (16_100_000, "16.1 MB"),
        (99_940, "99.9 KB"),
        (99_960, "100 KB"),
        (999_499, "999 KB"),
        (999_500, "1.00 MB"),
        (999_499_999, "999 MB"),
        (999_500_000, "1.00 GB"),
        (2**30, "1.07 GB"),
        (5 * 10**12, "5.00 TB"),
        (2 * 10**16, "20000 TB"),
    ],
)
def test_a_size_is_written_with_three_digits(size: int, text: str) -> None:
    assert format_bytes(size) == text


@given(SIZES)
def test_what_is_written_can_be_read_and_is_at_most_half_a_percent_off(size: int) -> None:
    text = format_bytes(size)
    assert re.fullmatch(r"(\d{1,3} B|(\d\.\d\d|\d\d\.\d|\d{3}) [KMG]B|(\d\.\d\d|\d\d\.\d|\d{3,}) TB)", text)
    assert abs(parse_bytes(text) - size) <= size * 0.00501
    assert format_bytes(parse_bytes(text)) == text


@given(st.integers(100, 999), st.sampled_from(["KB", "MB", "GB", "TB"]), st.integers(0, 2))
def test_three_digits_survive_the_round_trip_exactly(digits: int, unit: str, decimals: int) -> None:
    size = digits * UNITS[unit] // 10**decimals
    assert parse_bytes(format_bytes(size)) == size


@given(SIZES, SIZES)
def test_a_larger_size_is_not_written_as_a_smaller_one(one: int, other: int) -> None:
    small, large = sorted((one, other))
    assert parse_bytes(format_bytes(small)) <= parse_bytes(format_bytes(large))


@given(SIZES)
def test_a_size_to_give_is_enough_and_hardly_more(size: int) -> None:
    text = size_to_give(size)
    assert re.fullmatch(r"\d[\d.]{0,5}[KMGT]?B", text) or size >= 10**15
    assert size <= parse_bytes(text) <= size * 1.01


def test_sizes_to_give() -> None:
    assert [size_to_give(size) for size in (1, 999, 1000, 1001, 79_872, 999_999)] == [
        *("1B", "999B", "1.00KB", "1.01KB", "79.9KB", "1000KB")
    ]
