"""Instruction sets that tests choose."""

from __future__ import annotations

import pytest

from minseek.native import available_levels


def use_level(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the kernels of an instruction set; skip the test where the processor has not got it."""
    if level not in available_levels():
        pytest.skip(f"this processor does not have {level}")
    monkeypatch.setenv("MINSEEK_ISA", level)
