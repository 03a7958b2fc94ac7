"""Every script of examples/ runs, and so does the notebook."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from minseek.models import alias_file
from tests.helpers.markdown import ROOT

_HAS_SMOLLM2 = alias_file("smollm2") is not None
_SCRIPTS = sorted((ROOT / "examples").glob("*.py"))


def _case(script: Path) -> object:
    marks = [pytest.mark.slow]
    if "smollm2" in script.read_text():
        missing = pytest.mark.skipif(not _HAS_SMOLLM2, reason="smollm2 is not here: minseek models --get smollm2")
        marks += [pytest.mark.smollm2, missing]
    return pytest.param(script, id=script.stem, marks=marks)


@pytest.mark.parametrize("script", [_case(script) for script in _SCRIPTS])
def test_the_script_runs(script: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert not list(tmp_path.iterdir()), "it leaves files in the current directory"


@pytest.mark.slow
def test_the_silhouettes_are_drawn_where_a_path_is_given(tmp_path: Path) -> None:
    environment, script = os.environ | {"PYTHONPATH": str(ROOT / "src")}, ROOT / "examples" / "kmeans_certificate.py"
    command = [sys.executable, str(script), "a.svg"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "Iris" in (tmp_path / "a.svg").read_text()


def test_six_scripts_are_listed_on_their_page() -> None:
    page = (ROOT / "docs" / "examples.md").read_text()
    assert len(_SCRIPTS) == 6
    assert all(f"(../examples/{script.name})" in page for script in _SCRIPTS)


@pytest.mark.slow
def test_the_notebook_runs() -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(ROOT / "examples" / "tour.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs for cell in code if "# plot" in cell.source), "run make notebook: outputs are kept"
    nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(ROOT / "examples")}}).execute()
