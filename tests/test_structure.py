"""The packages of the code and the arrows between them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import minseek

ROOT = Path(minseek.__file__).parent
# The packages that each package may import: only ones below it. Every package may import errors and units.
ARROWS = {
    "cli": {
        "serve",
        "evaluation",
        "batch",
        "tune",
        "protocol",
        "reasoning",
        "engine",
        "models",
        "cache",
        "native",
        "decode",
    },
    "serve": {"protocol", "reasoning", "engine", "models", "decode"},
    "evaluation": {"batch", "protocol", "reasoning", "engine", "models", "cache", "decode"},
    "batch": {"protocol", "reasoning", "engine", "models", "cache", "decode"},
    "protocol": {"reasoning", "engine", "models", "decode"},
    "reasoning": {"engine", "models", "cache", "native", "decode"},
    "engine": {"models", "cache", "native", "decode"},
    "tune": {"models", "lowbit"},
    "models": {"cache", "native", "decode"},
    "cache": {"native"},
    "lowbit": {"native"},
    "cluster": {"native"},
    "native": set(),
    "decode": set(),
}
SHARED = {"errors", "lazy", "units", "__version__", "InputError", "MinseekWarning"}


def imported_packages(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "minseek":
            names = [node.module.split(".")[1]] if "." in node.module else [alias.name for alias in node.names]
            found.update(names)
        elif isinstance(node, ast.Import):
            found.update(a.name.split(".")[1] for a in node.names if a.name.startswith("minseek."))
    return found - SHARED


@pytest.mark.parametrize("package", ARROWS)
def test_arrows_only_point_down(package: str) -> None:
    below = list(ARROWS)[list(ARROWS).index(package) + 1 :]
    assert ARROWS[package] <= set(below)
    for file in (ROOT / package).rglob("*.py"):
        assert imported_packages(file) <= {package, *ARROWS[package]}, file


def test_every_package_is_in_the_list() -> None:
    assert {folder.parent.name for folder in ROOT.glob("*/__init__.py")} <= set(ARROWS)


def test_importing_minseek_imports_nothing_heavy() -> None:
    code = "import sys, minseek, minseek.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "rich", "numpy", "gguf"} & set(done.stdout.split())


def test_every_public_name_is_there_and_documented() -> None:
    for name in minseek.__all__:
        assert getattr(minseek, name).__doc__, name
    assert set(minseek.__all__) <= set(dir(minseek))
    with pytest.raises(AttributeError, match="no attribute 'think_harder'"):
        minseek.think_harder  # noqa: B018
