"""Building kernels: the instruction set they are compiled for, and the structures they share with Python."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from minseek import InputError
from minseek.cli import main
from minseek.native import Kernels, available_levels, check_struct_sizes, loaded
from minseek.native import isa as isa_module

x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="levels of x86-64")
SOURCE = """#include <stdint.h>
typedef struct { int32_t a; double b; } pair;
int64_t sizeof_pair(void) { return sizeof(pair); }
#ifdef __AVX2__
int level(void) { return 3; }
#else
int level(void) { return 1; }
#endif
"""


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernels:
    monkeypatch.delenv("MINSEEK_NATIVE", raising=False)
    monkeypatch.setenv("MINSEEK_CACHE", str(tmp_path / "cache"))
    (tmp_path / "level.c").write_text(SOURCE)
    return Kernels("level", tmp_path, ("level.c",))


@x86
def test_minseek_isa_selects_the_instruction_set_and_another_library(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = {}
    for name in {"portable", "avx2"} & set(available_levels()):
        monkeypatch.setenv("MINSEEK_ISA", name)
        library = loaded(kernels).library
        assert library is not None
        levels[name] = library.level()
    assert levels == {name: {"portable": 1, "avx2": 3}[name] for name in levels}
    assert len(list((kernels.folder / "cache" / "kernels").iterdir())) == len(levels)


@x86
@pytest.mark.parametrize(
    ("isa", "features", "reason"),
    [
        ("avx51", {"avx2"}, "MINSEEK_ISA=avx51 is unknown: use portable, avx2, avx512, avx512bf16 or amx"),
        (
            "avx2",
            {"avx2", "fma", "f16c"},
            "MINSEEK_ISA=avx2 needs bmi2, which this processor does not have: use portable",
        ),
    ],
)
def test_an_instruction_set_that_cannot_be_used_is_an_error(
    isa: str, features: set[str], reason: str, kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINSEEK_ISA", isa)
    monkeypatch.setattr(isa_module, "cpu_flags", lambda: frozenset(features))
    with pytest.raises(InputError) as caught:
        loaded(kernels)
    assert str(caught.value) == reason


@x86
def test_env_names_the_instruction_set(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MINSEEK_ISA", "portable")
    assert main(["env"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "instruction set" in line)
    assert "portable" in row
    assert "MINSEEK_ISA" in row


def test_structures_of_another_size_are_refused(kernels: Kernels) -> None:
    class Pair(ctypes.Structure):
        _fields_ = [("a", ctypes.c_int32), ("b", ctypes.c_double)]

    class Half(ctypes.Structure):
        _fields_ = [("a", ctypes.c_int32)]

    library = loaded(kernels).library
    assert library is not None
    check_struct_sizes(library, {"pair": Pair})
    with pytest.raises(RuntimeError, match="16 bytes in C, 4 in Python"):
        check_struct_sizes(library, {"pair": Half})


@pytest.mark.parametrize("command", [["env"], ["reason", "Why?", "-m", "tiny"]])
def test_the_command_line_refuses_an_unknown_instruction_set_in_one_sentence(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MINSEEK_ISA", "avx51")
    assert main(command) == 2
    assert "MINSEEK_ISA=avx51 is unknown: use" in capsys.readouterr().err


@pytest.mark.parametrize(
    "compute",
    [
        "from minseek.cluster import LOKMeans; LOKMeans(2).fit([[1.0], [2.0], [4.0]])",
        "import torch; from minseek.lowbit import bf16, round_to; round_to(torch.ones(3), bf16)",
        "import minseek; minseek.load('tiny', device='cpu')",
    ],
)
def test_every_user_of_kernels_refuses_it(compute: str) -> None:
    code = f"try:\n    {compute}\nexcept ValueError as error:\n    print(error)"
    environment = os.environ | {"MINSEEK_ISA": "avx51"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.startswith("MINSEEK_ISA=avx51 is unknown: use")
    assert "Traceback" not in done.stderr
