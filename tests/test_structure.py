"""Packages of the code, the arrows between them, and circles of files."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import minseek

ROOT = Path(minseek.__file__).parent
# The packages that each package may import, all of them below it. Every package may import the modules of SHARED.
ARROWS = {
    "cli": {
        *("serve", "evaluation", "batch", "tune", "protocol", "reasoning", "engine", "models", "cache", "quant"),
        *("native", "decode"),
    },
    "serve": {"protocol", "reasoning", "engine", "models", "decode"},
    "evaluation": {"batch", "protocol", "reasoning", "engine", "models", "cache", "decode"},
    "batch": {"protocol", "reasoning", "engine", "models", "cache", "decode"},
    "tune": {"models", "lowbit"},
    "protocol": {"reasoning", "engine", "models", "decode"},
    "reasoning": {"engine", "models", "cache", "decode"},
    "engine": {"models", "cache", "native", "decode"},
    "models": {"cache", "quant", "native", "decode"},
    "cache": {"native"},
    "quant": {"cluster", "native"},
    "lowbit": {"native"},
    "cluster": {"native"},
    "native": set(),
    "decode": set(),
}
SHARED = {"errors", "files", "lazy", "signals", "units", "__version__", "InputError", "MinseekWarning"}


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
    packages = {folder.parent.name for folder in ROOT.glob("*/__init__.py")}
    assert packages == set(ARROWS)


def test_quant_imports_cluster_inside_functions_only() -> None:
    for file in (ROOT / "quant").rglob("*.py"):
        assert not any(name.startswith("minseek.cluster") for name in imported_modules(file, at_load=True)), file


def test_no_file_imports_itself_in_a_circle() -> None:
    """Over all imports, those inside functions and under TYPE_CHECKING too.

    A package's `__init__` that imports its public names is the package's face: importing a name from it counts as an
    import of the file that defines the name.
    """
    files = {module_of(file): file for file in ROOT.rglob("*.py")}
    graph = {module: imported_modules(file) & files.keys() - {module} for module, file in files.items()}
    assert not circles(graph)


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [{"b", "c"}]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def module_of(file: Path) -> str:
    parts = ("minseek", *file.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(file: Path, at_load: bool = False) -> set[str]:
    """Modules of minseek that a file imports; `at_load`: those at its top level alone, without TYPE_CHECKING."""
    tree, found = ast.parse(file.read_text()), set[str]()
    nodes = iter(tree.body) if at_load else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name.startswith("minseek"))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "minseek":
            found.update(defining_module(node.module, alias.name) for alias in node.names)
    return found


@cache
def defining_module(module: str, name: str) -> str:
    """The module that a name imported from `module` comes from: a submodule, or through the package's `__init__`."""
    folder = ROOT.parent.joinpath(*module.split("."))
    if (folder / name).is_dir() or (folder / f"{name}.py").exists():
        return f"{module}.{name}"
    if (folder / "__init__.py").exists():
        for node in ast.walk(ast.parse((folder / "__init__.py").read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and name in {alias.name for alias in node.names}:
                return defining_module(node.module, name)
    return module


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Sets of modules that all reach each other."""
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen, waiting = set[str](), list(graph[start])
        while waiting:
            module = waiting.pop()
            if module not in seen:
                seen.add(module)
                waiting += graph[module]
        reach[start] = seen
    found: list[set[str]] = []
    for module, seen in reach.items():
        together = {other for other in seen if module in reach[other]}
        if module in seen and together not in found:
            found.append(together)
    return found


def test_importing_minseek_imports_nothing_heavy() -> None:
    code = "import sys, minseek, minseek.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "rich", "numpy", "gguf"} & set(done.stdout.split())


def test_importing_cluster_imports_no_torch() -> None:
    code = "import sys, minseek.cluster; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers"} & set(done.stdout.split())
    for file in (ROOT / "cluster").rglob("*.py"):
        assert not re.search(r"^\s*(import|from) torch\b", file.read_text(), re.MULTILINE), file


def test_every_public_name_is_there_and_documented() -> None:
    for name in minseek.__all__:
        assert getattr(minseek, name).__doc__, name
    assert set(minseek.__all__) <= set(dir(minseek))
    with pytest.raises(AttributeError, match="no attribute 'think_harder'"):
        minseek.think_harder  # noqa: B018


C_FILES = sorted(file for ending in ("*.c", "*.h") for file in ROOT.rglob(ending))
FUNCTION = re.compile(r"^[A-Za-z_][\w *]*?\b(\w+)\(([^;{}()]*(?:\([^()]*\)[^;{}()]*)*)\)\s*\{", re.MULTILINE)


@pytest.mark.parametrize("file", C_FILES, ids=lambda file: file.name)
def test_c_has_lines_of_120_columns_and_at_most_eight_parameters(file: Path) -> None:
    text = file.read_text()
    assert not [line for line in text.splitlines() if len(line) > 120]
    assert not [name for name, parameters in FUNCTION.findall(text) if parameters.count(",") > 7]
