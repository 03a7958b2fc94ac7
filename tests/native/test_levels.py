"""The tests of all kernels (forward, cluster, lowbit), run at every instruction set that this processor has.

Tests of their own compare the levels with each other: rounding and single moves bit for bit, clusterings label for
label, logits within the rounding of float32 and of bfloat16.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from minseek.native.isa import NAMES, cpu_flags
from tests.helpers.levels import use_level

ROOT = Path(__file__).parents[2]
FILES = (
    *("tests/models/test_forward.py", "tests/models/test_forward_batch.py"),
    *("tests/models/test_packed_matrices.py", "tests/cluster/test_optimality.py", "tests/lowbit/test_rounding.py"),
)
# With C where a test has a choice, without those that choose a level themselves or check the statistics of draws.
CHOICE = (
    "(forward or packed or gfloat or gap or sweep or single_move or every_shape or csr or scikit_learn or sparse) "
    "and not (PyTorch or NumPy or older or few_tokens or piece_by_piece or instruction_sets or kl or itakura)"
)


@pytest.mark.slow
@pytest.mark.parametrize("level", NAMES)
def test_kernels_pass_their_tests_at_every_level(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MINSEEK_NATIVE", raising=False)
    use_level(level, monkeypatch)
    command = (sys.executable, "-m", "pytest", "-v", "-x", "-k", CHOICE, *FILES)
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 60  # type: ignore[index]


@pytest.mark.slow
@pytest.mark.skipif("avx512_bf16" not in cpu_flags(), reason="tiles are emulated in vectors that multiply bfloat16")
def test_what_is_built_on_tiles_passes_its_tests_with_emulated_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MINSEEK_NATIVE", raising=False)
    monkeypatch.delenv("MINSEEK_ISA", raising=False)
    monkeypatch.setenv("MINSEEK_CFLAGS", "-DEMULATE_AMX")
    command = (sys.executable, "-m", "pytest", "-v", "-x", "-k", "bfloat16 or batch", *FILES[:3])
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 5  # type: ignore[index]
