"""Machine code of the innermost loops: sums stay in registers, at every width."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from minseek.cluster.build import KERNELS
from minseek.native.isa import level_flags

pytestmark = [
    pytest.mark.skipif(not (shutil.which("objdump") and shutil.which("gcc")), reason="needs gcc and objdump"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="machine code of x86-64"),
]
Instruction = tuple[int, str]


def instructions_of(library: Path, function: str) -> list[Instruction]:
    """Addresses and texts of a function's instructions."""
    command = ["objdump", "-d", "--no-show-raw-insn", f"--disassemble={function}", str(library)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [(int(at, 16), text) for at, text in re.findall(r"^\s+([0-9a-f]+):\s+(.+)$", listing, re.MULTILINE)]


def innermost_loops(code: list[Instruction]) -> list[list[str]]:
    """Bodies of the loops that hold no other: from a jump back to where it leads."""
    jumps = [(int(m[1], 16), at) for at, text in code if (m := re.match(r"j\w+\s+([0-9a-f]+)", text))]
    back = [(first, last) for first, last in jumps if code[0][0] <= first < last]
    inner = [loop for loop in back if not any(o != loop and loop[0] <= o[0] and o[1] <= loop[1] for o in back)]
    return [[text for at, text in code if first <= at <= last] for first, last in inner]


@pytest.mark.parametrize("double", [False, True], ids=["float32", "float64"])
@pytest.mark.parametrize("level", ["avx2", "avx512", "amx"])
def test_loops_over_features_touch_no_stack(level: str, double: bool, tmp_path: Path) -> None:
    """Distances of a tile of packs, and of one pack; compiled for processors that need not be here."""
    library = tmp_path / "cluster.so"
    subprocess.run(KERNELS[False, double].command("gcc", level_flags(level), library), check=True)
    loops = innermost_loops(instructions_of(library, "inspect_packs"))
    sums = [body for body in loops if 8 * sum("fmadd" in text for text in body) >= len(body)]  # not those around them
    assert len(sums) >= 2
    register = "%ymm" if level == "avx2" else "%zmm"
    for body in sums:
        assert any(register in text for text in body)
        assert not [text for text in body if re.search(r"\(%r[sb]p[,)]", text)]


def test_an_innermost_loop_is_found() -> None:
    code = [(0, "nop"), (1, "mov"), (2, "add"), (3, "jne 2 <f+2>"), (4, "jne 1 <f+1>"), (5, "jmp 6 <f+6>"), (6, "ret")]
    assert innermost_loops(code) == [["add", "jne 2 <f+2>"]]
